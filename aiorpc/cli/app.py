"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..exceptions import AioRpcError
from .commands.bench import bench
from .commands.call import call
from .commands.ls import ls
from .commands.new import new
from .commands.run import run
from .commands.shell import shell
from .commands.show_config import show_config
from .exit_codes import ExitCode
from .failures import report
from .loading import UserCodeFailed
from .options import DEBUG, Debug
from .output import print_error

__all__ = ["app"]

#: What typer raises for a wrong command line; of its classes only a subclass is public.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class _PlainEpilog:
    """Prints the epilog as it was written: typer would join, or mark up, its lines."""

    epilog: str | None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        epilog, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)  # type: ignore[misc]  # a mixin, for two classes
        finally:
            self.epilog = epilog
        if epilog:
            typer.echo(epilog)


class Command(_PlainEpilog, TyperCommand):
    """One command."""


class CommandLine(_PlainEpilog, TyperGroup):
    """All commands: one line on stderr and an exit code in place of a traceback or a box."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        options = {"prog_name": "aiorpc", **options, "standalone_mode": False}
        try:
            status = super().main(*args, **options)
        except UsageError as error:
            print_error(_of_usage(error))
            status = ExitCode.WRONG
        except typer.Abort:
            status = ExitCode.INTERRUPTED
        raise SystemExit(status or ExitCode.OK)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (AioRpcError, UserCodeFailed) as error:
            raise typer.Exit(report(error, debug=DEBUG in ctx.meta)) from None


def _of_usage(error: Any) -> str:
    command = error.ctx.command_path if error.ctx is not None else "aiorpc"
    return f"{error.format_message()} Try '{command} --help'."


app = typer.Typer(
    name="aiorpc",
    cls=CommandLine,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aiorpc {__version__}")
        raise typer.Exit


EXIT_CODES = """\
Exit codes:
    0  it went well
    1  the method raised; a service failed, or its calls took too long to stop
    2  the command, the configuration, the credentials or the call are wrong
    3  no such service, or nobody consumes its queue
    4  no answer within the timeout
    5  the broker cannot be reached, or the connection was lost
  130  Ctrl-C"""


@app.callback(
    invoke_without_command=True,
    epilog=f"""\
Examples:
  $ aiorpc new greetings
  $ aiorpc run greetings --config config.yaml
  $ aiorpc call greetings.hello '["Ada"]'

{EXIT_CODES}""",
)
def main(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Show the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Microservices on asyncio and RabbitMQ: make, run and call them, look at them."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(ExitCode.WRONG)


_EXAMPLES: dict[Callable[..., None], str] = {
    run: """
  $ aiorpc run services.service_x services.service_y
  $ aiorpc run shop.orders:Orders --config config.yaml --define max_workers=10
  $ aiorpc run greetings --reload""",
    call: """
  $ aiorpc call service_x.remote_method '["hello"]'
  $ aiorpc call orders.place '{"product": "tea", "pieces": 2}' --timeout 3
  $ aiorpc call users.get '[42]' --context language=fi --broker amqp://host/""",
    shell: """
  $ aiorpc shell --broker amqp://guest:guest@localhost/
  $ echo 'print(await n.rpc.service_x.remote_method("hello"))' | aiorpc shell""",
    ls: """
  $ aiorpc ls
  $ aiorpc ls service_x service_y && echo both are there
  $ aiorpc ls --json | jq '.[] | select(.waiting > 100)'""",
    bench: """
  $ aiorpc bench service_x.remote_method '["hello"]'
  $ aiorpc bench orders.price '[42]' --in-flight 100 --duration 30
  $ aiorpc bench orders.price '[42]' --rate 200 --json | jq .latency_ms.p99""",
    show_config: """
  $ aiorpc show-config --config config.yaml
  $ aiorpc show-config --defaults""",
    new: """
  $ aiorpc new greetings && cd greetings && pytest""",
}

for _command, _examples in _EXAMPLES.items():
    _with_codes = f"\n\n{EXIT_CODES}" if _command is call else ""
    app.command(
        _command.__name__.replace("_", "-"),
        cls=Command,
        epilog="Examples:" + _examples + _with_codes,
    )(_command)

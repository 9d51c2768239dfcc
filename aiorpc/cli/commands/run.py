"""``aiorpc run``: host services in this process until a signal says stop."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import DEBUG, Broker, ConfigFile, Debug, Define
from ..serving import run_services

__all__ = ["run"]


def run(
    ctx: typer.Context,
    modules: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE[:CLASS]",
            help="Modules to look for services in, imported as from the current directory; with "
            "a class, just that one.",
            show_default=False,
        ),
    ],
    config: ConfigFile = None,
    define: Define = None,
    broker: Broker = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start again whenever a source file changes.")
    ] = False,
    debug: Debug = False,
) -> None:
    """
    Run services until SIGTERM or Ctrl-C; then finish the calls in hand, and stop.

    It waits for the broker if that is not there yet. Calls that are not finished
    within SHUTDOWN_TIMEOUT (25 s) go back to their queues, and the exit code is
    1. A second signal ends it at once.
    """
    debug = DEBUG in ctx.meta  # it may stand before `run`, too
    if reload:
        from ..reload import run_reloading

        raise typer.Exit(run_reloading(modules, config, define, broker, debug))
    raise typer.Exit(run_services(modules, config, define, broker, debug))

"""
``aiorpc top``: shows what services do now, per method: rates, durations, errors, queues.

Asks the services with discovery messages, and the broker about their queues. Imports rich to draw.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress

from ...config import Settings
from ...exceptions import ConfigurationError, ConnectionLost
from ...hosting.discovery.asking import asking
from ...hosting.discovery.live_view import View, view_of
from ...hosting.discovery.shapes import Question, Stacks
from ...hosting.discovery.watching import Watch
from ...logs import one_line
from ...transports import open_transport
from ..calls import CONNECT_TIMEOUT
from ..output import ExitCode, print_error, print_json, print_note
from ..parser import Parser, add_settings, at_least_one, number, settings_for_server

__all__ = ["configure", "execute"]

#: The longest interval between two refreshes: services keep durations for twice as long.
LONGEST = 30.0

ARGUMENTS = "[SERVICE ...]"

DESCRIPTION = """\
Each line is a method, with the calls of all instances since the last refresh.
The times are those of running methods, without the wait for a worker. On a
terminal, the table is refreshed in place; Ctrl-C ends it."""

EXAMPLES = """\
  $ aiorpc top
  $ aiorpc top orders --interval 5
  $ aiorpc top --json | jq '.methods[] | select(.queue > 100)'
  $ aiorpc top --stacks orders
"""


def configure(parser: Parser) -> None:
    text = "Services of aiorpc to show. (default: all that answer)"
    parser.add_argument("services", metavar="SERVICE", nargs="*", help=text)
    interval = "Seconds between two refreshes. (default: 2)"
    parser.option("--interval -i SECONDS", interval, type=number(0.1, LONGEST), default=2.0)
    count = "Refreshes to show. (default: until Ctrl-C)"
    parser.option("--count -n N", count, type=at_least_one)
    wait = "Seconds to wait for answers. (default: 0.5)"
    parser.option("--wait SECONDS", wait, type=number(0.01, LONGEST), default=0.5)
    stacks = "Show the running calls of SERVICE once: ids, ages, arguments, stacks."
    parser.option("--stacks SERVICE", stacks)
    parser.option("--json", "Print JSON, one line for each refresh.")
    add_settings(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Show what the services do, and return the exit status."""
    settings = settings_for_server(arguments, "top")
    if arguments.stacks is not None:
        if arguments.services:
            raise ConfigurationError("--stacks names the one service to show: leave out SERVICE")
        found = asyncio.run(_stacks_of(settings, arguments.stacks, arguments.wait))
        return _print_stacks(found, arguments.stacks, as_json=arguments.json)
    try:
        asyncio.run(_show(settings, arguments))
    except KeyboardInterrupt:
        return ExitCode.OK
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    return ExitCode.OK


async def _show(settings: Settings, arguments: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError, ValueError, RuntimeError):  # Windows, or another thread
        # Without a handler, SIGTERM would leave the terminal without a cursor.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    interval, wait = arguments.interval, min(arguments.wait, arguments.interval)
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(
            aclosing(open_transport(settings, name="aiorpc top"))
        )
        await transport.start(CONNECT_TIMEOUT)
        asker = await stack.enter_async_context(asking(transport))
        watch = Watch(transport, asker, arguments.services, wait)
        show = stack.enter_context(_screen(interval, as_json=arguments.json))
        with suppress(ConnectionLost):  # the next look shows it
            await watch.look()  # rates need an earlier answer
        for _ in itertools.count() if arguments.count is None else range(arguments.count):
            await asyncio.sleep(interval - wait)
            try:
                view = await watch.look()
            except ConnectionLost as error:  # it may come back
                view = view_of([], {}, {}, transport.url)
                view.trouble = str(error)
            show(view)


@contextmanager
def _screen(interval: float, *, as_json: bool) -> Generator[Callable[[View], None]]:
    """Yield a function that shows a view: as JSON, in place on a terminal, or as a table."""
    if as_json:
        yield print_json
        return
    from ..live_table import printed, refreshed

    if sys.stdout.isatty():
        with refreshed(interval) as show:
            yield show
    else:
        yield printed


async def _stacks_of(settings: Settings, service: str, wait: float) -> list[Stacks]:
    async with aclosing(open_transport(settings, name="aiorpc top")) as transport:
        await transport.start(CONNECT_TIMEOUT)
        async with asking(transport) as asker:
            answers = await asker.ask(Question.STACKS, wait, service)
    return [each for each in answers if isinstance(each, Stacks)]


def _print_stacks(found: Sequence[Stacks], service: str, *, as_json: bool) -> int:
    permitted = [each for each in found if each.permitted]
    if as_json:
        print_json(permitted)
    for answer in permitted if not as_json else ():
        print("\n".join(_lines_of(answer)))
    for answer in found:
        if not answer.permitted:
            print_note(
                f"{answer.name} in {answer.process} does not show its calls: set DISCOVERY_STACKS: "
                "true in its configuration"
            )
    if not found:
        print_error(f"no instance of {service} answered: see `aiorpc ls`, or raise --wait")
    if permitted:
        return ExitCode.OK
    return ExitCode.WRONG if found else ExitCode.NO_SERVICE


def _lines_of(answer: Stacks) -> Generator[str]:
    number = len(answer.calls) + answer.left_out
    yield one_line(f"{answer.name} in {answer.process} (id {answer.id}): {number} call(s)")
    for doing in answer.calls:
        arguments = ", ".join(f"{name}={value}" for name, value in doing.arguments.items())
        age = "" if doing.state == "waiting" else f" for {doing.seconds:.1f} s"
        yield one_line(f"  {doing.call_id} {doing.state}{age}: {doing.method}({arguments})")
        for line in doing.stack:
            yield one_line(f"    {line}")
    if answer.left_out:
        yield f"  ... and {answer.left_out} more"

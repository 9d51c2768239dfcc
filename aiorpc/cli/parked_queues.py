"""
What the commands of ``aiorpc parked`` share: their options, the connection, the queues, the
question before something that cannot be undone, and the report after it.

Connects to the broker and to the management API; reads the terminal; handles signals.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from functools import partial

import msgspec

from ..config import Settings
from ..exceptions import ConfigurationError, ConnectionLost
from ..logs import counted, one_line
from ..management import ListedQueue, Management
from ..parked.messages import Selection
from ..parked.queues import FoundQueues, ParkedQueue, find_queues
from ..parked.settling import INTERRUPTED, Settled, Settling
from ..transports import open_transport
from ..transports.base import Transport
from .calls import CONNECT_TIMEOUT
from .output import ExitCode, print_json, print_note
from .parser import Parser, add_settings, number, settings_for_server

__all__ = [
    "add_connection",
    "add_selection",
    "add_settling",
    "agreed",
    "connected",
    "find",
    "find_some",
    "interruptible",
    "selection_of",
    "settle",
]

#: Failures that are listed one by one.
MOST_FAILURES = 20


# --- the options


def add_connection(parser: Parser) -> None:
    """Add the options that :func:`find` and :func:`connected` read."""
    parser.option("--yes -y", "Do not ask.")
    wait = "Seconds to wait for the answers of services. (default: 0.5)"
    parser.option("--wait SECONDS", wait, type=number(0.01, 3600), default=0.5)
    management = (
        "RabbitMQ's management API, which lists all queues: http://user:password@host:15672"
    )
    parser.option("--management URL", management)
    parser.option("--json", "Print JSON, for programs.")
    add_settings(parser)


def add_selection(parser: Parser) -> None:
    """Add the options that :func:`selection_of` reads."""
    method = "Only messages of this method, such as mailer.send; * stands for anything."
    error = "Only messages with this type of error, or with this text in their reason."
    parser.option("--method METHOD", method)
    parser.option("--error ERROR", error)


def add_settling(parser: Parser, verb: str) -> None:
    """Add the arguments that :func:`settle` reads, for the command *verb*."""
    parser.add_argument("queue", metavar="QUEUE", help="The queue of the messages.")
    parser.add_argument("messages", metavar="MESSAGE", nargs="*", help=f"Messages to {verb}.")
    add_selection(parser)
    parser.option("--all", f"{verb.capitalize()} all messages of the queue.")
    parser.option("--dry-run -n", f"Only count the messages that it would {verb}.")
    add_connection(parser)


def selection_of(arguments: argparse.Namespace) -> Selection:
    """Return the messages that *arguments* ask for."""
    return Selection(
        names=tuple(arguments.messages), method=arguments.method, error=arguments.error
    )


def _wanted_of(arguments: argparse.Namespace) -> Selection:
    """
    Return the messages that *arguments* ask for.

    Raises:
        ConfigurationError: they do not say which, or say two things.
    """
    wanted = selection_of(arguments)
    if wanted.is_all and not arguments.all:
        raise ConfigurationError("say which messages: MESSAGE, --method, --error, or --all")
    if arguments.all and not wanted.is_all:
        raise ConfigurationError(
            "--all selects all messages: leave out --all, or MESSAGE, --method and --error"
        )
    return wanted


# --- the connection and the queues


def _settings_of(arguments: argparse.Namespace, command: str) -> Settings:
    """Read the settings once, because it prints notes."""
    if "settings" not in arguments:
        arguments.settings = settings_for_server(arguments, f"parked {command}")
    settings: Settings = arguments.settings
    return settings


@asynccontextmanager
async def connected(arguments: argparse.Namespace, command: str) -> AsyncGenerator[Transport]:
    """
    Connect to the broker.

    Raises:
        ConnectionLost, ConfigurationError: the broker is down, or refuses the connection.
    """
    settings = _settings_of(arguments, command)
    # A message of any size may be parked, and the broker has its own limit.
    unlimited = msgspec.structs.replace(settings, max_message_size=None)
    async with aclosing(open_transport(unlimited, name=f"aiorpc parked {command}")) as transport:
        await transport.start(CONNECT_TIMEOUT)
        yield transport


def find(arguments: argparse.Namespace, command: str, names: Sequence[str]) -> FoundQueues:
    """
    Return the parked queues that *names* name, or all.

    The connection closes before the command asks the user anything.

    Raises:
        ConnectionLost, ConfigurationError: the broker is down, or does not answer.
    """

    async def asked() -> FoundQueues:
        listed = await _listed(arguments, command)
        async with connected(arguments, command) as transport:
            try:
                async with asyncio.timeout(arguments.wait + 10 * CONNECT_TIMEOUT):
                    return await find_queues(transport, names, arguments.wait, listed)
            except TimeoutError:
                raise ConnectionLost(f"{transport.url} did not describe its queues") from None

    found = asyncio.run(asked())
    for queue in found.queues:
        if queue.note:
            print_note(queue.note)
    return found


async def _listed(arguments: argparse.Namespace, command: str) -> dict[str, ListedQueue] | None:
    """Return all queues of the virtual host, if there is a management API to ask."""
    if arguments.management is None:
        return None
    settings = _settings_of(arguments, command)
    management = Management(arguments.management, settings)
    queues = await management.queues(settings.broker_urls[0].vhost)
    return {queue.name: queue for queue in queues}


def find_some(arguments: argparse.Namespace, command: str, *, one: bool) -> list[ParkedQueue]:
    """
    Return the parked queues that the argument QUEUE names.

    Args:
        one: whether the command needs a single queue.

    Raises:
        ConfigurationError: no queue fits, or several fit and the command needs *one*.
    """
    name = arguments.queue
    found = find(arguments, command, [name])
    if not found.queues:
        why = f" ({found.incomplete})" if found.incomplete else ""
        raise ConfigurationError(
            f"there is no parked queue {name!r}{why}: `aiorpc parked ls` lists them. It exists "
            "from the first parked message on"
        )
    if one and len(found.queues) > 1:
        several = ", ".join(queue.name for queue in found.queues)
        raise ConfigurationError(
            f"a message is in one queue, and {name!r} fits several: name one of {several}"
        )
    return found.queues


# --- questions and signals


def agreed(arguments: argparse.Namespace, question: str) -> bool:
    """
    Return whether the user agrees; with ``--yes``, without a question.

    Raises:
        ConfigurationError: nobody can be asked.
    """
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} Nobody can be asked here: add --yes to agree")
    print(f"{one_line(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Call *stop* at the first Ctrl-C or SIGTERM. The second one ends the command at once."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def restore() -> None:
        with suppress(NotImplementedError, ValueError, RuntimeError):
            for each in signals:
                loop.remove_signal_handler(each)

    def on_signal() -> None:
        restore()
        print_note("ending after the messages that are on their way; repeat it to end at once")
        stop()

    with suppress(NotImplementedError, ValueError, RuntimeError):
        for each in signals:
            loop.add_signal_handler(each, on_signal)
    try:
        yield
    finally:
        restore()


# --- replay and purge


def _hidden(work: Settling, messages: int) -> AbstractContextManager[None]:
    return nullcontext()


def settle(
    arguments: argparse.Namespace,
    command: str,
    verb: str,
    made: Callable[..., Settling],
    *,
    question: Callable[[Selection, Sequence[ParkedQueue]], str] | None = None,
    shown: Callable[[Settling, int], AbstractContextManager[None]] = _hidden,
) -> ExitCode:
    """
    Replay or purge the messages that *arguments* ask for, until a signal or the loss of the
    connection. Report what happened to them, and return the exit status.

    Args:
        verb: what happens to a message: ``replayed``.
        made: returns the work for one queue: :class:`Purge` or :class:`Replay`, with its options.
        question: returns what to ask before messages change; ``None``: nothing.
        shown: shows the progress for one queue, of which it reads so many messages at most.

    Raises:
        ConfigurationError, ConnectionLost: see :func:`find_some` and :func:`connected`; or the
            arguments do not say which messages; or nobody can be asked.
    """
    wanted = _wanted_of(arguments)
    queues = find_some(arguments, command, one=bool(arguments.messages))
    asked = " ".join(queue.cost for queue in queues).strip()  # a dry run looks too
    if question is not None and not arguments.dry_run:
        asked = f"{asked} {question(wanted, queues)}".strip()
    elif asked:
        asked = f"{asked} Go on?"
    if asked and not agreed(arguments, asked):
        print_note(f"nothing is {verb}")
        return ExitCode.OK
    settled = asyncio.run(_settled(arguments, command, queues, partial(made, wanted=wanted), shown))
    return _report(arguments, settled, verb)


async def _settled(
    arguments: argparse.Namespace,
    command: str,
    queues: Sequence[ParkedQueue],
    made: Callable[[Transport, str], Settling],
    shown: Callable[[Settling, int], AbstractContextManager[None]],
) -> list[Settled]:
    """Settle messages of one queue after the other, until a signal or a lost connection."""
    settled: list[Settled] = []
    async with connected(arguments, command) as transport:
        for queue in queues:
            work = made(transport, queue.name)
            try:
                with interruptible(work.stop), shown(work, queue.messages):
                    settled.append(await work.run())
            except ConfigurationError as error:
                if len(queues) == 1:
                    raise
                work.settled.ended = str(error)  # of this queue only
                settled.append(work.settled)
                continue
            if settled[-1].ended:
                break
    return settled


def _report(arguments: argparse.Namespace, settled: Sequence[Settled], verb: str) -> ExitCode:
    """Print what happened to the messages, and return the exit status."""
    if arguments.json:
        print_json(settled)
    verb = f"would be {verb}" if arguments.dry_run else verb
    for each in settled:
        if not arguments.json:
            done = f"{each.done:,} of {counted(each.wanted, 'message')} {verb}"
            print(f"{one_line(each.queue)}: {done}", flush=True)
            for place, number in each.to.items():
                print(f"  {number:,} to {one_line(place)}", flush=True)
        _note_rest(each, gone=0 if arguments.dry_run else each.done)
    if any(each.ended == INTERRUPTED for each in settled):
        return ExitCode.INTERRUPTED
    is_whole = not any(each.failed or each.missing or each.ended for each in settled)
    return ExitCode.OK if is_whole else ExitCode.FAILED


def _note_rest(settled: Settled, gone: int) -> None:
    """Print why messages stay, after *gone* have left the queue."""
    for failure in settled.failed[:MOST_FAILURES]:
        reason = one_line(" ".join(failure.reason.split()), 500)
        print_note(f"message {failure.position} ({failure.id}) stays: {reason}")
    if len(settled.failed) > MOST_FAILURES:
        print_note(f"{len(settled.failed) - MOST_FAILURES:,} more stay; --json lists all")
    for name in settled.missing:
        print_note(f"no message {name}: `aiorpc parked ls --messages` lists them")
    came = settled.left - settled.messages + gone
    if came > 0 and settled.done == settled.messages:
        more = counted(came, "message")
        print_note(f"{more} arrived in {settled.queue} during the command, and stay there")
    if settled.ended:
        print_note(f"the rest was not tried: {settled.ended}. Repeat the command")

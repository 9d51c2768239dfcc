"""``aiorpc ls``: which services are there, how many consume their queues, and what waits there."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from ...config import Settings
from ...exceptions import ConfigurationError, ConnectionLost
from ...hosting.discovery import Instance, discover
from ...transports import open_transport
from ...transports.base import State, Transport
from ...wire.names import LONGEST_NAME, rpc_queue_name
from ..exit_codes import ExitCode
from ..options import Broker, ConfigFile, Debug, Define, finite
from ..output import print_json, print_note
from ..settings import require_server, settings_of
from .call import CONNECT_TIMEOUT

__all__ = ["ls"]

#: Seconds that the broker may take to tell of one queue, and of all those that it keeps us waiting
#: for.
LOOK, LOOKS = 2.0, 6.0


class Listed(msgspec.Struct, omit_defaults=True):
    """
    A queue of a service. ``consumers`` and ``waiting`` are ``None`` if there is no such queue;
    ``queue`` is ``None`` for what no queue fires, such as timers. ``untold``: the broker does not
    say whether there is one, such as of a queue that another connection has for itself.
    """

    service: str
    queue: str | None
    consumers: int | None
    waiting: int | None
    methods: list[str]
    processes: list[str]
    untold: bool = False

    @property
    def consumed(self) -> bool:
        """Whether somebody consumes it, as far as anybody says."""
        return bool(self.processes if self.untold else self.consumers)


def ls(
    services: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SERVICE",
            help="Look at these, of Nameko or of aiorpc. Without any: ask which services of "
            "aiorpc are there.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0.01,
            max=3600,
            callback=finite,
            help="Wait for answers so long.",
        ),
    ] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    config: ConfigFile = None,
    define: Define = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """
    List services: their queues, how many consume them, how many messages wait.

    The exit code is 3 if a service that was named has no queue, or nobody
    consumes it.
    """
    settings = settings_of(config, define, broker)
    require_server(settings, "ls")
    for name in services or ():
        _check_name(name)
    logging.getLogger("aiorpc").setLevel(logging.CRITICAL)
    listed = asyncio.run(list_services(settings, services or (), wait))
    if as_json:
        print_json(listed)
    elif listed:
        _print_table(listed)
    else:
        print_note(
            f"no service of aiorpc answered within {wait:g} s; those of Nameko do not answer, and "
            "are found by name: aiorpc ls NAME"
        )
    if services and not all(each.consumed for each in listed if each.queue):
        raise typer.Exit(ExitCode.NO_SERVICE)


def _check_name(service: str) -> None:
    """Raise ``ConfigurationError`` where no queue can be of *service*."""
    try:
        length = len(rpc_queue_name(service).encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"{service!r} names no service: it is not UTF-8") from None
    if length > LONGEST_NAME:
        raise ConfigurationError(
            f"{service} names no service: its queue would have a name of {length} bytes, and "
            f"{LONGEST_NAME} are possible"
        )


async def list_services(settings: Settings, names: Sequence[str], wait: float) -> list[Listed]:
    """
    The queues of the services called *names*, or of all that answer within *wait* seconds.

    Raises:
        ConnectionLost, ConfigurationError: the broker is not there, or refuses us.
    """
    transport = open_transport(settings, name="aiorpc ls")
    try:
        await transport.start(CONNECT_TIMEOUT)
        try:
            async with asyncio.timeout(wait + CONNECT_TIMEOUT):
                instances = await discover(transport, wait)
        except TimeoutError:
            raise ConnectionLost(
                f"{transport.url} did not say within {CONNECT_TIMEOUT:g} s that it heard the "
                "question which services are there"
            ) from None
        if names:
            instances = [instance for instance in instances if instance.service in names]
        listed = _group(instances, names)
        await _look_at_all(transport, listed)
        return listed
    finally:
        await transport.aclose()


def _group(instances: Sequence[Instance], names: Sequence[str]) -> list[Listed]:
    """By service and queue; a named service that did not answer has its one queue for calls."""
    groups: dict[tuple[str, str | None], Listed] = {}
    for instance in instances:
        process = f"{instance.host}:{instance.pid}"
        for entry in instance.entrypoints:
            listed = groups.setdefault(
                (instance.service, entry.queue),
                Listed(instance.service, entry.queue, None, None, [], []),
            )
            if entry.method not in listed.methods:
                listed.methods.append(entry.method)
            if process not in listed.processes:
                listed.processes.append(process)
    answered = {instance.service for instance in instances}
    silent = [
        Listed(name, rpc_queue_name(name), None, None, [], [])
        for name in dict.fromkeys(names)
        if name not in answered
    ]
    return sorted([*groups.values(), *silent], key=lambda each: (each.service, each.queue or ""))


async def _look_at_all(transport: Transport, listed: Sequence[Listed]) -> None:
    """
    Fill in what the broker says of each queue.

    Raises:
        ConnectionLost: it says nothing of any.
    """
    looked_at = [each for each in listed if each.queue is not None]
    patience, silent = LOOKS, False
    for each in looked_at:
        began = time.monotonic()
        state = await transport.inspect(each.queue or "", min(LOOK, patience))
        took = time.monotonic() - began
        if state is None:
            each.untold = True
            silent = silent or took >= LOOK
            patience = max(0.01, patience - took)
        elif state.exists:
            each.consumers, each.waiting = state.consumers, state.messages
    lost = silent or transport.state not in {State.CONNECTED, State.BLOCKED}
    if lost and looked_at and all(each.untold for each in looked_at):
        raise ConnectionLost(f"{transport.url} did not say within {LOOK:g} s how the queues are")


def _print_table(listed: Sequence[Listed]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("SERVICE", "QUEUE"):
        table.add_column(heading, no_wrap=True)
    for heading in ("CONSUMERS", "WAITING"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("METHODS", "PROCESSES"):
        table.add_column(heading)
    for each in listed:
        table.add_row(
            each.service,
            each.queue or "-",
            "no queue" if _is_missing(each) else _number(each.consumers),
            _number(each.waiting),
            ", ".join(each.methods) or "-",
            ", ".join(each.processes) or "-",
            style=None if each.consumed or not each.queue else "red",
        )
    # In a pipe nothing is folded: a line is a queue.
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, highlight=False).print(table)


def _is_missing(listed: Listed) -> bool:
    return listed.queue is not None and listed.consumers is None and not listed.untold


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)

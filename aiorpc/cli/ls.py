"""``aiorpc ls``: which services are there, how many consume their queues, and what waits there."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from ..config import Settings
from ..exceptions import ConnectionLost
from ..hosting.discovery import Instance, discover
from ..transports import open_transport
from ..transports.base import QueueState, Transport
from ..wire.names import rpc_queue_name
from .call import CONNECT_TIMEOUT
from .exit_codes import ExitCode
from .options import Broker, ConfigFile, Debug, Define
from .output import print_json, print_note
from .settings import require_server, settings_of

__all__ = ["ls"]

#: Seconds that the broker may take to tell of one queue.
LOOK = 2.0


class Listed(msgspec.Struct):
    """
    A queue of a service. ``consumers`` and ``waiting`` are ``None`` if there is no such queue;
    ``queue`` is ``None`` for what no queue fires, such as timers.
    """

    service: str
    queue: str | None
    consumers: int | None
    waiting: int | None
    methods: list[str]
    processes: list[str]


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
        typer.Option("--wait", metavar="SECONDS", min=0.01, help="Wait for answers so long."),
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
    if services and not all(each.consumers for each in listed if each.queue):
        raise typer.Exit(ExitCode.NO_SERVICE)


async def list_services(settings: Settings, names: Sequence[str], wait: float) -> list[Listed]:
    """
    The queues of the services called *names*, or of all that answer within *wait* seconds.

    Raises:
        ConnectionLost, ConfigurationError: the broker is not there, or refuses us.
    """
    transport = open_transport(settings, name="aiorpc ls")
    try:
        await transport.start(CONNECT_TIMEOUT)
        instances = await discover(transport, wait)
        if names:
            instances = [instance for instance in instances if instance.service in names]
        return [await _look(transport, found) for found in _group(instances, names)]
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


async def _look(transport: Transport, listed: Listed) -> Listed:
    if listed.queue is None:
        return listed
    state: QueueState | None = await transport.inspect(listed.queue, LOOK)
    if state is None:
        raise ConnectionLost(
            f"{transport.url} did not say within {LOOK:g} s how queue {listed.queue} is"
        )
    if state.exists:
        listed.consumers, listed.waiting = state.consumers, state.messages
    return listed


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
            "no queue" if each.consumers is None and each.queue else _number(each.consumers),
            _number(each.waiting),
            ", ".join(each.methods) or "-",
            ", ".join(each.processes) or "-",
            style=None if each.consumers or not each.queue else "red",
        )
    # In a pipe nothing is folded: a line is a queue.
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, highlight=False).print(table)


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)

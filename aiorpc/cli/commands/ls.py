"""
``aiorpc ls``: lists services, how many processes consume their queues, and how many messages wait.

Asks the services with discovery messages, and the broker about each queue.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from ...config import Settings
from ...exceptions import ConfigurationError, ConnectionLost
from ...hosting.discovery.asking import discover
from ...hosting.discovery.shapes import EndpointInfo, Info
from ...transports import open_transport
from ...transports.base import State, Transport
from ...wire.message import name_fault
from ...wire.names import rpc_queue_name
from ..calls import CONNECT_TIMEOUT
from ..output import ExitCode, print_json, print_note
from ..parser import Parser, add_settings, number, settings_for_server
from ..tables import Column, print_rows

__all__ = ["configure", "execute", "list_services", "print_table"]

#: Seconds that the broker may take to describe one queue.
LOOK = 2.0
#: Seconds for all queues together for which the broker does not answer.
LOOKS = 6.0

ARGUMENTS = "[SERVICE ...]"

DESCRIPTION = """\
Each line is a queue with the numbers of its consumers and waiting messages.
The exit code is 3 if a named service has no queue, or if the queue has no
consumer."""

EXAMPLES = """\
  $ aiorpc ls
  $ aiorpc ls service_x service_y && echo both are there
  $ aiorpc ls --json | jq '.[] | select(.waiting > 100)'
"""


class Listed(msgspec.Struct, omit_defaults=True):
    """
    A queue of a service. ``consumers`` and ``waiting`` are ``None`` if the queue does not exist.

    ``queue`` is ``None`` for entrypoints without a queue, such as timers. ``untold``: the broker
    does not describe the queue, for example a queue that is exclusive to another connection.
    """

    service: str
    queue: str | None
    consumers: int | None
    waiting: int | None
    methods: list[str]
    processes: list[str]
    untold: bool = False
    #: The HTTP routes by method.
    routes: dict[str, list[str]] = {}
    #: The version of the service in each process, if its class has a ``version``.
    versions: dict[str, str] = {}
    #: The first paragraph of the docstring of the service class.
    description: str = ""
    #: The ``metadata`` of the service class in each process, if it has any.
    metadata: dict[str, dict[str, str]] = {}
    #: The methods by process, if the processes answer calls of one service with other methods.
    differing: dict[str, list[str]] = {}

    @property
    def consumed(self) -> bool:
        """Whether the queue has consumers, according to the broker or the services."""
        return bool(self.processes if self.untold else self.consumers)


def configure(parser: Parser) -> None:
    text = "Services of Nameko or aiorpc to list. (default: the services of aiorpc that answer)"
    parser.add_argument("services", metavar="SERVICE", nargs="*", help=text)
    wait = "Seconds to wait for answers. (default: 0.5)"
    parser.option("--wait SECONDS", wait, type=number(0.01, 3600), default=0.5)
    parser.option("--json", "Print JSON, for programs.")
    add_settings(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the list, and return the exit status."""
    names, wait = arguments.services, arguments.wait
    settings = settings_for_server(arguments, "ls")
    for name in names:
        _check_name(name)
    listed = asyncio.run(list_services(settings, names, wait))
    if arguments.json:
        print_json(listed)
    elif listed:
        print_table(listed)
        _note_differing(listed)
    else:
        print_note(
            f"no service of aiorpc answered within {wait:g} s. Services of Nameko do not answer, "
            "but you can list them by name: aiorpc ls NAME"
        )
    if names and not all(each.consumed for each in listed if each.queue):
        return ExitCode.NO_SERVICE
    return ExitCode.OK


def _note_differing(listed: Sequence[Listed]) -> None:
    for each in listed:
        if each.differing:
            processes = "; ".join(
                f"{name}: {', '.join(has)}" for name, has in each.differing.items()
            )
            print_note(
                f"processes answer the service name {each.service} with other methods, so calls "
                f"fail at random: {processes}. Unless this is a deploy, rename one of them"
            )


def _check_name(service: str) -> None:
    """Raise ``ConfigurationError`` if AMQP refuses the name of *service*'s queue."""
    if fault := name_fault(rpc_queue_name(service)):
        raise ConfigurationError(
            f"{service!r} cannot name a service: the name of its queue {fault}"
        )


async def list_services(settings: Settings, names: Sequence[str], wait: float) -> list[Listed]:
    """
    Return the queues of *names*, or of all services that answer within *wait* seconds.

    Raises:
        ConnectionLost, ConfigurationError: the broker is down, or refuses the connection.
    """
    async with aclosing(open_transport(settings, name="aiorpc ls")) as transport:
        await transport.start(CONNECT_TIMEOUT)
        try:
            async with asyncio.timeout(wait + CONNECT_TIMEOUT):
                instances = await discover(transport, wait, *(names if len(names) == 1 else ()))
        except TimeoutError:
            raise ConnectionLost(
                f"{transport.url} did not confirm the discovery message within "
                f"{CONNECT_TIMEOUT:g} s"
            ) from None
        if names:
            instances = [instance for instance in instances if instance.name in names]
        listed = _group(instances, names)
        await _look_at_all(transport, listed)
        return listed


def _group(instances: Sequence[Info], names: Sequence[str]) -> list[Listed]:
    """Return a row per service and queue. A silent service in *names* has its queue for calls."""
    groups: dict[tuple[str, str | None], Listed] = {}

    def row(service: str, queue: str | None) -> Listed:
        return groups.setdefault(
            (service, queue), Listed(service, queue, None, None, methods=[], processes=[])
        )

    for instance in instances:
        for endpoint in instance.endpoints:
            listed = row(instance.name, endpoint.queue)
            _add(listed, instance, endpoint)
    for (service, queue), listed in groups.items():
        if queue is not None and queue == rpc_queue_name(service):
            listed.differing = _differing(service, queue, instances)
    for name in {*names} - {instance.name for instance in instances}:
        row(name, rpc_queue_name(name))
    return sorted(groups.values(), key=lambda each: (each.service, each.queue or ""))


def _add(listed: Listed, instance: Info, endpoint: EndpointInfo) -> None:
    """Add an endpoint of an instance to the row of its queue."""
    name, process = endpoint.name, instance.process
    if name not in listed.methods:
        listed.methods.append(name)
    route = endpoint.metadata.get("route")
    if route and route not in listed.routes.get(name, ()):
        listed.routes.setdefault(name, []).append(route)
    if process not in listed.processes:
        listed.processes.append(process)
    if instance.version:
        listed.versions[process] = instance.version
    if instance.of_the_class:
        listed.metadata[process] = instance.of_the_class
    listed.description = instance.description or listed.description


def _differing(service: str, queue: str, instances: Sequence[Info]) -> dict[str, list[str]]:
    """Return the methods of each process on *queue*, if they differ; else an empty mapping."""
    methods = {
        each.process: sorted(each.called_on(queue)) for each in instances if each.name == service
    }
    return methods if len({tuple(each) for each in methods.values()}) > 1 else {}


async def _look_at_all(transport: Transport, listed: Sequence[Listed]) -> None:
    """
    Add the broker's counts to each queue.

    Raises:
        ConnectionLost: the broker describes no queue.
    """
    looked_at = [each for each in listed if each.queue is not None]
    patience, silent = LOOKS, False
    for each in looked_at:
        began = time.monotonic()
        state = await transport.inspect(each.queue or "", min(LOOK, patience))
        took = time.monotonic() - began
        if state is None or state.trouble:
            each.untold = True
            silent = silent or took >= LOOK
            patience = max(0.01, patience - took)
        elif state.exists:
            each.consumers, each.waiting = state.consumers, state.messages
    lost = silent or transport.state not in {State.CONNECTED, State.BLOCKED}
    if lost and looked_at and all(each.untold for each in looked_at):
        raise ConnectionLost(f"{transport.url} did not describe the queues within {LOOK:g} s")


_COLUMNS = (
    *(Column("SERVICE"), Column("QUEUE")),
    *(Column("CONSUMERS", right=True), Column("WAITING", right=True)),
    *(Column("METHODS", wraps=True), Column("PROCESSES", wraps=True)),
    Column("DESCRIPTION", wraps=True),
)


def print_table(listed: Sequence[Listed]) -> None:
    """Print one line per queue."""
    described = any(each.description for each in listed)
    columns = _COLUMNS if described else _COLUMNS[:-1]
    rows: list[tuple[object, ...]] = []
    red = []
    for each in listed:
        is_missing = each.queue and each.consumers is None and not each.untold
        consumers = "no queue" if is_missing else each.consumers
        methods = [" ".join((name, *_in_brackets(each.routes.get(name)))) for name in each.methods]
        processes = [
            " ".join(
                (name, *_in_brackets([version] if (version := each.versions.get(name)) else ()))
            )
            for name in each.processes
        ]
        last = (each.description,) if described else ()
        lists = (", ".join(methods), ", ".join(processes), *last)
        if each.queue and not each.consumed:
            red.append(len(rows))
        rows.append((each.service, each.queue, consumers, each.waiting, *lists))
    print_rows(columns, rows, red=red)


def _in_brackets(routes: Sequence[str] | None) -> Sequence[str]:
    return [f"({', '.join(routes)})"] if routes else ()

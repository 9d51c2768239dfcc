"""
Finds the parked queues. Awaits the transport; no other I/O.

AMQP cannot list queues. So the names come from the command line, from the services that answer, and
from RabbitMQ's management API, if there is one.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..exceptions import ConfigurationError, ConnectionLost
from ..hosting.discovery.asking import discover
from ..management import ListedQueue
from ..transports.base import State, Transport
from ..wire.message import name_fault
from ..wire.names import PARKED_SUFFIX, parked_queue, rpc_queue_name
from .reading import count

__all__ = ["FoundQueues", "ParkedQueue", "find_queues", "queue_named"]


class ParkedQueue(msgspec.Struct):
    """
    A parked queue that exists.

    Attributes:
        messages: how many it can deliver.
        cost: what a look costs, if the queue counts it and has a limit; else empty.
        note: what is not checked about that.
    """

    name: str
    messages: int
    cost: str = ""
    note: str = ""


class FoundQueues(msgspec.Struct):
    """
    The parked queues that exist.

    Attributes:
        queues: sorted by name.
        missing: the names that were asked for and have no queue.
        incomplete: why there may be others; empty if there are no others.
    """

    queues: list[ParkedQueue]
    missing: list[str]
    incomplete: str = ""


_OF_SERVICES = (
    "only the queues of the services that answer now are looked for: name other queues, or list "
    "all with --management URL"
)


def queue_named(name: str) -> str:
    """
    Return the parked queue of the queue *name*; *name* itself if it is a parked queue.

    Raises:
        ConfigurationError: AMQP refuses the name.
    """
    if fault := name_fault(name):
        raise ConfigurationError(f"{name!r} cannot name a queue: the name {fault}")
    return name if name.endswith(PARKED_SUFFIX) else parked_queue(name).name


async def find_queues(
    transport: Transport,
    names: Sequence[str],
    wait: float,
    listed: Mapping[str, ListedQueue] | None,
) -> FoundQueues:
    """
    Return the parked queues of *names*, or all if there are none. A name with ``*`` is a pattern.

    Args:
        wait: seconds to wait for the answers of services.
        listed: all queues, by name, as the management API lists them; ``None`` without one.

    Raises:
        ConnectionLost: the broker does not answer.
        ConfigurationError: AMQP refuses a name.
    """
    exact = {queue_named(name) for name in names if "*" not in name}
    patterns = [_pattern(name) for name in names if "*" in name]
    found = FoundQueues([], [])
    asked = {queue_named(name) for name in names}  # also a queue that is named like a pattern
    if patterns or not names:
        known: Iterable[str] = listed or ()
        if listed is None:
            known, found.incomplete = await _of_services(transport, wait)
        asked |= {each for each in known if _fits(each, patterns or [f"*{PARKED_SUFFIX}"])}
    for name in sorted(asked):
        try:
            queue = await _looked_at(transport, name, (listed or {}).get(name))
        except ConnectionLost as error:
            if len(asked) == 1 or transport.state is not State.CONNECTED:
                raise
            queue = ParkedQueue(name, 0, note=f"not looked at: {error}")
        if queue is not None:
            found.queues.append(queue)
        elif name in exact:
            found.missing.append(name)
    return found


async def _looked_at(
    transport: Transport, name: str, listed: ListedQueue | None
) -> ParkedQueue | None:
    messages = await count(transport, name)
    if messages is None:
        return None
    queue = ParkedQueue(name, messages)
    if messages:
        await _add_cost(transport, queue, listed)
    return queue


def _pattern(name: str) -> str:
    return name if name.endswith((PARKED_SUFFIX, "*")) else f"{name}{PARKED_SUFFIX}"


def _fits(queue: str, patterns: Iterable[str]) -> bool:
    fits = any(fnmatch.fnmatchcase(queue, pattern) for pattern in patterns)
    return fits and queue.endswith(PARKED_SUFFIX)


async def _add_cost(transport: Transport, queue: ParkedQueue, listed: ListedQueue | None) -> None:
    """Add what a look at *queue* costs."""
    async with transport.reader(queue.name) as reader:
        cost = await reader.cost()
    if cost.counts is None:
        queue.cost = (
            f"Whether queue {queue.name} counts each look as a failed delivery is not checked."
        )
    if not cost.counts:
        return
    limits = [cost.limit] if cost.limit is not None else []
    if listed is not None and isinstance(limit := listed.policies.get("delivery-limit"), int):
        limits.append(limit)
    limits = [limit for limit in limits if limit >= 0]
    if limits:
        queue.cost = (
            f"Queue {queue.name} counts each look as a failed delivery, and RabbitMQ deletes a "
            f"message after {min(limits)} of them."
        )
    elif listed is None:
        queue.note = (
            f"queue {queue.name} counts each look as a failed delivery; whether a policy sets a "
            "limit is not checked without --management URL"
        )


async def _of_services(transport: Transport, wait: float) -> tuple[list[str], str]:
    """Return the parked queues that the services which answer may have, and what is missing."""
    try:
        services = await discover(transport, wait)
    except ConfigurationError as error:  # the user may not declare the queue for the answers
        return [], f"the services cannot be asked: {error}"
    queues = {each.queue for service in services for each in service.endpoints if each.queue}
    queues |= {rpc_queue_name(service.name) for service in services}
    return [parked_queue(queue).name for queue in queues], _OF_SERVICES

"""
Reads parked queues from their heads, in batches, and gives the messages back. Awaits the transport;
no other I/O.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from ..exceptions import ConfigurationError, ConnectionLost
from ..transports.base import Reader, Transport
from .messages import Group, OneMessage, ParkedMessage, Selection, largest

__all__ = ["LOOK", "Look", "batches", "count", "find", "look"]

#: Seconds that the broker may take to describe one queue.
LOOK = 5.0
#: Messages of the first batch, and of a batch at most.
FIRST, MOST = 10, 500
#: Bytes of the bodies of one batch, if they are as large as the largest so far.
BYTES = 64 << 20


async def count(transport: Transport, queue: str) -> int | None:
    """
    Return the number of messages that *queue* can deliver; ``None`` if it does not exist.

    Raises:
        ConnectionLost: the broker does not say.
    """
    state = await transport.inspect(queue, LOOK)
    if state is None or state.trouble:
        why = f": {state.trouble}" if state else ""
        raise ConnectionLost(f"{transport.url} does not describe queue {queue!r}{why}")
    return state.messages if state.exists else None


async def batches(
    reader: Reader, most: int, at_once: int = MOST
) -> AsyncGenerator[list[ParkedMessage]]:
    """
    Yield the first *most* messages of the queue of *reader*, *at_once* at a time, in order.

    A batch is in memory at once. The first is small, and shows how large the messages are.
    """
    position, size, most_bytes = 0, FIRST, 1
    while position < most:
        deliveries = await reader.take(min(size, most - position))
        if not deliveries:
            return
        batch = [
            ParkedMessage.of(reader.queue, position + number, delivery)
            for number, delivery in enumerate(deliveries, 1)
        ]
        position += len(batch)
        most_bytes = max(most_bytes, largest(batch))
        size = max(1, min(2 * size, at_once, BYTES // most_bytes))
        deliveries.clear()
        yield batch


class Look(msgspec.Struct):
    """What one parked queue holds. ``read`` of its ``messages`` are in ``groups``."""

    queue: str
    messages: int
    read: int
    groups: list[Group]
    #: Each wanted message, if they are asked for.
    rows: list[OneMessage] = []
    #: Why the queue cannot be read; empty if it can.
    trouble: str = ""


async def look(
    transport: Transport, queue: str, limit: int, wanted: Selection, *, each: bool = False
) -> Look | None:
    """
    Read at most *limit* messages of *queue*, and group the *wanted* ones by method and error; list
    *each* too. Return ``None`` if there is no such queue.

    Raises:
        ConnectionLost, ConfigurationError: it cannot be read.
    """
    messages = await count(transport, queue)
    if messages is None:
        return None
    groups: dict[tuple[str, str], Group] = {}
    read, rows = 0, []
    if limit and messages:
        async with (
            transport.reader(queue) as reader,
            aclosing(batches(reader, min(limit, messages))) as reading,
        ):
            async for batch in reading:
                read += len(batch)
                for message in filter(wanted.takes, batch):
                    Group.add_to(groups, message)
                    if each:
                        rows.append(OneMessage.of(message))
                batch.clear()
    ordered = sorted(groups.values(), key=lambda group: (-group.count, group.first))
    return Look(queue, messages, read, ordered, rows)


async def find(reader: Reader, most: int, wanted: Selection) -> ParkedMessage:
    """
    Return the first *wanted* message of the first *most* ones. The caller closes *reader*.

    Raises:
        ConfigurationError: there is none.
    """
    async with aclosing(batches(reader, min(most, wanted.last or most))) as reading:
        async for batch in reading:
            for message in batch:
                if wanted.takes(message):
                    return message
    which = " ".join(wanted.names) or "that fits"
    raise ConfigurationError(
        f"queue {reader.queue!r} has no message {which} among its first {most}: "
        "`aiorpc parked ls --messages` lists them"
    )

"""
The claims of ``memory://``: an exclusive queue, and the channel that holds it. No I/O.
"""

from __future__ import annotations

import math
from functools import partial

from ...exceptions import ConnectionLost
from ..claims import Claim, Got, claim_queue
from ..outgoing import Outgoing
from .channel import MemoryChannel
from .queue import Entry, MemoryConsumer

__all__ = ["MemoryClaim"]


class MemoryClaim(Claim):
    """A claim on the connection of *channel*."""

    def __init__(self, name: str, channel: MemoryChannel) -> None:
        self.name = name
        self._channel = channel
        self._queue = channel.broker.declare_queue(claim_queue(name), channel)
        self._holder = channel.consume(self._queue, _discard, _nothing, math.inf, 0)

    @property
    def held(self) -> bool:
        return self._channel.open and not self._queue.deleted

    async def confirm(self) -> None:
        self._require_held()

    async def get(self, queue: str) -> Got | None:
        self._require_held()
        there = self._channel.broker.queues.get(queue)
        if there is None:
            raise ConnectionLost(f"there is no queue {queue!r} on {self._channel.broker.url} (404)")
        entry = there.take()
        if entry is None:
            return None
        # The channel requeues its unacked messages when the connection ends.
        getter = MemoryConsumer(there, _discard, _nothing, 0, 0, {entry})
        self._channel.keep(getter)
        return Got(entry.carried.message.body, partial(getter.ack, entry))

    def _publish(self, outgoing: Outgoing) -> None:
        self._channel.publish(outgoing)

    async def release(self) -> None:
        self._queue.remove_consumer(self._holder)


def _discard(consumer: MemoryConsumer, entry: Entry) -> None:
    consumer.ack(entry)


def _nothing() -> None:
    pass

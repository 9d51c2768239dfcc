"""
Reads a queue of ``memory://`` in batches. No I/O.
"""

from __future__ import annotations

from ...exceptions import ConfigurationError, ConnectionLost
from ..incoming import Delivery
from ..reading import LookCost, Reader
from .channel import MemoryChannel
from .queue import Entry, MemoryConsumer
from .subscription import MemoryDelivery

__all__ = ["MemoryReader"]


class MemoryReader(Reader):
    """A reader on the connection of *channel*."""

    def __init__(self, queue: str, channel: MemoryChannel) -> None:
        self.queue = queue
        self._channel = channel
        self._consumer: MemoryConsumer | None = None

    async def cost(self) -> LookCost:
        return LookCost(False)

    async def take(self, most: int) -> list[Delivery]:
        broker = self._channel.broker
        if not self._channel.open:
            raise ConnectionLost(f"the connection to {broker.url} was lost")
        there = broker.queues.get(self.queue)
        if there is None:
            raise ConfigurationError(f"there is no queue {self.queue!r} on {broker.url} (404)")
        if self._consumer is None:
            self._consumer = MemoryConsumer(there, _never, _nothing, 0, 0)
        taken: list[Delivery] = []
        while len(taken) < most and (entry := there.take()) is not None:
            self._consumer.unacked.add(entry)
            taken.append(self._delivery(self._consumer, entry))
        if self._consumer not in self._channel.consumers:
            self._channel.keep(self._consumer)
        return taken

    def _delivery(self, consumer: MemoryConsumer, entry: Entry) -> MemoryDelivery:
        message, redelivered = entry.carried.copy(), entry.redelivered
        return MemoryDelivery(
            message, entry.exchange, entry.routing_key, redelivered, self._channel, consumer, entry
        )

    async def aclose(self) -> None:
        consumer = self._consumer
        if consumer is not None and consumer.open:
            entries, consumer.unacked = consumer.unacked, set()
            consumer.queue.requeue(entries)


def _never(consumer: MemoryConsumer, entry: Entry) -> None:
    raise AssertionError("a delivery to a reader, which takes messages itself")


def _nothing() -> None:
    pass

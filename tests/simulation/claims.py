"""The claims of the simulated transport: an exclusive queue, and the link that holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from aiorpc.exceptions import ConfigurationError, ConnectionLost
from aiorpc.transports.claims import ANSWER_TIMEOUT, Claim, Got, claim_queue
from aiorpc.transports.memory.queue import Entry, MemoryConsumer
from aiorpc.transports.outgoing import Outgoing

from .channels import Publishing
from .network import Link

__all__ = ["SimulatedClaim"]

T = TypeVar("T")


class SimulatedClaim(Claim):
    """A claim of *link*, which sends on the channel *publishing*."""

    def __init__(self, name: str, link: Link, publishing: Publishing) -> None:
        self.name = name
        self.publishing = publishing
        self._link = link
        self._gone = False

    @classmethod
    async def of(cls, name: str, link: Link, publishing: Publishing) -> SimulatedClaim | None:
        """Claim the right *name*; return ``None`` if it is taken."""
        claim = cls(name, link, publishing)
        try:
            taken = not await claim._ask(claim._declare)
        except ConfigurationError:  # exclusive to another link
            taken = True
        return None if taken else claim

    def _declare(self) -> bool:
        broker = self._link.network.broker
        if self.name in broker.queues:
            return False
        queue = broker.declare_queue(claim_queue(self.name), self._link)
        self._holder = MemoryConsumer(queue, _discard, self._lose, float("inf"), 0)
        self._link.consumers.append(self._holder)
        queue.add_consumer(self._holder)
        return True

    def _lose(self) -> None:
        self._gone = True

    @property
    def held(self) -> bool:
        return not (self._gone or self._link.lost.done())

    async def confirm(self) -> None:
        self._require_held()
        broker = self._link.network.broker

        def owner() -> object:
            queue = broker.queues.get(self.name)
            return queue and queue.owner

        if await self._ask(owner) is not self._link:
            raise ConnectionLost(f"this connection does not hold {self.name} any more")

    async def get(self, queue: str) -> Got | None:
        self._require_held()
        got = await self._ask(partial(self._take, queue))
        if got is None:
            return None
        getter, entry = got
        up = self.publishing.lanes[0]
        return Got(entry.carried.message.body, partial(up.send, "ack", getter.ack, entry))

    def _take(self, queue: str) -> tuple[MemoryConsumer, Entry] | None:
        there = self._link.network.broker.queues.get(queue)
        if there is None:
            raise ConnectionLost(f"there is no queue {queue!r} (404)")
        entry = there.take()
        if entry is None:
            return None
        getter = MemoryConsumer(there, _discard, _nothing, 0, 0, {entry})
        self._link.consumers.append(getter)
        return getter, entry

    def _publish(self, outgoing: Outgoing) -> None:
        self.publishing.publish(outgoing)

    async def release(self) -> None:
        with suppress(ConnectionLost, asyncio.TimeoutError):
            await self._ask(partial(self._holder.queue.remove_consumer, self._holder))

    async def _ask(self, function: Callable[[], T]) -> T:
        try:
            answer: T = await self._link.request("claim", function, ANSWER_TIMEOUT)
        except (ConnectionError, TimeoutError) as error:
            raise ConnectionLost(f"{self.name}: the broker does not answer: {error}") from None
        return answer


def _discard(consumer: MemoryConsumer, entry: Entry) -> None:
    consumer.ack(entry)


def _nothing() -> None:
    pass

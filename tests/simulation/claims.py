"""The claims of the simulated transport: an exclusive queue, and the link that holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from aiorpc.exceptions import ConfigurationError, ConnectionLost
from aiorpc.transports.amqp.channel import Channel
from aiorpc.transports.claims import ANSWER_TIMEOUT, Claim, Got, claim_queue
from aiorpc.transports.memory.queue import Entry, MemoryConsumer
from aiorpc.transports.outgoing import NO_LIMIT, Outgoing, SizeLimit, settle

from .channels import publishing
from .network import Link

__all__ = ["SimulatedClaim"]

T = TypeVar("T")


class SimulatedClaim(Claim):
    """A claim of *link*, which sends on the channel *channel*."""

    def __init__(self, name: str, link: Link, channel: Channel) -> None:
        self.name = name
        self._link = link
        self._channel = channel
        self._gone = False

    @classmethod
    async def of(cls, name: str, link: Link) -> SimulatedClaim | None:
        """Claim the right *name*; return ``None`` if it is taken."""
        # On a channel of its own: its messages fail with it, and are not sent again.
        claim = cls(name, link, publishing(link, SizeLimit(NO_LIMIT), _fail))
        try:
            taken = not await claim._ask(claim._declare)
        except ConfigurationError:  # exclusive to another link
            taken = True
        if taken:
            await claim._channel.close()
        return None if taken else claim

    def _declare(self) -> bool:
        broker = self._link.network.broker
        if self.name in broker.queues:
            return False
        queue = broker.declare_queue(claim_queue(self.name), self._link)
        self._holder = MemoryConsumer(queue, _discard, self._lose, float("inf"), 0)
        self._link.keep_consumer(self._holder)
        queue.add_consumer(self._holder)
        return True

    def _lose(self) -> None:
        self._gone = True

    @property
    def held(self) -> bool:
        return self._channel.open and not (self._gone or self._link.lost.done())

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
        try:
            got = await cast("Any", self._channel.amqp).get(queue)
        except ConnectionError as error:
            raise ConnectionLost(f"{self.name}: the broker does not answer: {error}") from None
        return None if got is None else Got(got[0], partial(self._ack, got[1]))

    def _ack(self, tag: int) -> None:
        if self._channel.open:
            self._channel.lane.write(self._channel.encoder.ack(tag))

    def _publish(self, outgoing: Outgoing) -> None:
        self._channel.publish(outgoing)

    async def release(self) -> None:
        with suppress(ConnectionLost, asyncio.TimeoutError):
            await self._ask(partial(self._holder.queue.remove_consumer, self._holder))
        await self._channel.close()

    async def _ask(self, function: Callable[[], T]) -> T:
        try:
            answer: T = await self._link.request("claim", function, ANSWER_TIMEOUT)
        except (ConnectionError, TimeoutError) as error:
            raise ConnectionLost(f"{self.name}: the broker does not answer: {error}") from None
        return answer


def _discard(consumer: MemoryConsumer, entry: Entry) -> None:
    consumer.ack(entry)


def _fail(outgoing: Iterable[Outgoing]) -> None:
    for each in outgoing:
        settle(each, ConnectionLost(f"{each.description} was not confirmed"))

"""Parks messages for tests, as a service would, and looks at what became of them."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from aiorpc.transports.base import Delivery, Outgoing, Transport
from aiorpc.wire.message import Message, Queue
from aiorpc.wire.parked import Parking, parked

__all__ = ["Yard"]


class Yard:
    """A queue and its parked queue. No other test has their names."""

    def __init__(self, transport: Transport, **arguments: Any) -> None:
        self.transport = transport
        self.source = f"evt-tests-{uuid.uuid4().hex[:8]}--mailer.send"
        self.parked = f"{self.source}.parked"
        self.queues = [self.source, self.parked]
        self._arguments = arguments

    async def declare(self) -> None:
        await self.transport.declare(
            queues=[Queue(name, arguments=self._arguments) for name in self.queues]
        )

    async def park(self, *bodies: bytes, error: str = "ValueError", **properties: Any) -> None:
        """Park messages as a handler does that gives up."""
        for body in bodies:
            why = Parking(
                queue=self.source,
                exchange="tests.events",
                routing_key="sent",
                method=properties.pop("method", "mailer.send"),
                reason=f"{error}: no luck with {body[:5]!r}",
                stack="Traceback (most recent call last):\n  in send",
                at=datetime.now(UTC),
                sensitive=properties.pop("sensitive", ()),
            )
            await self.put(parked(Message(body=body, **properties), why))

    async def put(self, message: Message) -> None:
        """Put *message* into the parked queue as it is."""
        outgoing = Outgoing(exchange="", routing_key=self.parked, message=message, mandatory=True)
        await self.transport.publish(outgoing, 5)

    async def count(self, queue: str) -> int:
        state = await self.transport.inspect(queue, 5)
        assert state is not None
        return state.messages

    async def holds(self, queue: str, messages: int) -> bool:
        return await self.count(queue) == messages

    async def all(self, queue: str) -> list[Delivery]:
        """Return all messages of *queue*, which keeps them."""
        async with self.transport.reader(queue) as reader:
            return await reader.take(max(1, await self.count(queue)))

    async def bodies(self, queue: str) -> list[bytes]:
        return [each.message.body for each in await self.all(queue)]

    async def ledger(self) -> Counter[bytes]:
        """Return how often each body is in either queue."""
        return Counter(await self.bodies(self.source)) + Counter(await self.bodies(self.parked))

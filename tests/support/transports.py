"""
Shared by the tests of transports: transports to one broker, a handler and a ``settled`` that keep
what they get, and functions that wait for the broker.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from aiorpc.config import resolve
from aiorpc.exceptions import AioRpcError
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing, QueueState, Transport
from aiorpc.wire.message import Exchange, Message, Queue
from tests.support.breakable import Link, breakable
from tests.support.waiting import eventually

__all__ = [
    "PATIENCE",
    "Bench",
    "Inbox",
    "Outcome",
    "holds",
    "is_gone",
    "look",
    "no_longer_than",
    "to",
]

#: Seconds after which something that should happen does not.
PATIENCE = 5.0


class Bench:
    """Transports to one broker, and unique names on it; all is closed and deleted at the end."""

    def __init__(self, config: dict[str, Any], stack: AsyncExitStack) -> None:
        self.config = config
        self._stack = stack
        self._prefix = f"test-{uuid.uuid4().hex[:12]}"
        self._names = 0
        self.queues: list[str] = []

    def transport(self) -> Transport:
        transport = open_transport(resolve(self.config), name="contract")
        self._stack.push_async_callback(transport.aclose)
        return transport

    async def connect(self) -> Transport:
        transport = self.transport()
        await transport.start(PATIENCE)
        return transport

    async def link(self, *, start: bool = True) -> Link:
        link = await self._stack.enter_async_context(breakable(self.config))
        if start:
            await link.transport.start(PATIENCE)
        return link

    def name(self) -> str:
        self._names += 1
        return f"{self._prefix}-{self._names}"

    def exchange(self, kind: Any = "topic") -> Exchange:
        """An exchange that is deleted with its last binding."""
        return Exchange(self.name(), kind, auto_delete=True)

    def queue(self, exchange: Exchange | None = None, routing_key: str = "", **flags: Any) -> Queue:
        queue = Queue(self.name(), exchange or Exchange(), routing_key, **flags)
        self.queues.append(queue.name)
        return queue


class Inbox:
    """A handler that keeps its deliveries."""

    def __init__(self, *, ack: bool = True) -> None:
        self._ack = ack
        self._came: asyncio.Queue[Delivery] = asyncio.Queue()

    def __call__(self, delivery: Delivery) -> None:
        if self._ack:
            delivery.ack()
        self._came.put_nowait(delivery)

    async def next(self) -> Delivery:
        async with asyncio.timeout(PATIENCE):
            return await self._came.get()

    async def bodies(self, count: int) -> list[bytes]:
        return [(await self.next()).message.body for _ in range(count)]

    async def until(self, body: bytes) -> list[bytes]:
        """Return the bodies that arrive before *body*."""
        before = []
        while (came := (await self.next()).message.body) != body:
            before.append(came)
        return before

    @property
    def waiting(self) -> int:
        return self._came.qsize()


class Outcome:
    """A ``settled`` that keeps the outcomes it is called with."""

    def __init__(self) -> None:
        self.outcomes: list[AioRpcError | None] = []
        self._news = asyncio.Event()

    def __call__(self, error: AioRpcError | None) -> None:
        self.outcomes.append(error)
        self._news.set()

    async def all(self, count: int = 1) -> list[AioRpcError | None]:
        async with asyncio.timeout(PATIENCE):
            while len(self.outcomes) < count:
                self._news.clear()
                await self._news.wait()
        return self.outcomes


def to(queue: Queue, body: bytes = b"x", **options: Any) -> Outgoing:
    """Return a message to *queue*, through its binding if it has one."""
    headers, expiration = options.pop("headers", None), options.pop("expiration", None)
    return Outgoing(
        exchange=queue.exchange.name,
        routing_key=queue.routing_key if queue.exchange.name else queue.name,
        message=Message(body=body, headers=headers, expiration=expiration),
        **options,
    )


async def look(transport: Transport, queue: Queue) -> QueueState:
    state = await transport.inspect(queue.name, PATIENCE)
    assert state is not None
    return state


async def holds(transport: Transport, queue: Queue, messages: int) -> None:
    async def check() -> bool:
        return (await look(transport, queue)).messages == messages

    await eventually(check)


async def is_gone(transport: Transport, queue: Queue) -> None:
    async def check() -> bool:
        return not (await look(transport, queue)).exists

    await eventually(check)


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    yield
    assert loop.time() - start < seconds

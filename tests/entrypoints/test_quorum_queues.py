"""
Messages of quorum queues, which count failed deliveries and drop a message after too many. RabbitMQ
3.10 also counts requeues; 4.3 does not.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    Exchange,
    Queue,
    ServiceContainer,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.testing.connections import cut
from aiorpc.transports import open_transport
from aiorpc.transports.base import Transport
from tests.support.transports import Inbox

MOST = 3


@dataclass
class Stage:
    """A service whose methods wait, or do not wait, and its quorum queues."""

    config: dict[str, Any]
    #: Another connection to the broker.
    onlooker: Transport
    name: str = field(default_factory=lambda: f"quorum_{uuid.uuid4().hex[:8]}")
    waits: bool = True
    began: asyncio.Event = field(default_factory=asyncio.Event)
    handled: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    @property
    def service(self) -> Any:
        class Service:
            name = self.name

            @rpc
            async def method(service, value: int) -> int:
                return await self.run(value)

            @event_handler(self.name, "happened")
            async def handle(service, payload: int) -> None:
                await self.run(payload)

        return Service

    async def run(self, value: int) -> int:
        self.began.set()
        if self.waits:
            await asyncio.Event().wait()
        self.handled.put_nowait(value)
        return value

    @property
    def events(self) -> str:
        return f"evt-{self.name}-happened--{self.name}.handle"

    async def declare(self, limit: int, **arguments: Any) -> None:
        quorum = {"x-queue-type": "quorum", "x-delivery-limit": limit, **arguments}
        events = Exchange(f"{self.name}.events", "topic")
        requests = Exchange("nameko-rpc", "topic")
        await self.onlooker.declare(
            queues=[
                Queue(self.events, events, "happened", arguments=quorum),
                Queue(f"rpc-{self.name}", requests, f"{self.name}.*", arguments=quorum),
            ]
        )

    @asynccontextmanager
    async def served(self) -> AsyncIterator[ServiceContainer]:
        """Serve until a method has begun, or until the end of the block."""
        self.began.clear()
        async with ServiceContainer(self.service, self.config) as container:
            yield container

    async def stops(self, times: int) -> None:
        """Start the service, and stop it gracefully when a method runs."""
        for _ in range(times):
            async with self.served(), asyncio.timeout(10):
                await self.began.wait()


@pytest.fixture
async def stage(rabbitmq_uri: str) -> AsyncIterator[Stage]:
    config = {
        "AMQP_URI": rabbitmq_uri,
        "MAX_ATTEMPTS": MOST,
        "SHUTDOWN_TIMEOUT": 0,
        "DISCOVERY": False,
        "max_workers": 1,
        "PREFETCH_COUNT": 4,
    }
    async with open_transport(resolve(config), name="a test") as onlooker:
        stage = Stage(config, onlooker)
        yield stage
        for queue in (stage.events, f"{stage.events}.parked", f"rpc-{stage.name}"):
            await onlooker.delete(queue)


async def test_graceful_stops_lose_no_event(stage: Stage) -> None:
    await stage.declare(limit=2)
    async with event_dispatcher(stage.config) as dispatch:
        for number in range(4):
            await dispatch(stage.name, "happened", number)
    await stage.stops(7)  # more than the delivery limit, and more than MAX_ATTEMPTS
    stage.waits = False
    async with stage.served(), asyncio.timeout(10):
        assert {await stage.handled.get() for _ in range(4)} == {0, 1, 2, 3}
    assert stage.handled.empty()


async def test_graceful_stops_lose_no_request(stage: Stage) -> None:
    await stage.declare(limit=2)
    async with ClusterRpcProxy(stage.config, timeout=20) as cluster:
        replies = [cluster[stage.name].method.call_async(number) for number in range(4)]
        await stage.stops(7)
        stage.waits = False
        async with stage.served():
            assert [await reply for reply in replies] == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [MOST, 20])  # RabbitMQ drops an event that exceeds the limit
async def test_an_event_that_ends_its_process_is_parked_after_the_configured_number_of_attempts(
    stage: Stage, limit: int
) -> None:
    await stage.declare(limit=limit)
    async with event_dispatcher(stage.config) as dispatch:
        await dispatch(stage.name, "happened", 7)
    for _ in range(MOST):
        async with stage.served() as container, asyncio.timeout(10):
            await stage.began.wait()
            cut(container.transport)
    inbox = Inbox()
    async with stage.served():
        await stage.onlooker.subscribe(Queue(f"{stage.events}.parked"), inbox)
        message = (await inbox.next()).message
    assert not stage.began.is_set()
    assert message.body == b"7"
    assert message.headers is not None
    assert message.headers["x-original-exchange"] == f"{stage.name}.events"
    assert message.headers["x-original-routingKey"] == "happened"
    assert message.headers["x-exception-message"].startswith(
        "DeliveryUncertain: happened: delivered 4 times"
    )


async def test_the_delivery_limit_of_the_queue_holds_for_an_event_that_ends_its_process(
    stage: Stage,
) -> None:
    grave, inbox = Queue(f"{stage.name}.dead"), Inbox()
    dead_letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": grave.name}
    await stage.declare(limit=1, **dead_letters)
    await stage.onlooker.subscribe(grave, inbox)
    async with event_dispatcher(stage.config) as dispatch:
        await dispatch(stage.name, "happened", 7)
    for _ in range(2):
        async with stage.served() as container, asyncio.timeout(10):
            await stage.began.wait()
            cut(container.transport)
    assert await inbox.bodies(1) == [b"7"]
    await stage.onlooker.delete(grave.name)

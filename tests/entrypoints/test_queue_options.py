"""Queues of services with ``QUEUE_OPTIONS``: declared so, or used as others declared them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from aiorpc import (
    BROADCAST,
    ClusterRpcProxy,
    ConfigurationError,
    Exchange,
    Overloaded,
    Queue,
    ServiceContainer,
    UnknownService,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.transports.base import Transport
from tests.support.waiting import eventually


@dataclass
class Stage:
    config: dict[str, Any]
    onlooker: Transport
    name: str = field(default_factory=lambda: f"options_{uuid.uuid4().hex[:8]}")
    handled: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def rpc_queue(self) -> str:
        return f"rpc-{self.name}"

    @property
    def event_queue(self) -> str:
        return f"evt-{self.name}-happened--{self.name}.handle"

    @property
    def service(self) -> type:
        class Service:
            name = self.name

            @rpc
            async def method(service) -> str:
                return "done"

            @rpc
            async def waits(service) -> None:
                await self.go_on.wait()

            @event_handler(self.name, "happened")
            async def handle(service, payload: str) -> None:
                self.handled.put_nowait(payload)

            @event_handler(self.name, "happened", BROADCAST, reliable_delivery=False)
            async def hear(service, payload: str) -> None:
                self.handled.put_nowait(payload)

        return Service

    def container(self, options: dict[str, Any], **config: Any) -> ServiceContainer:
        return ServiceContainer(self.service, {**self.config, "QUEUE_OPTIONS": options, **config})

    async def works(self) -> None:
        """Check that the service answers a call, and handles an event twice."""
        async with (
            ClusterRpcProxy(self.config, timeout=5) as cluster,
            event_dispatcher(self.config) as dispatch,
        ):
            assert await cluster[self.name].method() == "done"
            await dispatch(self.name, "happened", "event")
            assert [await asyncio.wait_for(self.handled.get(), 5) for _ in range(2)] == [
                "event",
                "event",
            ]

    async def has(self, queue: str, arguments: dict[str, Any]) -> None:
        """Check that the broker has *queue* with exactly *arguments*."""
        await self.onlooker.declare(queues=[Queue(queue, arguments=arguments)])
        with pytest.raises(ConfigurationError, match="x-max-length"):
            await self.onlooker.declare(
                queues=[Queue(queue, arguments={**arguments, "x-max-length": 12345})]
            )


@pytest.fixture
async def stage(broker_config: dict[str, Any]) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        onlooker = await stack.enter_async_context(open_transport(resolve(broker_config)))
        stage = Stage(broker_config, onlooker)
        yield stage
        stage.go_on.set()
        for queue in (stage.rpc_queue, stage.event_queue):
            await onlooker.delete(queue)


async def test_queues_are_declared_with_the_options_of_the_configuration(stage: Stage) -> None:
    options = {
        stage.rpc_queue: {"message_ttl": 60, "max_priority": 3, "single_active_consumer": True},
        "evt-*": {"max_length": 100, "overflow": "reject-publish", "type": "classic"},
    }
    async with stage.container(options):
        await stage.works()
        await stage.has(
            stage.rpc_queue,
            {"x-message-ttl": 60000, "x-max-priority": 3, "x-single-active-consumer": True},
        )
        await stage.has(stage.event_queue, {"x-max-length": 100, "x-overflow": "reject-publish"})


async def test_all_queues_of_a_service_can_be_quorum_queues(stage: Stage) -> None:
    stage.config["QUEUE_OPTIONS"] = options = {"*": {"type": "quorum", "delivery_limit": 7}}
    async with stage.container(options):
        await stage.works()  # with a reply queue of this type


async def test_a_full_queue_refuses_calls(stage: Stage) -> None:
    options = {"rpc-*": {"max_length": 1, "overflow": "reject-publish"}}
    async with (
        stage.container(options, max_workers=1, PREFETCH_COUNT=1),
        ClusterRpcProxy(stage.config, timeout=5) as cluster,
    ):
        service = cluster[stage.name]
        runs = service.waits.call_async()
        waits: list[Any] = []

        async def is_full() -> bool:
            try:
                waits.append(service.waits.call_async())
                await asyncio.wait_for(asyncio.shield(waits[-1].result()), 0.2)
            except Overloaded:
                return True
            except TimeoutError:
                return False
            return False

        await eventually(is_full)
        stage.go_on.set()
        await runs


async def test_a_queue_that_exists_with_other_arguments_is_used_as_it_is(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await stage.onlooker.declare(queues=[Queue(stage.rpc_queue, arguments={"x-max-length": 500})])
    async with stage.container({"*": {"type": "quorum", "max_length": 10}}):
        await stage.works()
    if stage.onlooker.url.startswith("amqp"):
        assert f"queue {stage.rpc_queue} exists with another x-" in caplog.text


async def test_a_passive_queue_is_used_and_bound(stage: Stage) -> None:
    await stage.onlooker.declare(
        exchanges=[Exchange("nameko-rpc", "topic"), Exchange(f"{stage.name}.events", "topic")],
        queues=[
            Queue(stage.rpc_queue, arguments={"x-max-length": 500}),
            Queue(stage.event_queue, arguments={"x-max-length": 500}),
        ],
    )
    options = {stage.rpc_queue: {"passive": True}, stage.event_queue: {"passive": True}}
    async with stage.container(options):
        await stage.works()


async def test_a_queue_that_others_bind_is_only_consumed(stage: Stage) -> None:
    exchange = Exchange("nameko-rpc", "topic")
    await stage.onlooker.declare(queues=[Queue(stage.rpc_queue, exchange, f"{stage.name}.method")])
    options = {stage.rpc_queue: {"passive": True, "bind": False}}
    async with (
        stage.container(options),
        ClusterRpcProxy(stage.config, timeout=5) as cluster,
    ):
        assert await cluster[stage.name].method() == "done"
        with pytest.raises(UnknownService):
            await cluster[stage.name].waits()


async def test_a_missing_passive_queue_is_an_error_at_start(stage: Stage) -> None:
    await stage.onlooker.declare(exchanges=[Exchange("nameko-rpc", "topic")])
    with pytest.raises(ConfigurationError, match=stage.rpc_queue):
        async with stage.container({"rpc-*": {"passive": True}}):
            pass

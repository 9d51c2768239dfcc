"""A request that is redelivered to the process that runs it, or has run it, runs once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
from aiorpc.testing.connections import cut
from aiorpc.transports.base import State
from tests.support.waiting import eventually


@dataclass
class Redelivery:
    """A service whose method waits, its container, and a client."""

    container: ServiceContainer
    cluster: Any
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    runs: int = 0
    restore: Callable[[], None] = lambda: None

    @property
    def service(self) -> Any:
        return self.cluster[self.container.service_name]

    async def loses_its_connection(self) -> None:
        self.restore = cut(self.container.transport)
        await eventually(lambda: self.container.transport.state is not State.CONNECTED)

    async def has_all_back(self) -> None:
        """Return when the service consumes again and has the redelivered requests."""
        self.restore()
        await eventually(lambda: self.container.health().ok)
        assert await self.service.ping() == "pong"  # ping is behind them in the queue


@pytest.fixture
async def redelivery(broker_config: dict[str, Any]) -> AsyncIterator[Redelivery]:
    class Service:
        name = f"again_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            redelivery.runs += 1
            redelivery.entered.set()
            try:
                await redelivery.opened.wait()
            except asyncio.CancelledError:
                redelivery.cancelled.set()
                raise
            return "done"

        @rpc(delivery="at_most_once")
        async def method_once(self) -> str:
            return await Service.method(self)

        @rpc
        async def ping(self) -> str:
            return "pong"

    async with (
        ServiceContainer(Service, broker_config) as container,
        ClusterRpcProxy(broker_config, timeout=20) as cluster,
    ):
        redelivery = Redelivery(container, cluster)
        yield redelivery
        redelivery.opened.set()


@pytest.mark.parametrize("method", ["method", "method_once"])
async def test_a_request_that_still_runs_when_redelivered_runs_once(
    redelivery: Redelivery, method: str
) -> None:
    reply = redelivery.service[method].call_async()
    await redelivery.entered.wait()
    await redelivery.loses_its_connection()
    await redelivery.has_all_back()
    redelivery.opened.set()
    assert await reply.result() == "done"
    assert await redelivery.service.ping() == "pong"
    assert redelivery.runs == 1


@pytest.mark.parametrize("method", ["method", "method_once"])
async def test_a_request_that_ended_before_its_redelivery_is_answered_with_its_result(
    redelivery: Redelivery, method: str
) -> None:
    reply = redelivery.service[method].call_async()
    await redelivery.entered.wait()
    await redelivery.loses_its_connection()
    redelivery.opened.set()
    await eventually(lambda: redelivery.container.transport.waiting)
    await redelivery.has_all_back()
    assert await reply.result() == "done"
    assert redelivery.runs == 1


async def test_a_redelivered_request_can_be_cancelled(redelivery: Redelivery) -> None:
    reply = redelivery.service.method.call_async()
    await redelivery.entered.wait()
    await redelivery.loses_its_connection()
    await redelivery.has_all_back()
    reply.cancel()
    async with asyncio.timeout(5):
        await redelivery.cancelled.wait()
    assert redelivery.runs == 1

"""A request that comes again to the process that runs it, or has run it, is not run twice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
from aiorpc.transports.base import State


@dataclass
class Bench:
    """A service whose method waits, its container, and a client."""

    container: ServiceContainer
    cluster: Any
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    runs: int = 0

    @property
    def service(self) -> Any:
        return self.cluster[self.container.service_name]

    async def loses_its_connection(self) -> None:
        self.container.transport.drop_connection(pause=None)
        async with asyncio.timeout(10):
            while self.container.transport.state is State.CONNECTED:
                await asyncio.sleep(0.005)

    async def has_all_back(self) -> None:
        """Return when the service consumes again, and has what was redelivered."""
        self.container.transport.restore_connection()
        async with asyncio.timeout(10):
            while not self.container.health().ok:
                await asyncio.sleep(0.005)
        assert await self.service.ping() == "pong"  # it stands behind them in the queue


@pytest.fixture
async def bench(broker_config: dict[str, Any]) -> AsyncIterator[Bench]:
    class Service:
        name = f"again_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            bench.runs += 1
            bench.entered.set()
            try:
                await bench.opened.wait()
            except asyncio.CancelledError:
                bench.cancelled.set()
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
        bench = Bench(container, cluster)
        yield bench
        bench.opened.set()


@pytest.mark.parametrize("method", ["method", "method_once"])
async def test_one_that_still_runs_goes_on(bench: Bench, method: str) -> None:
    reply = bench.service[method].call_async()
    await bench.entered.wait()
    await bench.loses_its_connection()
    await bench.has_all_back()
    bench.opened.set()
    assert await reply.result() == "done"
    assert await bench.service.ping() == "pong"
    assert bench.runs == 1


@pytest.mark.parametrize("method", ["method", "method_once"])
async def test_one_that_ended_meanwhile_is_answered_with_what_it_gave(
    bench: Bench, method: str
) -> None:
    reply = bench.service[method].call_async()
    await bench.entered.wait()
    await bench.loses_its_connection()
    bench.opened.set()
    async with asyncio.timeout(10):
        while not bench.container.transport.waiting:
            await asyncio.sleep(0.005)
    await bench.has_all_back()
    assert await reply.result() == "done"
    assert bench.runs == 1


async def test_one_that_came_again_can_be_cancelled(bench: Bench) -> None:
    reply = bench.service.method.call_async()
    await bench.entered.wait()
    await bench.loses_its_connection()
    await bench.has_all_back()
    reply.cancel()
    async with asyncio.timeout(5):
        await bench.cancelled.wait()
    assert bench.runs == 1

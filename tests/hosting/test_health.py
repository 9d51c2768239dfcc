"""Health, and draining, while the connection is broken or blocked."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer, ServiceRunner, rpc
from aiorpc.testing.connections import cut
from aiorpc.transports.base import State
from aiorpc.transports.health import Health
from tests.support.waiting import eventually


class Gate:
    """What a method waits for, and what tells that it does."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.runs = 0


def gated(gate: Gate, prefix: str = "health") -> type:
    class Service:
        name = f"{prefix}_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            gate.runs += 1
            gate.entered.set()
            await gate.opened.wait()
            return "done"

    return Service


async def becomes(container: ServiceContainer | ServiceRunner, ok: bool) -> Health:
    await eventually(lambda: container.health().ok is ok)
    return container.health()


async def test_health_follows_the_connection(broker_config: dict[str, Any]) -> None:
    container = ServiceContainer(gated(Gate()), broker_config)
    assert not container.health().ok
    async with container:
        assert container.health() == Health()
        restore = cut(container.transport)
        health = await becomes(container, ok=False)
        assert "there is no connection to" in health.problems[0]
        assert "guest:guest" not in health.problems[0]
        restore()
        await becomes(container, ok=True)
        for subscription in container.transport.subscriptions:
            assert subscription.consuming
    assert not container.health().ok


async def test_a_runner_is_as_healthy_as_its_services(broker_config: dict[str, Any]) -> None:
    async with ServiceRunner(
        gated(Gate(), "one"), gated(Gate(), "two"), config=broker_config
    ) as runner:
        assert runner.health().ok
        await runner.containers[0].stop()
        (problem,) = runner.health().problems
        assert problem.startswith("one_")


@pytest.mark.parametrize("hosted", [ServiceContainer, ServiceRunner])
async def test_the_health_of_a_service_that_connects_names_the_broker(hosted: Any) -> None:
    url = "amqp://shop:secret@127.0.0.1:1/books"
    host = hosted(gated(Gate(), "one"), config=url)
    starting = asyncio.create_task(host.start())
    await eventually(lambda: "refused" in str(host.health().problems))
    ready, broker = host.health().problems
    assert ready.endswith("is not ready yet, or is stopping")
    assert "there is no connection to amqp://shop:***@127.0.0.1:1/books (connecting)" in broker
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def test_a_service_with_a_lost_consumer_is_not_healthy(
    broker_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ServiceContainer(gated(Gate()), broker_config) as container:
        queue = f"rpc-{container.service_name}"
        (lost,) = (each for each in container.transport.subscriptions if each.queue.name == queue)
        monkeypatch.setattr(type(lost), "consuming", property(lambda self: self is not lost))
        (problem,) = container.health().problems
        assert queue in problem


@asynccontextmanager
async def called(config: dict[str, Any], gate: Gate) -> AsyncIterator[tuple[Any, Any]]:
    """A container, and a call that its method is working on."""
    service = gated(gate)
    container = ServiceContainer(service, {**config, "SHUTDOWN_TIMEOUT": 5})
    async with ClusterRpcProxy(config, timeout=20) as cluster:
        await container.start()
        reply = cluster[container.service_name].method.call_async()
        await gate.entered.wait()
        try:
            yield container, reply
        finally:
            await container.stop()


async def test_a_drain_reconnects_to_send_a_reply_that_waits(
    broker_config: dict[str, Any],
) -> None:
    gate = Gate()
    async with called(broker_config, gate) as (container, reply):
        restore = cut(container.transport)
        await becomes(container, ok=False)
        stopping = asyncio.create_task(container.stop())
        gate.opened.set()
        await eventually(lambda: container.transport.waiting)
        assert not stopping.done()
        restore()
        assert await reply.result() == "done"
        async with asyncio.timeout(4):
            await stopping
        assert gate.runs == 1


async def test_a_drain_does_not_wait_for_a_connection_if_nothing_waits_to_be_sent(
    broker_config: dict[str, Any],
) -> None:
    async with ServiceContainer(gated(Gate()), broker_config) as container:
        cut(container.transport)
        await becomes(container, ok=False)
        async with asyncio.timeout(3):  # SHUTDOWN_TIMEOUT is 25
            await container.stop()


async def test_a_drain_ends_in_time_if_a_reply_cannot_be_sent(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    config = {**broker_config, "SHUTDOWN_TIMEOUT": 0.3}
    service = gated(gate)
    async with ClusterRpcProxy(broker_config, timeout=20) as cluster:
        container = ServiceContainer(service, config)
        await container.start()
        cluster[container.service_name].method.call_async()
        await gate.entered.wait()
        cut(container.transport)
        await becomes(container, ok=False)
        gate.opened.set()
        async with asyncio.timeout(5):
            await container.stop()
        assert "1 message(s), such as replies, could not be sent" in caplog.text
        assert container.transport.state is State.CLOSED

"""Queues are bound again now and then: what was removed comes back, and nobody is disturbed."""

from __future__ import annotations

import asyncio
import uuid

import aio_pika
import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer, UnknownService, rpc
from aiorpc.transports.amqp import subscription as amqp_subscription


@pytest.mark.rabbitmq
async def test_a_lost_binding_comes_back(
    rabbitmq_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_subscription, "BIND_EVERY", 0.3)

    class Service:
        name = f"bound_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            return "done"

    async with (
        ServiceContainer(Service, {"AMQP_URI": rabbitmq_uri}),
        ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5) as cluster,
        await aio_pika.connect(rabbitmq_uri) as connection,
    ):
        queue = await (await connection.channel()).get_queue(f"rpc-{Service.name}")
        await queue.unbind("nameko-rpc", f"{Service.name}.*")
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await cluster[Service.name].method() == "done"
                    break
                except UnknownService:
                    await asyncio.sleep(0.05)


@pytest.mark.rabbitmq
async def test_whoever_stops_while_it_binds_again_stops(
    rabbitmq_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(amqp_subscription, "BIND_EVERY", 0.003)  # all the time

    class Service:
        name = f"bound_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            return "done"

    for number in range(20):
        async with asyncio.timeout(10):
            async with (
                ServiceContainer(Service, {"AMQP_URI": rabbitmq_uri}),
                ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5) as cluster,
            ):
                await asyncio.sleep(number / 1000)  # stop at another point of it each time
                assert await cluster[Service.name].method() == "done"
    # A channel.close said twice, say, is answered by closing the connection.
    assert "lost the connection" not in caplog.text

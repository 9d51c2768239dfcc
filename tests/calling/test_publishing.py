"""What the publisher of a message or an event learns about its fate."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    EventDispatcher,
    Exchange,
    Overloaded,
    Publisher,
    Queue,
    ServiceContainer,
    Unroutable,
    event_dispatcher,
    rpc,
)
from aiorpc.calling.client import Client
from aiorpc.calling.proxies import ClusterProxy
from tests.support.clients import client_on


class Source:
    name = "source"
    dispatch = EventDispatcher(mandatory=True)
    publish = Publisher(mandatory=True)

    @rpc
    async def dispatched(self) -> str:
        try:
            await self.dispatch("happened", 1)
        except Unroutable as error:
            return f"unroutable: {error}"
        return "confirmed"

    @rpc
    async def published(self) -> str:
        try:
            await self.publish(1, routing_key="no-such-queue")
        except Unroutable as error:
            return f"unroutable: {error}"
        return "confirmed"


async def test_a_mandatory_message_that_no_queue_takes_raises_unroutable(
    broker_config: dict[str, Any],
) -> None:
    service = type("Source", (Source,), {"name": f"source_{uuid.uuid4().hex[:8]}"})
    async with (
        ServiceContainer(service, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        remote = cluster[service.name]
        assert (await remote.dispatched()).startswith("unroutable")
        assert (await remote.published()).startswith("unroutable")


@asynccontextmanager
async def full(config: Any, exchange: Exchange, name: str, key: str) -> AsyncIterator[Client]:
    """A client on a broker where queue *name*, bound to *exchange*, refuses a second message."""
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = Queue(name, exchange, key, arguments=arguments)
    async with client_on(config, timeout=5) as client:
        await client.transport.declare([], [queue])
        try:
            yield client
        finally:
            await client.transport.delete(name)


async def test_a_request_that_a_full_queue_refuses_raises_overloaded(rabbitmq_uri: str) -> None:
    service = f"full_{uuid.uuid4().hex[:8]}"
    requests = Exchange("nameko-rpc", "topic")
    config = {"AMQP_URI": rabbitmq_uri}
    async with full(config, requests, f"rpc-{service}", f"{service}.*") as client:
        method = ClusterProxy(client)[service].method
        waits = method.call_async()
        with pytest.raises(Overloaded, match=f"{service}.method"):
            await method()
        assert not waits.done()
        assert client.in_flight == 1


async def test_an_event_that_a_full_queue_refuses_raises_overloaded(rabbitmq_uri: str) -> None:
    source = f"full_{uuid.uuid4().hex[:8]}"
    events = Exchange(f"{source}.events", "topic")
    config = {"AMQP_URI": rabbitmq_uri}
    async with (
        full(config, events, f"evt-{source}-happened", "happened"),
        event_dispatcher(config) as dispatch,
    ):
        await dispatch(source, "happened", 1)
        with pytest.raises(Overloaded, match=f"{source}.events"):
            await dispatch(source, "happened", 2)

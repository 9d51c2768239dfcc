"""``Publisher`` and ``@consume``: messages of any exchange and queue, over every transport."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    Exchange,
    Publisher,
    Queue,
    RemoteError,
    ServiceContainer,
    consume,
    rpc,
)


def service(suffix: str, *, fail_first: bool = False) -> Any:
    exchange = Exchange(f"things-{suffix}", type="direct", auto_delete=True)
    queue = Queue(f"things-{suffix}", exchange, "thing", exclusive=True, durable=False)

    class Things:
        name = f"things_{suffix}"
        seen: asyncio.Queue[Any] = asyncio.Queue()
        publish = Publisher(exchange, mandatory=True)
        failures = 0

        @rpc
        async def send(self, payload: object, routing_key: str = "thing") -> None:
            await self.publish(payload, routing_key=routing_key, expiration=60, priority=1)

        @consume(queue, requeue_on_error=fail_first)
        async def take(self, payload: object) -> None:
            if fail_first and not type(self).failures:
                type(self).failures += 1
                raise ValueError("again, please")
            await self.seen.put(payload)

    return Things


async def test_what_is_published_is_consumed(broker_config: dict[str, Any]) -> None:
    things = service(uuid.uuid4().hex[:8])
    async with (
        ServiceContainer(things, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        for payload in ({"id": 1}, [1, 2], None, "text"):
            await cluster[things.name].send(payload)
            assert await asyncio.wait_for(things.seen.get(), 5) == payload


async def test_a_mandatory_message_that_no_queue_takes_is_an_error(
    broker_config: dict[str, Any],
) -> None:
    things = service(uuid.uuid4().hex[:8])
    async with (
        ServiceContainer(things, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError) as info:
            await cluster[things.name].send(1, routing_key="nobody")
        assert info.value.exc_type == "Unroutable"


async def test_requeue_on_error_brings_the_message_again(broker_config: dict[str, Any]) -> None:
    things = service(uuid.uuid4().hex[:8], fail_first=True)
    async with (
        ServiceContainer(things, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        await cluster[things.name].send("twice")
        assert await asyncio.wait_for(things.seen.get(), 5) == "twice"
    assert things.failures == 1


def test_consume_takes_a_queue() -> None:
    with pytest.raises(ConfigurationError, match=r"takes an aiorpc\.Queue, got str"):
        consume("things")  # type: ignore[arg-type]

"""Services and events with names of any characters; over every transport."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    RpcTimeout,
    ServiceContainer,
    UnknownService,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from tests.support.waiting import PATIENCE


@pytest.mark.parametrize("odd", ["*#", "'\"%41{b}\\", "é中😀", ".a b", "x" * 150], ids=ascii)
async def test_a_service_of_any_name_answers_and_failures_are_explained(
    broker_config: dict[str, Any], odd: str
) -> None:
    service_name = f"{uuid.uuid4().hex[:8]}{odd}"

    class Service:
        name = service_name

        @rpc
        async def method(self) -> str:
            return "done"

        @rpc
        async def wait(self) -> None:
            await asyncio.Event().wait()

    async with ClusterRpcProxy(broker_config, timeout=PATIENCE) as cluster:
        service = cluster[service_name]
        method, careful = service.method, service.method.with_options(fail_fast=True)
        with pytest.raises(UnknownService):
            await careful()
        async with ServiceContainer(Service, broker_config) as container:
            assert await method() == await careful() == "done"
            explained = re.escape(f"queue rpc-{service_name} has 1 consumer")
            with pytest.raises(RpcTimeout, match=explained):
                await service.wait.with_options(timeout=0.2)()
            queue = container.queues[0]
        async with open_transport(resolve(broker_config)) as transport:
            await transport.delete(queue)


@pytest.mark.parametrize(
    ("event_type", "handled"),
    [
        ("orders.*", ["orders.new", "orders.é"]),
        ("#", ["orders.new", "orders.é", "bills.é"]),
        ("*.é", ["orders.é", "bills.é"]),
    ],
)
async def test_an_event_type_may_be_a_pattern(
    broker_config: dict[str, Any], event_type: str, handled: list[str]
) -> None:
    config = {**broker_config, "AUTO_DELETE_EVENT_EXCHANGES": True}
    source = f"source é{uuid.uuid4().hex[:8]}"
    came: asyncio.Queue[str] = asyncio.Queue()

    class Service:
        name = f"service_{source}"

        @event_handler(source, event_type, reliable_delivery=False)
        async def method(self, payload: str) -> None:
            came.put_nowait(payload)

    async with ServiceContainer(Service, config), event_dispatcher(config) as dispatch:
        for each in ("orders.new", "orders.é", "bills.é"):
            await dispatch(source, each, each)
        assert [await asyncio.wait_for(came.get(), PATIENCE) for _ in handled] == handled
    assert came.empty()

"""``@event_handler``: which instances get an event, and what happens while none runs."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aiorpc import (
    BROADCAST,
    SERVICE_POOL,
    SINGLETON,
    ConfigurationError,
    ServiceContainer,
    event_dispatcher,
    event_handler,
)
from aiorpc.config import resolve
from aiorpc.entrypoints.events import EventHandler
from aiorpc.transports import open_transport
from tests.support.waiting import PATIENCE


@pytest.fixture
def config(broker_config: dict[str, Any]) -> dict[str, Any]:
    return {**broker_config, "AUTO_DELETE_EVENT_EXCHANGES": True}


@pytest.mark.parametrize(
    ("handler_type", "handled"),
    [
        (SERVICE_POOL, [("first", "one"), ("first", "two"), ("second", "one")]),
        (SINGLETON, None),
        (BROADCAST, [*[("first", "one"), ("first", "two")] * 2, ("second", "one")]),
    ],
)
async def test_the_handler_type_chooses_the_instances_that_get_an_event(
    config: dict[str, Any], handler_type: Any, handled: list[tuple[str, str]] | None
) -> None:
    source = f"source_{uuid.uuid4().hex[:8]}"
    came: asyncio.Queue[tuple[int, tuple[str, str]]] = asyncio.Queue()
    handler = event_handler(source, "sold", handler_type, reliable_delivery=False)

    class First:
        name = f"first_{source}"

        @handler
        async def one(self, number: int) -> None:
            came.put_nowait((number, ("first", "one")))

        @handler
        async def two(self, number: int) -> None:
            came.put_nowait((number, ("first", "two")))

    class Second:
        name = f"second_{source}"

        @handler
        async def one(self, number: int) -> None:
            came.put_nowait((number, ("second", "one")))

    async with AsyncExitStack() as stack:
        for service in (First, First, Second):
            await stack.enter_async_context(ServiceContainer(service, config))
        dispatch = await stack.enter_async_context(event_dispatcher(config))
        numbers = range(3)
        for number in numbers:
            await dispatch(source, "sold", number)
        async with asyncio.timeout(PATIENCE):
            got = [await came.get() for _ in numbers for _ in handled or [None]]
    if handled is None:
        assert sorted(number for number, _ in got) == [*numbers]
    else:
        assert Counter(got) == Counter((number, each) for number in numbers for each in handled)


@pytest.mark.parametrize("reliable", [True, False])
async def test_only_a_reliable_handler_gets_the_events_of_the_time_in_which_it_did_not_run(
    config: dict[str, Any], reliable: bool
) -> None:
    source = f"source_{uuid.uuid4().hex[:8]}"
    came: asyncio.Queue[int] = asyncio.Queue()

    class Listener:
        name = f"listener_{source}"

        @event_handler(source, "sold", reliable_delivery=reliable)
        async def hear(self, number: int) -> None:
            came.put_nowait(number)

    async with event_dispatcher(config) as dispatch, AsyncExitStack() as cleanup:
        transport = await cleanup.enter_async_context(open_transport(resolve(config), name="test"))
        container = ServiceContainer(Listener, config)
        async with container:
            (queue,) = container.queues
        cleanup.push_async_callback(transport.delete, queue)
        await dispatch(source, "sold", 1)
        async with ServiceContainer(Listener, config), asyncio.timeout(PATIENCE):
            await dispatch(source, "sold", 2)
            assert [await came.get() for _ in range(1 + reliable)] == [1, 2][not reliable :]


def test_a_reliable_broadcast_handler_needs_an_identity() -> None:
    with pytest.raises(ConfigurationError, match="broadcast_identifier"):
        event_handler("source", "sold", BROADCAST)

    class Named(EventHandler):
        @property
        def broadcast_identifier(self) -> str:
            return "host-1"

    Named("source", "sold", BROADCAST)
    event_handler("source", "sold", BROADCAST, broadcast_identifier="host-1")
    with pytest.raises(ConfigurationError, match="not a value of type int"):
        event_handler("source", "sold", BROADCAST, broadcast_identifier=1)


async def test_a_broadcast_handler_finds_the_queue_of_its_identity_after_a_restart(
    broker_config: dict[str, Any],
) -> None:
    config = {**broker_config, "DISCOVERY": False}
    source = f"source_{uuid.uuid4().hex[:8]}"
    came: asyncio.Queue[int] = asyncio.Queue()

    class Listener:
        name = f"listener_{source}"

        @event_handler(source, "sold", BROADCAST, broadcast_identifier="host-1")
        async def hear(self, number: int) -> None:
            came.put_nowait(number)

    async with event_dispatcher(config) as dispatch, AsyncExitStack() as cleanup:
        transport = await cleanup.enter_async_context(open_transport(resolve(config), name="test"))
        container = ServiceContainer(Listener, config)
        async with container:
            (queue,) = container.queues
        assert queue.endswith("hear-host-1")
        cleanup.push_async_callback(transport.delete, queue)
        await dispatch(source, "sold", 1)
        async with ServiceContainer(Listener, config), asyncio.timeout(PATIENCE):
            assert await came.get() == 1


def test_an_unknown_handler_type_is_refused() -> None:
    handler_type: Any = "everyone"
    with pytest.raises(ConfigurationError, match="got 'everyone'"):
        event_handler("source", "sold", handler_type)

"""A look at services, and what changes between two looks, on each transport."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from aiorpc import BROADCAST, ClusterRpcProxy, ServiceContainer, event_handler, rpc
from aiorpc.config import resolve
from aiorpc.hosting.discovery.asking import asking
from aiorpc.hosting.discovery.watching import MISSES, Watch
from aiorpc.transports import open_transport
from aiorpc.transports.base import QueueState, State
from tests.support.waiting import eventually

#: Seconds to wait for answers.
WAIT = 0.3


class Shop:
    name = "tests_top"
    go_on = asyncio.Event()

    @rpc
    async def quote(self) -> str:
        return "9.90"

    @rpc(max_concurrency=1)
    async def waits(self) -> None:
        await self.go_on.wait()

    @event_handler("tests_top", "sold", BROADCAST, reliable_delivery=False)
    async def hears(self, payload: Any) -> None: ...


@pytest.mark.slow
async def test_the_calls_between_two_looks_are_counted(broker_config: dict[str, Any]) -> None:
    Shop.go_on = asyncio.Event()
    settings = resolve(broker_config)
    async with (
        ServiceContainer(Shop, settings) as container,
        ServiceContainer(Shop, settings),
        ClusterRpcProxy(settings) as cluster,
        open_transport(settings) as transport,
        asking(transport) as asker,
    ):
        watch = Watch(transport, asker, [Shop.name], WAIT)
        await watch.look()
        for _ in range(10):
            await cluster.tests_top.quote()
        calls = [cluster.tests_top.waits.call_async() for _ in range(4)]
        await eventually(lambda: container.running)
        view = await watch.look()
        rows = {row.method: row for row in view.methods}
        Shop.go_on.set()
        for call in calls:
            await call
    assert list(view.services) == [Shop.name]
    quote, waits, hears = rows["quote"], rows["waits"], rows["hears"]
    assert (quote.instances, quote.calls, quote.errors) == (2, 10, 0)
    assert quote.calls_per_second is not None
    assert 0 < quote.calls_per_second <= 10 / WAIT
    assert quote.p50_ms is not None
    assert quote.p99_ms is not None
    assert 0 < quote.p50_ms <= quote.p99_ms
    assert waits.calls == (waits.in_flight or 0) + (waits.waiting or 0) == 4
    assert (waits.queue, waits.consumers) == (0, 2)
    assert (hears.queue, hears.consumers) == (None, None)  # exclusive to the services


@pytest.mark.slow
async def test_a_queue_without_its_service_is_not_looked_at(
    broker_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look renews the expiry of a queue without consumers."""
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, asking(transport) as asker:
        inspect, looked = transport.inspect, list[str]()

        async def recording(queue: str, timeout: float = 0.04) -> QueueState | None:
            looked.append(queue)
            return await inspect(queue, timeout)

        monkeypatch.setattr(transport, "inspect", recording)
        watch = Watch(transport, asker, [Shop.name], WAIT)
        async with ServiceContainer(Shop, settings):
            await watch.look()
            await watch.look()
        # The queue of `hears` is exclusive: each look at it would close a channel.
        assert sorted(looked)[1:] == [f"rpc-{Shop.name}"] * 2
        del looked[:]
        await watch.look()
        assert looked == []


@pytest.mark.slow
async def test_a_queue_is_looked_at_again_after_a_lost_connection(
    broker_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = resolve(broker_config)
    async with (
        ServiceContainer(Shop, settings),
        open_transport(settings) as transport,
        asking(transport) as asker,
    ):
        watch = Watch(transport, asker, [Shop.name], WAIT)
        with monkeypatch.context() as patch:

            async def lost(queue: str, timeout: float = 0.04) -> QueueState | None:
                patch.setattr(transport, "state", State.CONNECTING)
                return None

            patch.setattr(transport, "inspect", lost)
            await watch.look()
        view = await watch.look()
    assert {row.method: row.queue for row in view.methods}["quote"] == 0


async def test_an_instance_that_answers_no_more_is_shown_for_a_while(
    broker_config: dict[str, Any],
) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, asking(transport) as asker:
        watch = Watch(transport, asker, [Shop.name], 0.05)
        async with ServiceContainer(Shop, settings):
            while not (view := await watch.look()).services:
                pass
            assert view.silent == []
        for _ in range(MISSES):
            view = await watch.look()
            assert view.silent == [f"{Shop.name} in {socket.gethostname()}:{os.getpid()}"]
        view = await watch.look()
        assert (view.silent, view.services) == ([], {})

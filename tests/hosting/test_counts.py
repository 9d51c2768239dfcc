"""What a container counts: the calls of each entrypoint, their errors, and their seconds."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiorpc import (
    BadArguments,
    ClusterRpcProxy,
    MethodNotFound,
    Overloaded,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    event_dispatcher,
    event_handler,
    once,
    rpc,
)
from aiorpc.hosting.counts import Activity, bucket_of, seconds_of
from tests.support.waiting import eventually


class Refused(Exception):
    """An error that the service expects."""


class Shop:
    name = "counted"
    go_on = asyncio.Event()

    @rpc
    async def quote(self) -> str:
        return "9.90"

    @rpc
    async def fails(self) -> None:
        raise ValueError("no such\ntitle")

    @rpc(expected_exceptions=Refused)
    async def refuses(self) -> None:
        raise Refused

    @rpc(sensitive_arguments="password")
    async def logs_in(self, password: str) -> None:
        raise ValueError(f"{password} is wrong")

    @rpc(max_concurrency=1, max_waiting=1)
    async def waits(self) -> None:
        await self.go_on.wait()

    @rpc
    async def stream(self) -> AsyncIterator[int]:
        yield 1
        await self.go_on.wait()

    @event_handler("counted", "sold")
    async def hears(self, payload: Any) -> None: ...

    @once
    async def begins(self) -> None: ...


@pytest.fixture
def config() -> dict[str, Any]:
    Shop.go_on = asyncio.Event()
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}


def of(container: ServiceContainer, method: str) -> Activity:
    (found,) = [each for each in container.activity() if each.entrypoint.method_name == method]
    return found


def figures(container: ServiceContainer, method: str) -> tuple[int, int, int, int]:
    """The ended calls, the errors, the running and the waiting calls of *method*."""
    found = of(container, method)
    return found.ended, found.errors, found.in_flight, found.waiting


async def test_calls_events_and_runs_are_counted_by_their_entrypoint(
    config: dict[str, Any],
) -> None:
    container = ServiceContainer(Shop, config)
    assert container.activity() == []
    async with container, ClusterRpcProxy(config) as cluster, event_dispatcher(config) as dispatch:
        for _ in range(3):
            await cluster.counted.quote()
        await dispatch("counted", "sold", "Emma")
        await eventually(lambda: figures(container, "hears") == (1, 0, 0, 0))
        assert figures(container, "begins") == (1, 0, 0, 0)
        assert figures(container, "quote") == (3, 0, 0, 0)
        assert figures(container, "fails") == (0, 0, 0, 0)
        assert of(container, "quote").seconds > 0


async def test_errors_are_counted_unless_the_service_expects_them(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config) as container, ClusterRpcProxy(config) as cluster:
        for method in ("fails", "refuses"):
            with pytest.raises(RemoteError):
                await cluster.counted[method]()
        assert figures(container, "fails") == (1, 1, 0, 0)
        assert of(container, "fails").last_error == "ValueError: no such\\ntitle"
        assert figures(container, "refuses") == (1, 0, 0, 0)
        with pytest.raises(RemoteError):
            await cluster.counted.logs_in("open sesame")
        assert of(container, "logs_in").last_error == "ValueError: *** is wrong"


async def test_running_waiting_refused_and_late_calls_are_counted(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config) as container, ClusterRpcProxy(config) as cluster:
        waits = cluster.counted.waits
        replies = [waits.call_async(), waits.call_async()]
        await eventually(lambda: figures(container, "waits") == (0, 0, 1, 1))
        with pytest.raises(Overloaded):
            await waits()
        assert figures(container, "waits") == (1, 1, 1, 1)
        Shop.go_on.set()
        for reply in replies:
            await reply
        assert figures(container, "waits") == (3, 1, 0, 0)
        Shop.go_on.clear()
        with pytest.raises(RpcTimeout):
            await waits.with_options(timeout=0.05)()
        await eventually(lambda: figures(container, "waits") == (4, 2, 0, 0))
        assert of(container, "waits").last_error.startswith("RpcTimeout: ")


async def test_wrong_requests_are_counted_and_cancelled_calls_that_wait_too(
    config: dict[str, Any],
) -> None:
    async with ServiceContainer(Shop, config) as container, ClusterRpcProxy(config) as cluster:
        with pytest.raises(BadArguments):
            await cluster.counted.logs_in(7)
        assert figures(container, "logs_in") == (1, 1, 0, 0)
        assert of(container, "logs_in").last_error.startswith("BadArguments: ")
        with pytest.raises(MethodNotFound):
            await cluster.counted.nobody()
        waits = cluster.counted.waits
        replies = [waits.call_async(), waits.call_async()]
        await eventually(lambda: figures(container, "waits") == (0, 0, 1, 1))
        replies[1].cancel()
        await eventually(lambda: figures(container, "waits") == (1, 0, 1, 0))
        Shop.go_on.set()
        await replies[0]
        assert sum(each.ended for each in container.activity()) == 4  # with that of @once


async def test_a_stream_is_one_call_until_it_ends(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config) as container, ClusterRpcProxy(config) as cluster:
        async for _ in cluster.counted.stream.stream():
            assert figures(container, "stream") == (0, 0, 1, 0)
            Shop.go_on.set()
        assert figures(container, "stream") == (1, 0, 0, 0)


async def test_a_reset_begins_from_zero(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config) as container, ClusterRpcProxy(config) as cluster:
        await cluster.counted.quote()
        container.reset_counts()
        assert figures(container, "quote") == (0, 0, 0, 0)
        await cluster.counted.quote()
        assert figures(container, "quote") == (1, 0, 0, 0)


async def test_durations_are_kept_while_somebody_asks(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config) as container, ClusterRpcProxy(config) as cluster:
        ledger = container._ledger
        await cluster.counted.quote()
        ledger.keep_durations(True)
        await cluster.counted.quote()
        assert sum(of(container, "quote").durations.values()) == 1
        ledger.keep_durations(True)  # a second observer
        await cluster.counted.quote()
        assert sum(of(container, "quote").durations.values()) == 2
        ledger.keep_durations(False)
        await cluster.counted.quote()
        assert of(container, "quote").durations == {}
        assert figures(container, "quote") == (4, 0, 0, 0)


@pytest.mark.parametrize("seconds", [0.000_01, 0.0003, 0.0123, 1.0, 59.0, 86_400.0])
def test_a_bucket_stands_for_a_duration_within_five_percent(seconds: float) -> None:
    assert seconds_of(bucket_of(seconds)) == pytest.approx(seconds, rel=0.05)
    assert bucket_of(seconds * 1.1) > bucket_of(seconds)


def test_durations_of_zero_have_a_bucket() -> None:
    assert bucket_of(0.0) == bucket_of(-1.0) == bucket_of(1e-9)

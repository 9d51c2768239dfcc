"""Metrics: names, labels, counts and times, for each kind of call; in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    EventDispatcher,
    MethodNotFound,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    event_handler,
    once,
    rpc,
)
from aiorpc.config import Settings
from aiorpc.middleware import metric_names
from aiorpc.middleware.prometheus import MOST, Metrics
from aiorpc.testing.faults import drop_connection
from tests.support.measured import Measured, measured
from tests.support.otel_registry import registry as otel_registry
from tests.support.waiting import eventually


class OutOfStock(Exception):
    pass


class Shop:
    name = "shop"
    dispatch = EventDispatcher()
    entered: asyncio.Event
    go: asyncio.Event

    @rpc
    async def sell(self, title: str) -> str:
        return title

    @rpc(expected_exceptions=OutOfStock)
    async def fail(self, kind: str) -> None:
        raise {"expected": OutOfStock, "other": ValueError}[kind]

    @rpc(max_concurrency=1)
    async def wait(self) -> None:
        self.entered.set()
        await self.go.wait()

    @rpc
    async def tell(self) -> None:
        await self.dispatch("sold", 1)

    @event_handler("shop", "sold")
    async def hear(self, payload: int) -> None:
        self.entered.set()

    @once
    async def begin(self) -> None: ...


class Figures:
    """The samples of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def calls(self, method: str, error: str = "", *, side: str = "server") -> float | None:
        name = f"rpc_{side}_call_duration_seconds_count"
        return self(name, rpc_system_name="nameko", rpc_method=method, error_type=error)


@pytest.fixture
def installed() -> Iterator[tuple[Settings, Measured]]:
    settings, metrics = measured("memory://")
    yield settings, metrics
    metrics._found.close()


@pytest.fixture
def metrics(installed: tuple[Settings, Measured]) -> Measured:
    return installed[1]


@pytest.fixture
def figures(metrics: Measured) -> Figures:
    return Figures(metrics.registry)


@pytest.fixture
async def cluster(settings: Settings) -> AsyncIterator[Any]:
    Shop.entered, Shop.go = asyncio.Event(), asyncio.Event()
    async with (
        ServiceContainer(Shop, settings),
        ClusterRpcProxy(settings, timeout=5) as entered,
    ):
        yield entered


async def test_calls_are_counted_on_both_sides(cluster: Any, figures: Figures) -> None:
    for _ in range(3):
        await cluster.shop.sell("Emma")
    for side in ("client", "server"):
        assert figures.calls("shop/sell", side=side) == 3
        name = f"rpc_{side}_call_duration_seconds_sum"
        labels = {"rpc_system_name": "nameko", "rpc_method": "shop/sell", "error_type": ""}
        assert 0 < (figures(name, **labels) or 0) < 5


async def test_errors_have_their_type_and_expected_errors_none(
    cluster: Any, figures: Figures
) -> None:
    for kind in ("expected", "other"):
        with suppress(RemoteError):
            await cluster.shop.fail(kind)
    assert figures.calls("shop/fail", "ValueError") == 1
    assert figures.calls("shop/fail") == 1
    assert figures.calls("shop/fail", "OutOfStock", side="client") == 1


async def test_a_call_past_its_deadline_is_a_timeout_and_a_cancelled_one_is_not(
    cluster: Any, figures: Figures
) -> None:
    with suppress(RpcTimeout):
        await cluster.shop.wait.with_options(timeout=0.05)()
    await eventually(lambda: figures.calls("shop/wait", "RpcTimeout"))
    Shop.entered.clear()
    task = asyncio.ensure_future(cluster.shop.wait())
    await Shop.entered.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await eventually(lambda: figures.calls("shop/wait", "CancelledError"))


async def test_methods_that_do_not_exist_share_one_label(cluster: Any, figures: Figures) -> None:
    for name in ("no", "nope", "never"):
        with pytest.raises(MethodNotFound):
            await cluster.shop[name]()
    await eventually(lambda: figures.calls("_OTHER", "MethodNotFound") == 3)
    assert figures.calls("_OTHER", "MethodNotFound", side="client") == 3
    assert b"nope" not in generate_latest(figures.registry)


async def test_events_are_counted_when_sent_and_when_handled(
    cluster: Any, figures: Figures
) -> None:
    await cluster.shop.tell()
    await Shop.entered.wait()
    sent = {
        "messaging_system": "rabbitmq",
        "messaging_operation_name": "publish",
        "messaging_destination_name": "shop.events:sold",
        "error_type": "",
    }
    assert figures("messaging_client_sent_messages_total", **sent) == 1
    assert figures("messaging_client_operation_duration_seconds_count", **sent) == 1
    handled = {
        "messaging_system": "rabbitmq",
        "messaging_operation_name": "process",
        "messaging_consumer_group_name": "shop.hear",
        "error_type": "",
    }
    await eventually(lambda: figures("messaging_client_consumed_messages_total", **handled))
    assert figures("messaging_process_duration_seconds_count", **handled) == 1


async def test_methods_without_a_message_are_timed(cluster: Any, figures: Figures) -> None:
    name, labels = "aiorpc_timer_duration_seconds_count", {"service": "shop", "method": "begin"}
    await eventually(lambda: figures(name, **labels, error_type=""))


async def test_waiting_for_a_worker_and_in_the_queue_are_told_from_running(
    cluster: Any, figures: Figures
) -> None:
    first = asyncio.ensure_future(cluster.shop.wait())
    await Shop.entered.wait()
    second = asyncio.ensure_future(cluster.shop.wait())
    labels = {"service": "shop", "method": "wait"}
    await eventually(lambda: figures("aiorpc_calls_waiting", **labels) == 1)
    assert figures("aiorpc_calls_in_flight", **labels) == 1
    assert figures("aiorpc_workers", service="shop") == 1
    assert figures("aiorpc_workers_max", service="shop") == 100
    assert figures("aiorpc_client_calls_in_flight") == 2
    began = asyncio.get_running_loop().time()
    Shop.go.set()
    await asyncio.gather(first, second)
    waited = figures("aiorpc_time_waiting_seconds_sum", **labels) or 0
    assert 0 < waited < asyncio.get_running_loop().time() - began + 5
    assert figures("aiorpc_time_waiting_seconds_count", **labels) == 2
    assert figures("aiorpc_time_in_queue_seconds_count", **labels) == 2
    assert figures("aiorpc_calls_waiting", **labels) == 0


async def test_time_in_the_queue_begins_when_the_caller_sends(
    settings: Settings, figures: Figures
) -> None:
    Shop.entered, Shop.go = asyncio.Event(), asyncio.Event()
    async with ClusterRpcProxy("memory://", timeout=5) as cluster:
        async with ServiceContainer(Shop, "memory://"):
            await cluster.shop.sell("Emma")  # the queue exists from now on
        late = asyncio.ensure_future(cluster.shop.sell("Emma"))
        await asyncio.sleep(0.05)  # the request is in the queue for so long
        async with ServiceContainer(Shop, settings):
            await late
    labels = {"service": "shop", "method": "sell"}
    assert 0.04 <= (figures("aiorpc_time_in_queue_seconds_sum", **labels) or 0) < 5


async def test_connections_and_lost_ones_are_counted(cluster: Any, figures: Figures) -> None:
    assert (figures("aiorpc_connections", state="connected") or 0) >= 2
    before = figures("aiorpc_reconnects_total") or 0
    with drop_connection(cluster):
        await eventually(lambda: (figures("aiorpc_reconnects_total") or 0) > before)


def test_labels_have_a_limit(metrics: Measured) -> None:
    bounded = metrics._found.bounded
    for number in range(MOST):
        bounded("error.type", f"Error{number}")
    assert bounded("error.type", "Error0") == "Error0"
    assert bounded("error.type", "one more") == "_OTHER"
    assert bounded("rpc.method", "one more") == "one more"


@pytest.mark.parametrize("buckets", ["coarse", [], [2.0, 1.0], ["1"], 5, [1.0, 1.0]])
def test_wrong_buckets_are_refused(buckets: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be default, fine, or"):
        Metrics(buckets, registry=CollectorRegistry())


def test_fine_buckets_begin_below_a_call() -> None:
    registry = CollectorRegistry()
    made = Metrics("fine", registry=registry)
    made._found.close()
    (durations,) = [
        family for family in registry.collect() if family.name == "rpc_server_call_duration_seconds"
    ]
    assert durations.type == "histogram"
    made._found._durations["server"].labels("nameko", "shop/sell", "").observe(0.00005)
    labels = {
        "rpc_system_name": "nameko",
        "rpc_method": "shop/sell",
        "error_type": "",
        "le": "0.0001",
    }
    assert registry.get_sample_value("rpc_server_call_duration_seconds_bucket", labels) == 1


def test_several_configurations_share_the_metrics_of_a_registry(metrics: Measured) -> None:
    registry = metrics.registry
    assert Metrics(registry=registry)._found is metrics._found
    with pytest.raises(ConfigurationError, match="other buckets already"):
        Metrics("fine", registry=registry)


def test_the_names_of_opentelemetry_are_in_its_registry() -> None:
    known = {name.replace(".", "_") for name in otel_registry("metrics")}
    attributes = {name.replace(".", "_") for name in otel_registry("attributes")}
    for metric in [*metric_names.DURATIONS.values(), *metric_names.MESSAGES.values()]:
        if not metric.name.startswith("aiorpc_"):
            assert metric.name.removesuffix("_seconds") in known
            assert set(metric.labels) <= attributes

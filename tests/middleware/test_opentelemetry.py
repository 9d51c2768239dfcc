"""Spans: their names, parents, attributes, status and events, for each kind of call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st
from opentelemetry import baggage, context as otel_context, propagate, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags, TraceState

from aiorpc import (
    Call,
    ClusterProxy,
    ClusterRpcProxy,
    ConnectionLost,
    ContextData,
    EventDispatcher,
    Handler,
    MethodNotFound,
    Publisher,
    Queue,
    RemoteError,
    RpcProxy,
    RpcTimeout,
    ServiceContainer,
    ServiceRunner,
    UnknownService,
    consume,
    event_handler,
    once,
    rpc,
)
from aiorpc.calling.client import Client
from aiorpc.config import Settings
from aiorpc.context import Context
from aiorpc.http import http
from aiorpc.middleware.opentelemetry import Tracing, _parent, _with_trace
from aiorpc.middleware.retries import retries
from aiorpc.sync import ClusterRpcProxy as SyncClusterRpcProxy
from aiorpc.testing import http_client
from aiorpc.wire.protocol import Wire
from tests.support.breakable import breakable
from tests.support.otel_registry import registry
from tests.support.spans import Spans, traced
from tests.support.waiting import eventually


class OutOfStock(Exception):
    pass


class Prices:
    name = "prices"
    traceparent = ContextData("traceparent")

    @rpc
    async def price_of(self, title: str) -> str:
        return "9.90"

    @rpc
    async def seen(self) -> str | None:
        return self.traceparent


class Shop:
    name = "shop"
    prices = RpcProxy("prices")
    dispatch = EventDispatcher()
    publish = Publisher(declare=[Queue("parcels")], routing_key="parcels")
    entered = asyncio.Event()

    @rpc
    async def sell(self, title: str) -> str:
        price: str = await self.prices.price_of(title)
        await self.dispatch("sold", title)
        await self.publish({"title": title})
        return price

    @rpc(expected_exceptions=OutOfStock, sensitive_arguments="password")
    async def fail(self, kind: str, password: str = "") -> None:
        raise {"expected": OutOfStock, "other": ValueError}[kind](f"no {kind} {password}")

    @rpc
    async def wait(self) -> None:
        Shop.entered.set()
        await asyncio.Event().wait()

    @rpc
    async def titles(self, count: int) -> AsyncIterator[str]:
        for number in range(count):
            yield f"title {number}"

    @rpc
    def blocking(self) -> bool:
        return trace.get_current_span().get_span_context().is_valid


class Letters:
    name = "letters"
    done: asyncio.Queue[str]

    @event_handler("shop", "sold")
    async def thank(self, title: str) -> None:
        self.done.put_nowait("thank")

    @consume(Queue("parcels"))
    async def pack(self, parcel: dict[str, str]) -> None:
        self.done.put_nowait("pack")


@pytest.fixture
def installed() -> tuple[Settings, Spans]:
    return traced("memory://")


@pytest.fixture
def spans(installed: tuple[Settings, Spans]) -> Spans:
    return installed[1]


@pytest.fixture
async def cluster(settings: Settings) -> AsyncIterator[ClusterProxy]:
    Letters.done = asyncio.Queue()
    async with (
        ServiceRunner(Prices, Shop, Letters, config=settings),
        ClusterRpcProxy(settings, timeout=5) as entered,
    ):
        yield entered


async def test_all_spans_of_a_request_form_one_tree(cluster: ClusterProxy, spans: Spans) -> None:
    assert await cluster.shop.sell("Emma") == "9.90"
    for _ in range(2):
        await asyncio.wait_for(Letters.done.get(), 5)
    await eventually(lambda: len(spans.finished()) == 8)
    assert spans.tree() == [
        "CLIENT shop/sell",
        "  SERVER shop/sell",
        "    CLIENT prices/price_of",
        "      SERVER prices/price_of",
        "    PRODUCER publish shop.events:sold",
        "      CONSUMER process shop.events:sold",
        "    PRODUCER publish parcels",
        "      CONSUMER process parcels",
    ]


async def test_attributes_are_those_of_the_registry_and_no_others(
    cluster: ClusterProxy, spans: Spans
) -> None:
    await cluster.shop.sell("Emma")
    for _ in range(2):
        await asyncio.wait_for(Letters.done.get(), 5)
    with pytest.raises(RemoteError):
        await cluster.shop.fail("other")
    with pytest.raises(MethodNotFound):
        await cluster.shop.nothing()
    await eventually(lambda: len(spans.finished()) == 12)
    known = registry("attributes")
    for span in spans.finished():
        names = {
            *(span.attributes or ()),
            *(name for each in span.events for name in each.attributes or ()),
        }
        assert not [
            name for name in names if known.get(name, "Deprecated").startswith("Deprecated")
        ]
    assert dict(spans.named("CLIENT", "shop/sell").attributes or {}) == {
        "rpc.system.name": "nameko",
        "rpc.method": "shop/sell",
    }
    assert dict(spans.named("PRODUCER", "publish shop.events:sold").attributes or {}) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop.events:sold",
        "messaging.rabbitmq.destination.routing_key": "sold",
    }
    consumed = spans.named("CONSUMER", "process shop.events:sold").attributes or {}
    assert consumed["messaging.operation.type"] == "process"
    assert consumed["messaging.consumer.group.name"] == "letters.thank"


async def test_the_programs_own_span_is_the_parent_and_its_baggage_travels(spans: Spans) -> None:
    seen: list[object] = []

    async def look(call: Call, handler: Handler) -> Any:
        seen.append((baggage.get_baggage("tenant"), call.context.data.get("baggage")))
        return await handler(call)

    tracing = Tracing(spans.provider)
    async with (
        ServiceContainer(Prices, "memory://", middleware=[tracing, look]),
        ClusterRpcProxy("memory://", middleware=[tracing]) as cluster,
    ):
        token = otel_context.attach(baggage.set_baggage("tenant", "north"))
        with spans.provider.get_tracer("test").start_as_current_span("checkout"):
            await cluster.prices.price_of("Emma")
        otel_context.detach(token)
    assert seen == [("north", "tenant=north")]
    assert spans.tree() == [
        "INTERNAL checkout",
        "  CLIENT prices/price_of",
        "    SERVER prices/price_of",
    ]


async def test_an_error_is_the_status_of_both_spans(cluster: ClusterProxy, spans: Spans) -> None:
    with pytest.raises(RemoteError):
        await cluster.shop.fail("other")
    client, server = (spans.named(kind, "shop/fail") for kind in ("CLIENT", "SERVER"))
    for span in (client, server):
        assert span.status.status_code is StatusCode.ERROR
        attributes = span.attributes or {}
        assert attributes["error.type"] == "ValueError"
        assert attributes["rpc.response.status_code"] == "ValueError"
    assert client.status.description == "ValueError no other "
    # The method has sensitive arguments.
    assert server.status.description is None
    assert not server.events


async def test_the_error_of_a_method_is_an_event_with_its_stack(spans: Spans) -> None:
    class Broken:
        name = "broken"

        @rpc
        async def run(self) -> None:
            raise ValueError("no luck")

    async with (
        ServiceContainer(Broken, "memory://", middleware=[Tracing(spans.provider)]),
        ClusterRpcProxy("memory://") as cluster,
    ):
        with pytest.raises(RemoteError):
            await cluster.broken.run()
    (event,) = spans.named("SERVER", "broken/run").events
    attributes = event.attributes or {}
    assert event.name == "exception"
    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == "no luck"
    assert 'raise ValueError("no luck")' in str(attributes["exception.stacktrace"])


async def test_an_expected_error_is_an_answer_and_no_error(
    cluster: ClusterProxy, spans: Spans
) -> None:
    with pytest.raises(RemoteError):
        await cluster.shop.fail("expected")
    server = spans.named("SERVER", "shop/fail")
    assert server.status.status_code is StatusCode.UNSET
    assert (server.attributes or {})["rpc.response.status_code"] == "OutOfStock"
    assert "error.type" not in (server.attributes or {})


async def test_a_method_that_does_not_exist_is_named_other(
    cluster: ClusterProxy, spans: Spans
) -> None:
    with pytest.raises(MethodNotFound):
        await cluster.shop.nothing()
    await eventually(lambda: len(spans.finished()) == 2)
    for kind in ("CLIENT", "SERVER"):
        attributes = spans.named(kind, "_OTHER").attributes or {}
        assert attributes["rpc.method"] == "_OTHER"
        assert attributes["rpc.method_original"] == "shop/nothing"
        assert attributes["error.type"] == "MethodNotFound"


async def test_an_error_of_the_caller_has_no_status_code(spans: Spans) -> None:
    async with ClusterRpcProxy("memory://", middleware=[Tracing(spans.provider)]) as cluster:
        with pytest.raises(UnknownService):
            await cluster.nobody.method()
    attributes = spans.named("CLIENT", "nobody/method").attributes or {}
    assert attributes["error.type"] == "UnknownService"
    assert "rpc.response.status_code" not in attributes


async def test_a_cancelled_call_is_an_event_and_no_error_of_the_service(
    cluster: ClusterProxy, spans: Spans
) -> None:
    Shop.entered.clear()
    task = asyncio.ensure_future(cluster.shop.wait())
    await Shop.entered.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await eventually(lambda: len(spans.finished()) == 2)
    client, server = (spans.named(kind, "shop/wait") for kind in ("CLIENT", "SERVER"))
    assert [event.name for event in server.events] == ["aiorpc.cancel"]
    assert server.status.status_code is StatusCode.UNSET
    assert (client.attributes or {})["error.type"] == "CancelledError"


async def test_a_call_past_its_deadline_is_a_timeout_on_both_sides(
    cluster: ClusterProxy, spans: Spans
) -> None:
    with pytest.raises(RpcTimeout):
        await cluster.shop.wait.with_options(timeout=0.05)()
    await eventually(lambda: len(spans.finished()) == 2)
    for kind in ("CLIENT", "SERVER"):
        span = spans.named(kind, "shop/wait")
        assert (span.attributes or {})["error.type"] == "RpcTimeout"
        assert span.status.status_code is StatusCode.ERROR


async def test_the_spans_of_a_stream_last_until_its_end_and_have_its_first_item(
    cluster: ClusterProxy, spans: Spans
) -> None:
    titles = [title async for title in cluster.shop.titles.stream(1000)]
    assert len(titles) == 1000
    await eventually(lambda: len(spans.finished()) == 2)
    for kind in ("CLIENT", "SERVER"):
        span = spans.named(kind, "shop/titles")
        assert [each.name for each in span.events] == [
            "aiorpc.stream.first_item",
            "aiorpc.stream.end",
        ]
        assert span.end_time is not None
        assert all(each.timestamp <= span.end_time for each in span.events)


async def test_a_request_that_is_sent_again_is_an_event_of_the_one_span_of_the_call(
    settings: Settings, spans: Spans
) -> None:
    async with (
        ServiceContainer(Prices, "memory://"),
        breakable({"AMQP_URI": "memory://"}) as link,
        link.transport,
        Client(link.transport, Wire.of(settings), settings, owner="a test") as client,
    ):
        route = client.route("prices", "price_of")
        link.mute()
        call = client.new_call(route, ("Emma",), {})
        waiting = asyncio.ensure_future(client.handler(route)(call))
        await asyncio.sleep(0)  # the request leaves in this turn
        await link.break_connection()
        assert await waiting == "9.90"
    (event,) = spans.named("CLIENT", "prices/price_of").events
    assert event.name == "aiorpc.resend"


async def test_a_call_that_is_made_again_is_an_event(spans: Spans) -> None:
    failed: list[str] = []

    async def fails_once(call: Call, handler: Handler) -> Any:
        if not failed:
            failed.append(str(call))
            raise ConnectionLost("for this test")
        return await handler(call)

    again = retries(methods=["prices.*"], first_pause=0.001)
    middleware = [Tracing(spans.provider), again, fails_once]
    async with (
        ServiceContainer(Prices, "memory://"),
        ClusterRpcProxy("memory://", middleware=middleware) as cluster,
    ):
        await cluster.prices.price_of("Emma")
    (event,) = spans.named("CLIENT", "prices/price_of").events
    assert event.name == "aiorpc.retry"


async def test_a_sync_method_runs_inside_the_span(cluster: ClusterProxy) -> None:
    assert await cluster.shop.blocking() is True


async def test_a_method_that_no_message_starts_has_an_internal_span(
    settings: Settings, spans: Spans
) -> None:
    class Begin:
        name = "begin"
        prices = RpcProxy("prices")

        @once
        async def begin(self) -> None:
            await self.prices.price_of("Emma")

    async with ServiceContainer(Prices, settings), ServiceContainer(Begin, settings):
        await eventually(lambda: len(spans.finished()) == 3)
    assert spans.tree() == [
        "INTERNAL begin/begin",
        "  CLIENT prices/price_of",
        "    SERVER prices/price_of",
    ]


async def test_a_request_over_http_continues_the_trace_of_its_client(
    settings: Settings, spans: Spans
) -> None:
    class Books:
        name = "books"
        prices = RpcProxy("prices")

        @http("GET", "/books/<int:id>")
        async def book(self, id: int) -> str:  # noqa: A002 - the name in the path
            price: str = await self.prices.price_of("Emma")
            return price

        @http("GET", "/broken")
        async def broken(self) -> None:
            raise ValueError("no luck")

    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    async with (
        ServiceContainer(Prices, settings),
        ServiceContainer(Books, settings) as container,
        http_client(container) as client,
    ):
        assert (await client.get("/books/7", headers=headers)).text == "9.90"
        assert (await client.get("/broken")).status_code == 500
    book = spans.named("SERVER", "GET /books/<int:id>")
    assert book.parent is not None
    assert book.parent.is_remote
    assert dict(book.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/books/<int:id>",
        "url.path": "/books/7",
        "url.scheme": "http",
    }
    inner = spans.named("SERVER", "prices/price_of")
    assert inner.context is not None
    assert f"{inner.context.trace_id:032x}" == trace_id
    broken = spans.named("SERVER", "GET /broken")
    assert broken.status.status_code is StatusCode.ERROR
    assert (broken.attributes or {})["error.type"] == "ValueError"


@pytest.mark.parametrize("kind", ["rpc", "event"])
async def test_spans_have_the_address_of_the_broker_in_the_configuration(
    kind: str, spans: Spans
) -> None:
    async def handler(call: Call) -> None: ...

    call = Call("shop", "sold", kind=kind, exchange="shop.events", broker=("rabbit.internal", 5671))
    await Tracing(spans.provider)(call, handler)
    (span,) = spans.finished()
    attributes = span.attributes or {}
    assert (attributes["server.address"], attributes["server.port"]) == ("rabbit.internal", 5671)


async def test_a_program_without_asyncio_makes_spans_too(spans: Spans) -> None:
    tracing = [Tracing(spans.provider)]

    def call() -> object:
        proxy = SyncClusterRpcProxy("memory://sync-spans", middleware=tracing)
        with proxy as cluster, suppress(UnknownService):
            cluster.nobody.method()
        return None

    await asyncio.to_thread(call)
    assert spans.tree() == ["CLIENT nobody/method"]


# Sampling and propagation


async def test_the_trace_of_an_unsampled_call_travels_and_makes_no_spans() -> None:
    spans = Spans(ParentBased(ALWAYS_OFF))
    tracing = [Tracing(spans.provider)]
    async with (
        ServiceContainer(Prices, "memory://", middleware=tracing),
        ClusterRpcProxy("memory://", middleware=tracing) as cluster,
    ):
        seen = await cluster.prices.seen()
    assert seen.endswith(("-02", "-00"))  # the flags: not sampled
    assert spans.finished() == []


async def test_a_service_samples_as_its_caller_did() -> None:
    caller, service = Spans(ParentBased(ALWAYS_OFF)), Spans(DEFAULT_ON)
    async with (
        ServiceContainer(Prices, "memory://", middleware=[Tracing(service.provider)]),
        ClusterRpcProxy("memory://", middleware=[Tracing(caller.provider)]) as cluster,
    ):
        await cluster.prices.price_of("Emma")
    assert service.finished() == []


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
async def test_traces_are_sampled_by_their_ids_as_the_sampler_says(rate: float) -> None:
    spans, seen = Spans(ParentBased(TraceIdRatioBased(rate))), []

    async def handler(call: Call) -> None:
        seen.append(int(call.context.data["traceparent"][3:35], 16))

    tracing = Tracing(spans.provider)
    for _ in range(200):
        await tracing(Call("prices", "price_of"), handler)
    bound = TraceIdRatioBased.get_bound_for_rate(rate)
    sampled = {trace_id for trace_id in seen if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < bound}
    recorded = {span.context.trace_id for span in spans.finished() if span.context}
    assert len(set(seen)) == 200
    assert recorded == sampled
    assert abs(len(sampled) - 200 * rate) < 60  # more than eight standard deviations


async def test_what_a_method_measures_itself_is_not_sampled_either() -> None:
    spans = Spans(ParentBased(ALWAYS_OFF))

    async def measure(call: Call, handler: Handler) -> Any:
        with spans.provider.get_tracer("test").start_as_current_span("inside") as span:
            assert not span.is_recording()
            context = span.get_span_context()
            assert f"{context.trace_id:032x}" in call.context.data["traceparent"]
            return await handler(call)

    async with (
        ServiceContainer(Prices, "memory://", middleware=[Tracing(spans.provider), measure]),
        ClusterRpcProxy("memory://") as cluster,
    ):
        await cluster.prices.price_of("Emma")
    assert spans.finished() == []


async def test_a_trace_passes_a_service_without_the_middleware(spans: Spans) -> None:
    tracing = [Tracing(spans.provider)]
    async with (
        ServiceContainer(Prices, "memory://", middleware=tracing),
        ServiceContainer(Shop, "memory://"),
        ClusterRpcProxy("memory://", middleware=tracing) as cluster,
    ):
        await cluster.shop.sell("Emma")
    assert spans.tree() == ["CLIENT shop/sell", "  SERVER prices/price_of"]


async def test_without_an_sdk_the_trace_of_a_caller_passes() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    tracing = [Tracing(trace.NoOpTracerProvider())]
    async with (
        ServiceContainer(Prices, "memory://", middleware=tracing),
        ClusterRpcProxy("memory://", middleware=tracing) as cluster,
    ):
        seen = cluster.prices.seen
        assert await seen() is None
        assert await seen.with_options(context_data={"traceparent": traceparent})() == traceparent


@pytest.mark.parametrize("odd", [5, None, "", "00-0-0-01", "zz", ["a"], b"\xff", "0" * 600])
async def test_an_odd_traceparent_of_a_peer_begins_a_new_trace(odd: Any, spans: Spans) -> None:
    async with (
        ServiceContainer(Prices, "memory://", middleware=[Tracing(spans.provider)]),
        ClusterRpcProxy("memory://", context_data={"traceparent": odd}) as cluster,
    ):
        await cluster.prices.price_of("Emma")
    assert spans.tree() == ["SERVER prices/price_of"]


async def test_a_new_trace_that_is_not_sampled_has_the_flags_that_the_sdk_gives_it() -> None:
    provider = Spans(ParentBased(ALWAYS_OFF)).provider
    seen: list[str] = []

    async def handler(call: Call) -> None:
        seen.append(call.context.data["traceparent"])

    await Tracing(provider)(Call("prices", "price_of"), handler)
    with provider.get_tracer("test").start_as_current_span("long way") as span:
        assert int(seen[0][-2:], 16) == span.get_span_context().trace_flags


@given(
    st.integers(1, (1 << 128) - 1),
    st.integers(1, (1 << 64) - 1),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_shortcut_reads_and_writes_what_the_propagators_do(
    trace_id: int, span_id: int, flags: int, stateful: bool
) -> None:
    state = TraceState([("vendor", "value")]) if stateful else None
    sent = SpanContext(trace_id, span_id, False, TraceFlags(flags), state)
    inside = trace.set_span_in_context(trace.NonRecordingSpan(sent), otel_context.Context())
    expected: dict[str, str] = {}
    propagate.inject(expected, inside)
    call = _with_trace(Call("shop", "sell"), inside, sent)
    assert dict(call.context.data) == expected
    received = trace.get_current_span(_parent(expected, local=False)).get_span_context()
    by_propagator = trace.get_current_span(propagate.extract(expected)).get_span_context()
    assert received == by_propagator


def test_a_trace_replaces_the_one_that_came_before_it() -> None:
    before = Call("a", "b", context=Context(data={"tracestate": "old=1", "user": 7}))
    sent = SpanContext(1, 2, False, TraceFlags(1))
    inside = trace.set_span_in_context(trace.NonRecordingSpan(sent), otel_context.Context())
    after = _with_trace(before, inside, sent).context.data
    assert dict(after) == {"user": 7, "traceparent": f"00-{1:032x}-{2:016x}-01"}

"""Where middleware stands: at every entrypoint, and wherever something is sent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from aiorpc import (
    BadArguments,
    Call,
    ClusterRpc,
    ClusterRpcProxy,
    ConfigurationError,
    ContextData,
    EventDispatcher,
    Exchange,
    Handler,
    MethodNotFound,
    Middleware,
    Overloaded,
    Publisher,
    Queue,
    RemoteError,
    RpcProxy,
    RpcTimeout,
    ServiceContainer,
    ServiceRpcProxy,
    ServiceRunner,
    consume,
    cron,
    event_dispatcher,
    event_handler,
    once,
    rpc,
    timer,
)
from aiorpc.config import Settings, resolve
from aiorpc.installed import middleware_of
from tests.support.recorded import Record
from tests.support.waiting import eventually

RECORD = "tests.support.recorded:Record"


def recording(config: dict[str, Any], **more: Any) -> tuple[Settings, Record]:
    settings = resolve({**config, "MIDDLEWARE": [RECORD], **more})
    (record,) = middleware_of(settings)
    assert isinstance(record, Record)
    return settings, record


@pytest.fixture
def memory() -> dict[str, Any]:
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}", "SHUTDOWN_TIMEOUT": 2}


async def test_the_configuration_s_middleware_sees_every_call_on_each_side(
    broker_config: dict[str, Any],
) -> None:
    unique = uuid.uuid4().hex[:8]
    messages = Exchange(f"messages-{unique}", auto_delete=True)
    heard: list[str] = []

    class Inner:
        name = f"inner_{unique}"
        recorded = ContextData("recorded")

        @rpc
        async def one(self) -> Any:
            return self.recorded

        @rpc
        async def stream(self) -> AsyncGenerator[int]:
            yield 1

        @event_handler(f"outer_{unique}", "happened", reliable_delivery=False)
        async def hear(self, payload: Any) -> None:
            heard.append(payload)

        @consume(Queue(f"inbox-{unique}", messages, "key", durable=False, auto_delete=True))
        async def take(self, payload: Any) -> None:
            heard.append(payload)

    class Outer:
        name = f"outer_{unique}"
        inner = RpcProxy(f"inner_{unique}")
        cluster = ClusterRpc()
        dispatch = EventDispatcher()
        publish = Publisher(messages)

        @rpc
        async def all(self) -> Any:
            await self.dispatch("happened", "from inside")
            await self.publish("message", routing_key="key")
            items = [item async for item in self.inner.stream.stream()]
            return items, await self.cluster[Inner.name].one()

        @timer(60, eager=True)
        async def tick(self) -> None: ...

        @cron("* * * * * *")
        async def chime(self) -> None: ...

        @once
        async def begin(self) -> None: ...

    settings, record = recording(broker_config)
    async with (
        ServiceRunner(Inner, Outer, config=settings) as runner,
        ServiceRpcProxy(Outer.name, settings) as outer,
        event_dispatcher(settings) as dispatch,
    ):
        assert await outer.all() == [[1], True]
        await dispatch(Outer.name, "happened", "from outside")
        await eventually(lambda: len(heard) == 3)
        await eventually(lambda: ("internal", "cron") in {each[:2] for each in record.seen})
        await eventually(lambda: not sum(each.running for each in runner.containers))
    names = {Inner.name: "inner", Outer.name: "outer"}
    seen = {
        (side, kind, f"{names[name.partition('.')[0]]}.{name.partition('.')[2]}")
        for side, kind, name, ended in record.seen
        if ended == "ok"
    }
    assert seen == {
        ("client", "rpc", "outer.all"),
        ("server", "rpc", "outer.all"),
        ("client", "rpc", "inner.stream"),
        ("server", "rpc", "inner.stream"),
        ("client", "rpc", "inner.one"),
        ("server", "rpc", "inner.one"),
        ("producer", "event", "outer.happened"),
        ("consumer", "event", "inner.hear"),
        ("producer", "message", "outer.publish"),
        ("consumer", "message", "inner.take"),
        ("internal", "timer", "outer.tick"),
        ("internal", "cron", "outer.chime"),
        ("internal", "once", "outer.begin"),
    }
    assert {
        (call.side, call.exchange, call.routing_key)
        for call, _ in record.calls
        if call.kind in ("event", "message")
    } == {
        (side, *names)
        for side in ("producer", "consumer")
        for names in ((f"{Outer.name}.events", "happened"), (messages.name, "key"))
    }


async def test_the_configuration_s_middleware_stands_outside_the_code_s(
    memory: dict[str, Any],
) -> None:
    order: list[tuple[str, Any]] = []

    def inside(name: str) -> Middleware:
        async def middleware(call: Call, handler: Handler) -> Any:
            order.append((name, call.context.data.get("recorded")))
            return await handler(call)

        return middleware

    class Inner:
        name = "inner"

        @rpc
        async def method(self) -> None: ...

    class Outer:
        name = "outer"
        inner = RpcProxy(Inner, middleware=[inside("proxy")])
        cluster = ClusterRpc(middleware=[inside("cluster")])
        dispatch = EventDispatcher(middleware=[inside("dispatcher")])
        publish = Publisher(Exchange("messages"), middleware=[inside("publisher")])

        @rpc
        async def method(self) -> None:
            await self.inner.method()
            await self.inner.method.with_options(middleware=[inside("method")])()
            await self.inner.method.with_options(middleware=[inside("async")]).call_async()
            await self.cluster.inner.method()
            await self.dispatch("happened")
            await self.publish("message")

    settings, _ = recording(memory)
    async with (
        ServiceContainer(Inner, settings),
        ServiceContainer(Outer, settings, middleware=[inside("container")]),
        ClusterRpcProxy(settings, middleware=[inside("client")]) as cluster,
        event_dispatcher(settings, middleware=[inside("dispatch")]) as dispatch,
    ):
        await cluster.outer.method()
        await dispatch("outer", "happened")
    assert order == [
        (name, True)
        for name in (
            *("client", "container", "proxy", "method", "async", "cluster", "dispatcher"),
            *("publisher", "dispatch"),
        )
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RpcProxy("x", middleware=5),
        lambda: EventDispatcher(middleware=[5]),
        lambda: Publisher(middleware=5),
        lambda: event_dispatcher("memory://", middleware=[5]).gen.__anext__().send(None),
    ],
)
def test_middleware_that_is_none_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a list of functions, got 5"):
        make()


async def test_a_sender_s_middleware_may_change_or_refuse_what_is_sent(
    memory: dict[str, Any],
) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def change(call: Call, handler: Handler) -> Any:
        if call.args == ("forbidden",):
            raise PermissionError(str(call))
        call = call.with_data({"tenant": 7})
        return await handler(
            call.replace(args=[*call.args, "more"])
            if call.args == (2,)
            else call.replace(args=(f"<{call.args[0]}>",))
        )

    class Service:
        name = "service"
        tenant = ContextData("tenant")

        @rpc
        async def echo(self, value: str) -> Any:
            return value, self.tenant

        @event_handler("source", "happened")
        async def hear(self, payload: str) -> None:
            heard.put_nowait((payload, self.tenant))

    async with (
        ServiceContainer(Service, memory),
        ClusterRpcProxy(memory, middleware=[change]) as cluster,
        event_dispatcher(memory, middleware=[change]) as dispatch,
    ):
        assert await cluster.service.echo("x") == ["<x>", 7]
        await dispatch("source", "happened", "x")
        assert await asyncio.wait_for(heard.get(), 5) == ("<x>", 7)
        with pytest.raises(PermissionError, match=r"service\.echo"):
            await cluster.service.echo("forbidden")
        with pytest.raises(PermissionError, match=r"source\.happened"):
            await dispatch("source", "happened", "forbidden")
        with pytest.raises(TypeError, match=r"gave source\.happened 2 argument"):
            await dispatch("source", "happened", 2)
    assert heard.empty()


# Refused requests


class Refusing:
    name = "refusing"
    release = asyncio.Event()

    @rpc(max_concurrency=1, max_waiting=0)
    async def busy(self) -> None:
        await self.release.wait()

    @rpc
    async def number(self, value: int) -> int:
        return value


async def test_refused_requests_pass_the_service_s_middleware(
    broker_config: dict[str, Any],
) -> None:
    seen: list[tuple[str, tuple[Any, ...], str, bool]] = []
    begun = asyncio.Event()

    class Service(Refusing):
        name = f"refusing_{uuid.uuid4().hex[:8]}"
        release = asyncio.Event()

    async def record(call: Call, handler: Handler) -> Any:
        assert call.side == "server"
        assert call.id.startswith(f"{call}.")
        assert call.context.data["tenant"] == 7
        if call.method == "busy":
            begun.set()
        try:
            return await handler(call)
        except Exception as error:
            known = call.entrypoint is not None
            seen.append((call.method, call.args, type(error).__name__, known))
            raise

    async with (
        ServiceContainer(Service, broker_config, middleware=[record]),
        ServiceRpcProxy(Service.name, broker_config, context_data={"tenant": 7}) as proxy,
    ):
        with pytest.raises(MethodNotFound, match="did you mean 'number'"):
            await proxy.numbr(1)
        with pytest.raises(BadArguments):
            await proxy.number("one")
        running = proxy.busy.call_async()
        await asyncio.wait_for(begun.wait(), 5)
        with pytest.raises(Overloaded) as refused:
            await proxy.busy()
        assert refused.value.retry_after is not None
        Service.release.set()
        await running
    assert seen == [
        ("numbr", (1,), "MethodNotFound", False),
        ("number", ("one",), "BadArguments", True),
        ("busy", (), "Overloaded", True),
    ]


async def test_a_call_that_waited_past_its_deadline_passes_too(memory: dict[str, Any]) -> None:
    ended: list[str] = []

    class Service:
        name = "service"
        release = asyncio.Event()

        @rpc
        async def wait(self) -> None:
            await self.release.wait()

    async def record(call: Call, handler: Handler) -> Any:
        try:
            return await handler(call)
        except BaseException as error:
            ended.append(f"{type(error).__name__} {error}")
            raise

    config = {**memory, "max_workers": 1, "PREFETCH_COUNT": 2}
    async with (
        ServiceContainer(Service, config, middleware=[record]),
        ClusterRpcProxy(memory, timeout=None) as cluster,
    ):
        running = cluster.service.wait.call_async()
        with pytest.raises(RpcTimeout):
            await cluster.service.wait.with_options(timeout=0.3)()
        Service.release.set()
        await running
        await eventually(lambda: ended)
    assert ended == ["RpcTimeout it waited for a free worker past its deadline"]


async def test_a_middleware_may_answer_a_refused_request_or_change_its_error(
    memory: dict[str, Any],
) -> None:
    async def answer(call: Call, handler: Handler) -> Any:
        try:
            return await handler(call)
        except MethodNotFound:
            if call.method == "hello":
                return f"hello {call.args[0]}"
            if call.method == "object":
                return object()
            raise LookupError(f"no {call.method} here") from None

    async with (
        ServiceContainer(Refusing, memory, middleware=[answer]),
        ClusterRpcProxy(memory) as cluster,
    ):
        assert await cluster.refusing.hello("x") == "hello x"
        with pytest.raises(RemoteError, match="LookupError no other here"):
            await cluster.refusing.other()
        with pytest.raises(RemoteError, match="UnserializableValueError"):
            await cluster.refusing.object()
        with pytest.raises(RemoteError, match="a middleware answered a stream with a str"):
            async for _ in cluster.refusing.hello.stream("x"):
                pass


async def test_a_middleware_that_hangs_delays_a_refusal_by_the_cleanup_timeout_at_most(
    memory: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(call: Call, handler: Handler) -> Any:
        await asyncio.Event().wait()

    memory["CLEANUP_TIMEOUT"] = 0.05
    async with (
        ServiceContainer(Refusing, memory, middleware=[hang]),
        ClusterRpcProxy(memory) as cluster,
    ):
        with pytest.raises(MethodNotFound):
            await cluster.refusing.other()
    assert "its middleware took longer than 0.05 s (CLEANUP_TIMEOUT)" in caplog.text


async def test_a_service_that_stops_answers_refused_requests_without_waiting(
    memory: dict[str, Any],
) -> None:
    begun = asyncio.Event()

    async def hang(call: Call, handler: Handler) -> Any:
        begun.set()
        await asyncio.Event().wait()

    memory["SHUTDOWN_TIMEOUT"] = 0.05
    async with ClusterRpcProxy(memory) as cluster:
        async with ServiceContainer(Refusing, memory, middleware=[hang]):
            reply = cluster.refusing.other.call_async()
            await asyncio.wait_for(begun.wait(), 5)
        with pytest.raises(MethodNotFound):
            await reply


async def test_a_refused_call_that_its_caller_cancels_is_settled_once(
    memory: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    refused, release = asyncio.Event(), asyncio.Event()

    async def slow(call: Call, handler: Handler) -> Any:
        try:
            return await handler(call)
        except Overloaded:
            refused.set()
            await release.wait()
            raise

    class Service(Refusing):
        release = asyncio.Event()

    async with (
        ServiceContainer(Service, memory, middleware=[slow]) as container,
        ClusterRpcProxy(memory, timeout=None) as cluster,
    ):
        running = cluster.refusing.busy.call_async()
        await eventually(lambda: container.running)
        second = cluster.refusing.busy.call_async()
        await asyncio.wait_for(refused.wait(), 5)
        second.cancel()
        for _ in range(10):  # turns of the one loop that both sides and the broker share
            await asyncio.sleep(0)
        release.set()
        Service.release.set()
        await running
    assert "could not be settled" not in caplog.text
    assert not container.overran


async def test_messages_that_cannot_be_read_pass_the_middleware(
    memory: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, tuple[Any, ...], str]] = []
    handled: list[Any] = []

    async def forgive(call: Call, handler: Handler) -> Any:
        try:
            return await handler(call)
        except Exception as error:
            seen.append((call.side, call.args, type(error).__name__))
            if call.args == ("forgiven",):
                return None
            raise

    class Service:
        name = "service"

        @event_handler("source", "counted")
        async def count(self, payload: int) -> None:
            handled.append(payload)

    async with (
        ServiceContainer(Service, memory, middleware=[forgive]),
        event_dispatcher(memory) as dispatch,
    ):
        for payload in ("bad", "forgiven", 1):
            await dispatch("source", "counted", payload)
        await eventually(lambda: handled == [1] and len(seen) == 2)
    assert seen == [
        ("consumer", ("bad",), "BadArguments"),
        ("consumer", ("forgiven",), "BadArguments"),
    ]
    assert caplog.text.count("cannot be read and is rejected") == 1

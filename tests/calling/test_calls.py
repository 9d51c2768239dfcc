"""Calls, from a caller to a service and back, over every transport."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pytest

from aiorpc import (
    BadArguments,
    Call,
    ClusterRpc,
    ClusterRpcProxy,
    ConfigurationError,
    ContextData,
    DependencyProvider,
    EventDispatcher,
    Handler,
    IncorrectSignature,
    MethodNotFound,
    Middleware,
    RemoteError,
    RpcProxy,
    RpcTimeout,
    ServiceContainer,
    ServiceRpcProxy,
    ServiceRunner,
    ServiceUnavailable,
    UnknownService,
    UnserializableValueError,
    WorkerContext,
    deserialize_to_instance,
    event_handler,
    from_thread,
    once,
    rpc,
    timer,
)
from aiorpc.calling.client import Client
from aiorpc.calling.proxies import ClusterProxy
from aiorpc.config import resolve
from tests.support.clients import client_on
from tests.support.waiting import eventually


@deserialize_to_instance
class OutOfStock(Exception):
    """Arrives at the caller as itself."""


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Whoami(DependencyProvider[WorkerContext]):
    def value(self, worker_ctx: WorkerContext) -> WorkerContext:
        return worker_ctx


def services(suffix: str) -> tuple[type, type]:
    """A pair of services with names that no other test uses."""

    class ServiceY:
        name = f"service_y_{suffix}"
        ctx = Whoami()

        @rpc
        async def append_identifier(self, value: str) -> str:
            return f"{value}-y"

        @rpc
        async def slow(self, seconds: float = 60.0) -> str:
            await asyncio.sleep(seconds)
            return "done"

        @rpc
        async def remaining(self) -> float | None:
            deadline = self.ctx.context.deadline
            return None if deadline is None else deadline.remaining()

        @rpc
        async def add_role(self) -> list[str]:
            roles: list[str] = self.ctx.context_data["roles"]
            roles.append("admin")
            return roles

        @rpc
        async def context(self) -> dict[str, Any]:
            return {"data": dict(self.ctx.context_data), "stack": list(self.ctx.call_id_stack)}

    class ServiceX:
        name = f"service_x_{suffix}"
        y = RpcProxy(ServiceY)
        cluster = ClusterRpc()
        ctx = Whoami()
        language = ContextData("language")
        starts: ClassVar[list[str]] = []
        ends: ClassVar[list[str]] = []

        @rpc
        async def remote_method(self, value: str) -> str:
            return await self.y.append_identifier(f"{value}-x")

        @rpc
        async def echo(self, *args: Any, **kwargs: Any) -> list[Any]:
            return [args, kwargs]

        @rpc
        async def move(self, point: Point, by: int = 1) -> Point:
            assert isinstance(point, Point)
            return Point(point.x + by, point.y + by)

        @rpc
        async def fail(self, kind: str) -> None:
            raise {"value": ValueError("boom", 1), "stock": OutOfStock("tea")}[kind]

        @rpc
        async def cancelled(self) -> None:
            raise asyncio.CancelledError

        @rpc
        async def exits(self) -> None:
            raise SystemExit(3)

        @rpc
        async def unserializable(self) -> object:
            return {"tags": [object()]}

        @rpc
        async def nested_error(self) -> None:
            await self.cluster[self.y._service]["nope"]()

        @rpc
        async def nested_failure(self) -> None:
            await self.cluster[self.name]["fail"]("value")

        @rpc
        async def nested_timeout(self) -> None:
            await self.y.slow.with_options(timeout=0.05)()

        @rpc
        async def nested_remaining(self) -> float | None:
            return await self.y.remaining()

        @rpc
        async def nested_context(self) -> dict[str, Any]:
            return {"y": await self.y.context(), "own": list(self.ctx.call_id_stack)}

        @rpc
        async def what_language(self) -> Any:
            return self.language

        @rpc
        async def slow(self) -> None:
            self.starts.append("slow")
            try:
                await asyncio.sleep(60)
            finally:
                self.ends.append("slow")

        @rpc
        def in_thread(self, value: str) -> str:
            return from_thread.run(self.y.append_identifier, value)

        @rpc
        def not_async(self) -> Any:
            return self.y.append_identifier("x")

        async def undecorated(self) -> None: ...

    return ServiceX, ServiceY


@dataclasses.dataclass
class Running:
    config: dict[str, Any]
    x: Any
    y: Any
    x_name: str
    y_name: str
    cluster: Any
    client: Client
    x_cls: Any


@asynccontextmanager
async def run_services(config: dict[str, Any]) -> AsyncIterator[Running]:
    service_x, service_y = services(uuid.uuid4().hex[:8])
    async with (
        ServiceRunner(service_x, service_y, config=config),
        client_on(config, timeout=10) as client,
    ):
        cluster, x, y = ClusterProxy(client), service_x.name, service_y.name
        yield Running(config, cluster[x], cluster[y], x, y, cluster, client, service_x)


@pytest.fixture
async def running(broker_config: dict[str, Any]) -> AsyncIterator[Running]:
    async with run_services(broker_config) as running:
        yield running


# Results


async def test_a_call_goes_over_two_services_and_back(running: Running) -> None:
    assert await running.x.remote_method("hello") == "hello-x-y"


async def test_call_async_sends_now_and_answers_later(running: Running) -> None:
    hello = running.x.remote_method.call_async("hello")
    world = running.x.remote_method.call_async("world")
    assert await world.result() == "world-x-y"
    assert await hello == "hello-x-y"
    assert await hello.result() == "hello-x-y"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1,), {}), ((), {"a": 1}), ((1, [2]), {"method": 3, "timeout": 4})],
)
async def test_arguments_arrive_as_they_were_sent(
    running: Running, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert await running.x.echo(*args, **kwargs) == [list(args), kwargs]


async def test_values_of_kombus_types_arrive_as_themselves(running: Running) -> None:
    values = [
        datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        date(2026, 1, 2),
        Decimal("1.10"),
        uuid.UUID(int=7),
        b"\xff\x00",
        2**70,
        float("inf"),
    ]
    assert await running.x.echo(*values) == [values, {}]


async def test_an_annotated_dataclass_arrives_as_itself(running: Running) -> None:
    assert await running.x.move(Point(1, 2)) == {"x": 2, "y": 3}
    typed = running.cluster.typed(running.x_cls)
    assert await typed.move(Point(1, 2), by=2) == Point(3, 4)


async def test_service_rpc_proxy_calls_one_service(running: Running) -> None:
    async with ServiceRpcProxy(running.x_name, running.config, timeout=5) as x:
        assert await x.remote_method("hi") == "hi-x-y"


async def test_a_sync_method_runs_in_a_thread_and_may_call_others(running: Running) -> None:
    assert await running.x.in_thread("t") == "t-y"


# Errors


async def test_an_error_of_the_method_is_a_remote_error(running: Running) -> None:
    with pytest.raises(RemoteError) as info:
        await running.x.fail("value")
    error = info.value
    assert (error.exc_type, error.value) == ("ValueError", "('boom', 1)")
    assert error.exc_args == ("boom", "1")
    assert str(error) == "ValueError ('boom', 1)"


async def test_a_registered_error_comes_back_as_itself(running: Running) -> None:
    with pytest.raises(OutOfStock, match="tea"):
        await running.x.fail("stock")


async def test_an_unknown_method_is_named(running: Running) -> None:
    for name in ("nope", "undecorated"):
        with pytest.raises(MethodNotFound, match=name):
            await running.x[name]()


async def test_a_method_without_rpc_is_named_as_such(running: Running) -> None:
    with pytest.raises(MethodNotFound, match=r"^undecorated \(\w+\.undecorated has no @rpc\)$"):
        await running.x.undecorated()


async def test_a_misspelt_method_is_answered_with_the_nearest_one(running: Running) -> None:
    with pytest.raises(MethodNotFound, match=r"^remote_metod \(did you mean 'remote_method'\?\)$"):
        await running.x.remote_metod("hello")
    with pytest.raises(MethodNotFound, match=r"^nope$"):  # as in Nameko
        await running.x.nope()


async def test_arguments_that_do_not_fit_are_refused_before_the_method_runs(
    running: Running,
) -> None:
    with pytest.raises(IncorrectSignature, match="missing 1 required positional argument: 'value'"):
        await running.x.remote_method()
    with pytest.raises(BadArguments, match=r"'value'.*str.*int"):
        await running.x.remote_method(5)
    with pytest.raises(BadArguments, match="point"):
        await running.x.move({"x": "one", "y": 2})


async def test_an_unknown_service_is_reported_at_once(running: Running) -> None:
    started = time.monotonic()
    with pytest.raises(UnknownService) as info:
        await running.cluster.service_that_never_was.method()
    assert time.monotonic() - started < 1
    assert info.value.service == "service_that_never_was"
    assert "rpc-service_that_never_was" in str(info.value)


async def test_an_unknown_service_is_reported_at_once_without_confirms(running: Running) -> None:
    fast = {**running.config, "CALL_PROFILE": "fast"}
    async with client_on(fast, timeout=5) as client:
        call = ClusterProxy(client).service_that_never_was.method.call_async()
        with pytest.raises(UnknownService, match="rpc-service_that_never_was"):
            await call
        assert client.in_flight == 0


async def test_an_argument_that_cannot_be_sent_leaves_the_client_usable(running: Running) -> None:
    with pytest.raises(UnserializableValueError, match="object"):
        await running.x.echo(object())
    assert await running.x.echo(1) == [[1], {}]


async def test_a_result_that_cannot_be_sent_is_an_error_that_says_where(running: Running) -> None:
    with pytest.raises(RemoteError, match="tags") as info:
        await running.x.unserializable()
    assert info.value.exc_type == "UnserializableValueError"


async def test_errors_keep_their_first_name_over_hops(running: Running) -> None:
    with pytest.raises(RemoteError) as info:
        await running.x.nested_failure()
    assert (info.value.exc_type, info.value.exc_args) == ("ValueError", ("boom", "1"))
    with pytest.raises(MethodNotFound):
        await running.x.nested_error()


async def test_a_callees_own_timeout_is_not_the_callers(running: Running) -> None:
    with pytest.raises(RemoteError) as info:
        await running.x.nested_timeout()
    assert info.value.exc_type == "RpcTimeout"


async def test_what_a_method_raises_never_ends_the_service(running: Running) -> None:
    for method, exc_type in (("cancelled", "CancelledError"), ("exits", "SystemExit")):
        with pytest.raises(RemoteError) as info:
            await running.x[method]()
        assert info.value.exc_type == exc_type
    assert await running.x.echo() == [[], {}]


async def test_a_sync_method_that_returns_an_awaitable_fails_and_names_the_remedy(
    running: Running,
) -> None:
    with pytest.raises(RemoteError, match="async def"):
        await running.x.not_async()


# Time


@pytest.mark.alone  # milliseconds count
async def test_a_call_to_a_slow_service_times_out_within_50_ms_and_says_why(
    running: Running,
) -> None:
    started = time.monotonic()
    with pytest.raises(RpcTimeout) as info:
        await running.x.slow.with_options(timeout=0.3)()
    late = time.monotonic() - started - 0.3
    assert late < 0.05 + 0.05  # the promise, and what a busy machine adds
    assert isinstance(info.value, TimeoutError)
    assert f"{running.x_name}.slow gave no answer within 0.3 s" in str(info.value)
    assert "has 1 consumer: the service is there, but slow or saturated" in str(info.value)


@pytest.mark.alone  # milliseconds count
async def test_a_call_to_a_service_that_is_down_times_out_and_names_the_consumers(
    running: Running,
) -> None:
    service_x, _ = services(uuid.uuid4().hex[:8])
    async with ServiceContainer(service_x, running.config):
        pass
    name = service_x.name
    started = time.monotonic()
    with pytest.raises(RpcTimeout) as info:
        await running.cluster[name].remote_method.with_options(timeout=0.3)("x")
    assert time.monotonic() - started < 0.3 + 0.1
    assert str(info.value) == (
        f"{name}.remote_method gave no answer within 0.3 s: queue rpc-{name} has 0 consumers: "
        "start the service"
    )
    with pytest.raises(ServiceUnavailable, match="0 consumers"):
        await running.cluster[name].remote_method.with_options(fail_fast=True)("x")
    await running.client.transport.delete(f"rpc-{name}")


async def test_the_deadline_travels_and_bounds_the_worker(running: Running) -> None:
    left = await running.x.nested_remaining.with_options(timeout=5)()
    assert 4 < left <= 5
    assert await running.x.nested_remaining.with_options(timeout=None)() <= 30  # y's own default
    assert await running.y.remaining.with_options(timeout=None)() is None


async def test_the_worker_is_cancelled_at_the_deadline(running: Running) -> None:
    with pytest.raises(RpcTimeout):
        await running.x.slow.with_options(timeout=0.1)()
    await eventually(lambda: running.x_cls.ends == ["slow"])


@pytest.mark.parametrize("how", ["timeout", "wait_for", "cancel"])
async def test_cancelling_a_call_leaves_nothing_behind(running: Running, how: str) -> None:
    client = running.client
    if how == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await running.y.slow()
    elif how == "wait_for":
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(running.y.slow(), 0.05)
    else:
        task = asyncio.ensure_future(running.y.slow())
        await eventually(lambda: client.in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert client.in_flight == 0
    assert await running.x.echo() == [[], {}]


async def test_cancelling_one_awaiter_of_a_reply_does_not_cancel_the_call(running: Running) -> None:
    reply = running.y.slow.call_async(0.2)
    impatient = asyncio.ensure_future(reply.result())
    patient = asyncio.ensure_future(reply.result())
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == "done"
    assert impatient.cancelled()


async def test_cancelling_the_reply_cancels_the_call(running: Running) -> None:
    reply = running.y.slow.call_async()
    waiting = asyncio.ensure_future(reply.result())
    await asyncio.sleep(0)
    reply.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert running.client.in_flight == 0


# Context


async def test_context_data_and_call_ids_travel(running: Running) -> None:
    async with ClusterRpcProxy(running.config, context_data={"language": "en"}) as cluster:
        x = cluster[running.x_name]
        assert await x.what_language() == "en"
        assert await x.what_language.with_options(context_data={"language": "fr"})() == "fr"
        seen = await x.nested_context()
    assert seen["y"]["data"] == {"language": "en"}
    stack = seen["y"]["stack"]
    assert stack[:-1] == seen["own"]
    assert [entry.rsplit(".", 1)[0] for entry in stack] == [
        "standalone_rpc_proxy.call",
        f"{running.x_name}.nested_context",
        f"{running.y_name}.context",
    ]


async def test_context_data_is_sent_as_it_is_when_the_call_is_made(running: Running) -> None:
    roles = ["reader"]
    async with ClusterRpcProxy(running.config, context_data={"roles": roles}) as cluster:
        context = cluster[running.y_name].context
        for _ in range(2):
            assert (await context())["data"]["roles"] == ["reader"]
        roles.append("editor")
        assert (await context())["data"]["roles"] == ["reader", "editor"]


async def test_a_change_of_context_data_in_a_service_stays_in_that_call(running: Running) -> None:
    async with ClusterRpcProxy(running.config, context_data={"roles": ["user"]}) as cluster:
        for _ in range(3):
            assert await cluster[running.y_name].add_role() == ["user", "admin"]


async def test_headers_of_a_call_become_context_data(running: Running) -> None:
    call = running.y.context.with_options(headers={"nameko.tenant": "a", "traceparent": "00-1"})
    assert (await call())["data"] == {"tenant": "a", "traceparent": "00-1"}


@pytest.mark.parametrize("name", ["x" * 249, "x" * 255, "é" * 127])
async def test_a_header_with_a_long_name_travels_with_nested_calls(
    running: Running, name: str
) -> None:
    call = running.x.nested_context.with_options(headers={name: "value"})
    assert (await call())["y"]["data"] == {name: "value"}


# Names


async def test_every_name_on_a_service_is_a_method(running: Running) -> None:
    with pytest.raises(MethodNotFound, match="with_options"):
        await running.x.with_options()
    with pytest.raises(MethodNotFound, match="_hidden"):
        await running.x["_hidden"]()
    with pytest.raises(AttributeError, match=r'\["_hidden"\]'):
        _ = running.x._hidden


# Many


async def test_ten_parallel_calls_run_in_parallel(running: Running) -> None:
    started = time.monotonic()
    await asyncio.gather(*(running.y.slow(0.2) for _ in range(10)))
    assert time.monotonic() - started < 1


@pytest.mark.slow
@pytest.mark.alone  # its calls have 10 s
async def test_two_thousand_concurrent_calls_leave_nothing_behind(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    client = running.client
    await asyncio.gather(*(running.x.remote_method(str(n)) for n in range(50)))  # warm up
    await asyncio.sleep(0)
    gc.collect()
    tasks, objects = len(asyncio.all_tasks()), len(gc.get_objects())
    results = await asyncio.gather(*(running.x.remote_method(str(n)) for n in range(2000)))
    assert results == [f"{n}-x-y" for n in range(2000)]
    del results
    assert client.in_flight == 0

    def nothing_is_left() -> bool:
        gc.collect()
        # A call that left one object behind would leave 2,000 here.
        return len(asyncio.all_tasks()) <= tasks and len(gc.get_objects()) - objects < 500

    await eventually(nothing_is_left)
    assert not caplog.records


async def test_a_call_leaves_no_reference_cycle(broker_config: dict[str, Any]) -> None:
    """An object that only the garbage collector frees costs memory, and a quarter of a call."""

    class Plain:
        name = f"plain_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self, value: str) -> str:
            return value

    async with (
        ServiceContainer(Plain, broker_config),
        ClusterRpcProxy(broker_config, timeout=10) as cluster,
    ):
        plain = cluster[Plain.name]
        for _ in range(10):
            await plain.method("warm")
        gc.collect()
        gc.freeze()  # what there is by now, so that the next collection is quick
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(20):
                await plain.method("x")
            gc.collect()
            ours = [type(each) for each in gc.garbage if type(each).__module__.startswith("aiorpc")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
            gc.unfreeze()
    assert not ours


# Too large


def with_long_errors() -> Any:
    class Long:
        name = f"long_{uuid.uuid4().hex[:8]}"

        @rpc
        async def fails(self) -> None:
            raise ValueError("x" * 5000)

        @rpc
        async def works(self, number: int = 1) -> int:
            return number

    return Long


async def test_an_error_too_large_to_send_is_answered_and_frees_its_worker(
    broker_config: dict[str, Any],
) -> None:
    service = with_long_errors()
    limited = {**broker_config, "MAX_MESSAGE_SIZE": 4096, "max_workers": 1}
    async with (
        ServiceContainer(service, limited),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        remote = cluster[service.name]
        with pytest.raises(RemoteError, match="ValueError, which cannot be sent"):
            await remote.fails()
        with pytest.raises(RemoteError, match="IncorrectSignature, which cannot be sent"):
            await remote.works(**{"k" * 3000: 1})
        assert await remote.works(7) == 7


@pytest.mark.parametrize("serializer", ["json", "yaml"])
async def test_an_error_reply_fits_into_the_smallest_max_message_size(serializer: str) -> None:
    error_class = type("\U0001f600" * 500, (Exception,), {})

    class Long:
        name = "long"

        @rpc
        async def fails(self) -> None:
            raise error_class("x" * 5000)

    with pytest.raises(ConfigurationError, match=r"int >= 4096 \(an error reply must fit\)"):
        resolve({"MAX_MESSAGE_SIZE": 4095})
    broker = {"AMQP_URI": f"memory://{uuid.uuid4().hex}", "serializer": serializer}
    async with (
        ServiceContainer(Long, {**broker, "MAX_MESSAGE_SIZE": 4096}),
        ClusterRpcProxy(broker, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match=r"AioRpcError .*\(\d+ characters\)"):
            await cluster.long.fails()


async def test_an_error_whose_substitute_is_too_large_frees_its_worker_too(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    service = with_long_errors()
    # The configuration allows no limit that is so low; a broker may.
    limited = msgspec.structs.replace(resolve(broker_config), max_message_size=60, max_workers=1)
    async with (
        ServiceContainer(service, limited),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        with pytest.raises(RpcTimeout):
            await cluster[service.name].fails.with_options(timeout=0.2)()
        assert await cluster[service.name].works() == 1
    assert "gets no answer, because no reply with its error, ValueError, can be sent" in caplog.text
    assert caplog.text.count("send less") == 1


# Timers


async def test_timers_and_once_find_their_own_service(broker_config: dict[str, Any]) -> None:
    service_name = f"early_{uuid.uuid4().hex[:8]}"
    heard: asyncio.Queue[str] = asyncio.Queue()

    class Early:
        name = service_name
        dispatch = EventDispatcher()
        me = RpcProxy(service_name)

        @once
        async def a_first(self) -> None:
            await self.dispatch("began", "once")
            heard.put_nowait(await self.me.hello())

        @timer(60, eager=True)
        async def a_tick(self) -> None:
            await self.dispatch("began", "timer")

        @event_handler(service_name, "began", reliable_delivery=False)
        async def z_hear(self, what: str) -> None:
            heard.put_nowait(what)

        @rpc
        async def hello(self) -> str:
            return "rpc"

    async with ServiceContainer(Early, broker_config):
        got = {await asyncio.wait_for(heard.get(), 5) for _ in range(3)}
    assert got == {"once", "timer", "rpc"}


async def test_a_name_that_is_too_long_raises_the_same_error_with_fail_fast(
    broker_config: dict[str, Any],
) -> None:
    async with ClusterRpcProxy(broker_config, timeout=5) as cluster:
        method = cluster["x" * 300].method
        for call in (method, method.with_options(fail_fast=True)):
            with pytest.raises(UnserializableValueError, match="at most 255 bytes"):
                await call()


class SlowToEncode:
    def __json__(self) -> str:
        time.sleep(0.06)  # a busy event loop
        return "x"


async def _wait_first(call: Call, handler: Handler) -> Any:
    await asyncio.sleep(0.06)  # middleware that takes time
    return await handler(call)


@pytest.mark.parametrize("middleware", [[], [_wait_first]])
async def test_the_seconds_of_a_timeout_count_from_the_begin_of_the_call(
    middleware: list[Middleware],
) -> None:
    service_x, _ = services(uuid.uuid4().hex[:8])
    config = f"memory://{uuid.uuid4().hex}"
    async with ClusterRpcProxy(config, timeout=0.2, middleware=middleware) as cluster:
        async with ServiceContainer(service_x, config):
            pass  # its queue stays
        method = cluster[service_x.name].remote_method
        argument = "x" if middleware else SlowToEncode()
        with pytest.raises(RpcTimeout, match=r"no answer within 0\.2 s"):
            await method(argument)
        with pytest.raises(RpcTimeout, match=r"no answer within 0\.2 s"):
            await method.call_async(argument)

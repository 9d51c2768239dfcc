"""Containers, workers and runners: lifetimes, the order of things, cancelling, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiorpc import (
    Call,
    ClusterRpcProxy,
    ConfigurationError,
    DependencyProvider,
    Entrypoint,
    EventDispatcher,
    Handler,
    Host,
    Queue,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    ServiceRunner,
    WorkerContext,
    event_handler,
    once,
    rpc,
    serve,
    timer,
)
from aiorpc.config import resolve
from aiorpc.extensions import Ending
from aiorpc.hosting.pool import Submit
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message
from aiorpc.wire.protocol import Wire
from tests.support.waiting import eventually


@pytest.fixture
def config() -> dict[str, Any]:
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}


class Recorder(DependencyProvider[list[str]]):
    """Records what happens to it; fails at the place *fail*."""

    def __init__(self, log: list[str], fail: str = "", swallow: bool = False) -> None:
        self.log, self.fail, self.swallow = log, fail, swallow

    def at(self, place: str) -> None:
        self.log.append(f"{self.attr_name} {place}")
        if self.fail == place:
            raise RuntimeError(f"{place} failed")

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        self.at("start")
        try:
            yield
        finally:
            self.at("stop")

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[list[str]]:
        self.at("open")
        try:
            yield self.log
        except BaseException as exc:
            self.at(f"rollback {type(exc).__name__}")
            if not self.swallow:
                raise
        else:
            self.at("commit")


def recording_service(log: list[str], **options: Any) -> type:
    class Recorded:
        name = "recorded"
        first = Recorder(log)
        second = Recorder(log, **options)

        @rpc
        async def works(self) -> str:
            self.first.append("method")
            return "ok"

        @rpc
        async def fails(self) -> None:
            raise ValueError("boom")

        @rpc
        async def unserializable(self) -> object:
            return object()

        @rpc
        async def slow(self) -> None:
            await asyncio.sleep(60)

    return Recorded


# Dependencies


async def test_dependencies_open_around_the_method_and_close_before_the_reply(
    config: dict[str, Any],
) -> None:
    log: list[str] = []
    async with (
        ServiceContainer(recording_service(log), config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        assert log == ["first start", "second start"]
        log.clear()
        assert await cluster.recorded.works() == "ok"
        assert log == [
            "first open",
            "second open",
            "method",
            "second commit",
            "first commit",
        ]
        log.clear()
    assert log == ["second stop", "first stop"]


@pytest.mark.parametrize(
    ("method", "exc_type"),
    [("fails", "ValueError"), ("unserializable", "UnserializableValueError")],
)
async def test_an_error_rolls_back(config: dict[str, Any], method: str, exc_type: str) -> None:
    log: list[str] = []
    async with (
        ServiceContainer(recording_service(log), config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError) as info:
            await cluster.recorded[method]()
        assert info.value.exc_type == exc_type
        assert log[-2:] == [f"second rollback {exc_type}", f"first rollback {exc_type}"]


@pytest.mark.parametrize("place", ["open", "commit"])
async def test_the_error_of_a_dependency_is_answered_and_the_service_continues(
    config: dict[str, Any], place: str
) -> None:
    log: list[str] = []
    async with (
        ServiceContainer(recording_service(log, fail=place), config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        for _ in range(2):
            with pytest.raises(RemoteError, match=f"{place} failed"):
                await cluster.recorded.works()
        assert log[-1] == "first rollback RuntimeError"


async def test_a_dependency_that_swallows_the_error_does_not_make_it_a_result(
    config: dict[str, Any],
) -> None:
    async with (
        ServiceContainer(recording_service([], swallow=True), config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match="boom"):
            await cluster.recorded.fails()


async def test_the_deadline_rolls_back(config: dict[str, Any]) -> None:
    log: list[str] = []
    rolled_back = asyncio.Event()

    class Watched(list[str]):
        def append(self, item: str) -> None:
            super().append(item)
            if item == "first rollback CancelledError":
                rolled_back.set()

    log = Watched()
    async with (
        ServiceContainer(recording_service(log), config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RpcTimeout):
            await cluster.recorded.slow.with_options(timeout=0.05)()
        await asyncio.wait_for(rolled_back.wait(), 5)


async def test_a_cancelled_call_is_cancelled_at_the_service(config: dict[str, Any]) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    class Slow:
        name = "slow"

        @rpc
        async def method(self) -> None:
            began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.set()
                raise

    async with ServiceContainer(Slow, config), ClusterRpcProxy(config) as cluster:
        call = asyncio.ensure_future(cluster.slow.method())
        await asyncio.wait_for(began.wait(), 5)
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_call_cancelled_before_its_worker_takes_a_step_ends(config: dict[str, Any]) -> None:
    class Service:
        name = "quick"

        @rpc
        async def method(self) -> None:
            await asyncio.sleep(60)

    container = ServiceContainer(Service, config)
    await container.start()
    outcomes: list[Ending] = []
    worker = container.submit(
        container.entrypoints[0],
        Call("quick", "method"),
        lambda outcome: outcomes.append(outcome.ending),
    )
    worker.cancel()
    await asyncio.wait_for(container.stop(), 5)
    assert outcomes == [Ending.CANCELLED]


class Stuck(DependencyProvider[None]):
    """Takes 60 seconds to close."""

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
        yield
        await asyncio.sleep(60)


class StuckService:
    name = "stuck"
    dependency = Stuck()

    @rpc
    async def method(self) -> None: ...


async def test_a_dependency_that_does_not_close_is_bounded(config: dict[str, Any]) -> None:
    config["CLEANUP_TIMEOUT"] = 0.05
    async with (
        ServiceContainer(StuckService, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match="CLEANUP_TIMEOUT"):
            await cluster.stuck.method()


async def test_a_dependency_that_does_not_close_does_not_leave_its_middleware_cancelled(
    config: dict[str, Any],
) -> None:
    async def goes_on(call: Call, handler: Handler) -> Any:
        with pytest.raises(TimeoutError, match="CLEANUP_TIMEOUT"):
            await handler(call)
        await asyncio.sleep(0.05)  # longer than CLEANUP_TIMEOUT: a late cancellation would come
        async with asyncio.timeout(1):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    config["CLEANUP_TIMEOUT"] = 0.02
    async with (
        ServiceContainer(StuckService, config, middleware=[goes_on]),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        assert await cluster.stuck.method() == 0


async def test_middleware_may_take_longer_than_its_dependencies_have_for_closing(
    config: dict[str, Any],
) -> None:
    class Quick(DependencyProvider[str]):
        @asynccontextmanager
        async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[str]:
            yield "open"

    class Service:
        name = "quick"
        dependency = Quick()

        @rpc
        async def method(self) -> str:
            return self.dependency

    async def slow(call: Call, handler: Handler) -> Any:
        result = await handler(call)
        await asyncio.sleep(0.1)  # longer than CLEANUP_TIMEOUT
        return result

    config["CLEANUP_TIMEOUT"] = 0.02
    async with (
        ServiceContainer(Service, config, middleware=[slow]),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        assert await cluster.quick.method() == "open"


async def test_the_caller_gets_the_error_that_a_dependency_raises_in_place_of_the_method_s(
    config: dict[str, Any],
) -> None:
    seen: list[str] = []

    class Translating(DependencyProvider[None]):
        def __init__(self, into: type[Exception] | None) -> None:
            self.into = into

        @asynccontextmanager
        async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
            try:
                yield
            except Exception as error:
                seen.append(type(error).__name__)
                if self.into is not None:
                    raise self.into(str(error)) from error

    class One:
        name = "one"
        first = Translating(KeyError)

        @rpc
        async def method(self) -> None:
            raise ValueError("no")

    class Two(One):
        name = "two"
        second = Translating(None)  # inside the first, which does not see what this one swallows

    async with (
        ServiceContainer(One, config),
        ServiceContainer(Two, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match="KeyError"):
            await cluster.one.method()
        with pytest.raises(RemoteError, match="ValueError"):  # swallowing it is no result
            await cluster.two.method()
    assert seen == ["ValueError", "ValueError"]


def test_provide_without_its_decorator_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(ConfigurationError, match=r"Session\.provide .* put @asynccontextmanager"):

        class Session(DependencyProvider[None]):
            async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
                yield


def test_a_dependency_outside_a_worker_names_the_remedy() -> None:
    class Service:
        name = "service"
        db = Recorder([])

    with pytest.raises(AttributeError, match=r"worker_factory\(Service, db=\.\.\.\)"):
        _ = Service().db


async def test_a_dependency_that_fails_to_start_fails_the_container(config: dict[str, Any]) -> None:
    log: list[str] = []
    container = ServiceContainer(recording_service(log, fail="start"), config)
    with pytest.raises(RuntimeError, match="start failed"):
        await container.start()
    assert log[-1] == "first stop"


# Middleware


async def test_middleware_wraps_calls_on_both_sides(config: dict[str, Any]) -> None:
    seen: list[str] = []

    def middleware(side: str) -> Any:
        async def wrap(call: Call, handler: Handler) -> Any:
            seen.append(f"{side} {call}")
            return await handler(call)

        return wrap

    async with (
        ServiceContainer(recording_service([]), config, middleware=[middleware("server")]),
        ClusterRpcProxy(config, timeout=5, middleware=[middleware("client")]) as cluster,
    ):
        assert await cluster.recorded.works() == "ok"
        assert await cluster.recorded.works.call_async() == "ok"
    assert seen == ["client recorded.works", "server recorded.works"] * 2


async def test_a_middleware_may_answer_without_its_handler(config: dict[str, Any]) -> None:
    async def cache(call: Call, handler: Handler) -> Any:
        return {"cached": call.args}

    async with (
        ServiceContainer(recording_service([]), config, middleware=[cache]),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        assert await cluster.recorded.works() == {"cached": []}


# Workers


async def test_max_workers_bounds_what_runs_at_a_time(config: dict[str, Any]) -> None:
    running = most = 0

    class Service:
        name = "bounded"

        @rpc
        async def method(self) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)  # so that the others would begin, if they could
            running -= 1

    config |= {"max_workers": 3, "PREFETCH_COUNT": 50}
    async with ServiceContainer(Service, config), ClusterRpcProxy(config, timeout=5) as cluster:
        await asyncio.gather(*(cluster.bounded.method() for _ in range(50)))
    assert most == 3


async def test_a_saturated_service_that_calls_itself_is_named(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Service:
        name = "selfish"

        @rpc
        async def method(self, cluster_config: dict[str, Any], depth: int = 1) -> None:
            async with ClusterRpcProxy(cluster_config, timeout=0.2) as cluster:
                await cluster.selfish.method(cluster_config, depth - 1)

    options = config | {"max_workers": 1, "PREFETCH_COUNT": 10}
    async with ServiceContainer(Service, options), ClusterRpcProxy(config, timeout=5) as cluster:
        with pytest.raises(RemoteError, match="RpcTimeout"):
            await cluster.selfish.method(config)
    assert "selfish is saturated (1 workers, all busy) and calls itself" in caplog.text


async def test_a_saturated_service_that_handles_its_own_events_is_not_said_to_call_itself(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[int] = []
    submitted: list[str] = []
    go_on = asyncio.Event()
    source = f"own_{uuid.uuid4().hex[:8]}"

    class Service:
        name = source
        dispatch = EventDispatcher()

        @rpc
        async def method(self) -> None:
            for number in range(3):
                await self.dispatch("sold", number)
            await go_on.wait()

        @event_handler(source, "sold", reliable_delivery=False)
        async def handle(self, number: int) -> None:
            handled.append(number)

    options = config | {"max_workers": 1, "PREFETCH_COUNT": 10, "AUTO_DELETE_EVENT_EXCHANGES": True}
    container = ServiceContainer(Service, options)

    def intercept(submit: Submit) -> Submit:
        def submitting(entrypoint: Entrypoint, call: Call, *args: Any) -> Any:
            submitted.append(call.kind)
            return submit(entrypoint, call, *args)

        return submitting

    container.intercept(intercept)
    async with container, ClusterRpcProxy(config, timeout=5) as cluster:
        reply = cluster[source].method.call_async()
        await eventually(lambda: submitted == ["rpc", "event", "event", "event"])
        go_on.set()
        await reply
        await eventually(lambda: len(handled) == 3)
    assert "calls itself" not in caplog.text


@pytest.mark.alone  # milliseconds count
async def test_a_sync_method_keeps_its_dependencies_until_its_thread_returns(
    config: dict[str, Any],
) -> None:
    log: list[str] = []
    closed = asyncio.Event()

    class Watched(Recorder):
        @asynccontextmanager
        async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[list[str]]:
            try:
                yield self.log
            finally:
                self.log.append("closed")
                closed.set()

    class Service:
        name = "threaded"
        record = Watched(log)

        @rpc
        def method(self) -> None:
            time.sleep(0.3)  # longer than the caller's timeout
            self.record.append("thread returned")

    async with ServiceContainer(Service, config), ClusterRpcProxy(config, timeout=5) as cluster:
        started = time.monotonic()
        with pytest.raises(RpcTimeout):
            await cluster.threaded.method.with_options(timeout=0.05)()
        assert time.monotonic() - started < 0.25
        await asyncio.wait_for(closed.wait(), 5)
    assert log[-3:-1] == ["thread returned", "closed"] or log[:2] == [
        "record start",
        "thread returned",
    ]


# Life


def test_a_class_without_a_name_is_refused() -> None:
    class Nameless:
        pass

    with pytest.raises(ConfigurationError, match="Nameless is not a service"):
        ServiceContainer(Nameless, "memory://")


@pytest.mark.parametrize(
    ("service_name", "reason"),
    [
        ("#", "would take the requests of other services"),
        ("orders.*", "would take the requests of other services"),
        ("a.#.b", "would take the requests of other services"),
        ("a\ud800", "lone surrogate"),
        ("a\nb", "line break"),
        ("é" * 128, "256 bytes"),
    ],
    ids=ascii,
)
def test_a_name_that_cannot_be_hosted_is_refused(service_name: str, reason: str) -> None:
    class Service:
        name = service_name

    with pytest.raises(ConfigurationError, match=reason):
        ServiceContainer(Service, "memory://")


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="recorded"):
        ServiceRunner(recording_service([]), recording_service([]), config="memory://")


def test_a_service_class_that_occurs_twice_is_hosted_once() -> None:
    service = recording_service([])
    (container,) = ServiceRunner(service, service, config="memory://").containers
    assert container.service_cls is service


async def test_a_container_may_be_entered_and_left_in_different_tasks(
    config: dict[str, Any],
) -> None:
    container = ServiceContainer(recording_service([]), config)
    await asyncio.create_task(container.start())
    async with ClusterRpcProxy(config, timeout=5) as cluster:
        assert await cluster.recorded.works() == "ok"
    await asyncio.create_task(container.stop())
    await container.wait()


async def test_stopping_finishes_running_calls_and_requeues_waiting_ones(
    config: dict[str, Any],
) -> None:
    release, began = asyncio.Event(), asyncio.Event()

    class Service:
        name = "draining"

        @rpc
        async def method(self, number: int) -> int:
            began.set()
            await release.wait()
            return number

    config |= {"max_workers": 1, "PREFETCH_COUNT": 10}
    async with ClusterRpcProxy(config, timeout=5) as cluster:
        first = ServiceContainer(Service, config)
        await first.start()
        replies = [cluster.draining.method.call_async(number) for number in range(3)]
        await asyncio.wait_for(began.wait(), 5)
        stopping = asyncio.ensure_future(first.stop())
        async with ServiceContainer(Service, config):
            release.set()
            await stopping
            assert [await reply for reply in replies] == [0, 1, 2]


async def test_a_drain_is_bounded_and_names_the_calls_it_abandons(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    config["SHUTDOWN_TIMEOUT"] = 0.05
    async with ClusterRpcProxy(config, timeout=5) as cluster:
        container = ServiceContainer(recording_service(log), config)
        await container.start()
        reply = cluster.recorded.slow.call_async()
        await eventually(lambda: "second open" in log)
        started = time.monotonic()
        await container.stop()
        assert time.monotonic() - started < 2
        assert container.overran
        assert not reply.done()
        assert "recorded: 1 call(s) still ran after 0.05 s" in caplog.text
        reply.cancel()


async def test_a_stopped_container_leaves_no_task_that_sends_a_refused_answer_again(
    config: dict[str, Any],
) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    class Service:
        name = f"refused_{uuid.uuid4().hex}"

        @rpc
        async def method(self) -> None:
            began.set()
            await release.wait()

    exchange = Wire.of(resolve(config)).rpc_exchange
    only_one = {"x-max-length": 1, "x-overflow": "reject-publish"}
    full = Queue(f"{Service.name}.full", exchange, f"{Service.name}.full", arguments=only_one)
    request = Message(
        body=b'{"args": [], "kwargs": {}}',
        content_type="application/json",
        content_encoding="utf-8",
        reply_to=full.routing_key,
        correlation_id="1",
    )
    async with open_transport(resolve(config)) as transport:
        await transport.declare(queues=[full])
        for exchange_name, key, message in (
            ("", full.name, Message(body=b"")),
            (exchange.name, f"{Service.name}.method", request),
        ):
            if message is request:
                container = ServiceContainer(
                    Service, {**config, "CONFIRM_REPLIES": True, "CLEANUP_TIMEOUT": 0.2}
                )
                await container.start()
            await transport.publish(
                Outgoing(exchange=exchange_name, routing_key=key, message=message), 10
            )
        await asyncio.wait_for(began.wait(), 10)
        stopping = asyncio.create_task(container.stop())
        await eventually(lambda: not container._pool.accepting)
        release.set()
        await stopping
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert "send an answer again" not in names
        for queue in (full.name, f"rpc-{Service.name}"):
            await transport.delete(queue)


@pytest.mark.parametrize("stopped_before", [False, True])
@pytest.mark.parametrize("hosted", ["container", "runner"])
async def test_a_kill_cancels_the_running_calls_and_another_instance_runs_them_again(
    config: dict[str, Any], hosted: str, stopped_before: bool
) -> None:
    log: list[str] = []
    service = recording_service(log)
    async with ClusterRpcProxy(config, timeout=5) as cluster:
        killed = (
            ServiceContainer(service, config)
            if hosted == "container"
            else ServiceRunner(service, config=config)
        )
        await killed.kill()  # it has not started, so nothing happens
        await killed.start()
        reply = cluster.recorded.slow.call_async()
        await eventually(lambda: "second open" in log)
        earlier = asyncio.ensure_future(killed.stop() if stopped_before else asyncio.sleep(0))
        await asyncio.sleep(0.05)  # nothing tells that a stop waits for the call
        async with asyncio.timeout(5):  # SHUTDOWN_TIMEOUT is 25 s
            await killed.kill()
            await earlier
        assert killed.overran
        assert log[-4:-2] == ["second rollback CancelledError", "first rollback CancelledError"]
        async with ServiceContainer(recording_service(again := []), config):
            await eventually(lambda: "second open" in again)
            reply.cancel()
            await eventually(lambda: "first rollback CancelledError" in again)


async def test_an_entrypoint_that_breaks_stops_the_container_and_says_so(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Entrypoint):
        @asynccontextmanager
        async def listen(self, host: Host) -> AsyncGenerator[None]:
            async def background() -> None:
                raise OSError("the source dried up")

            host.spawn(background(), name="broken source")
            yield

    class Service:
        name = "broken"

        @Broken.decorator
        async def method(self) -> None: ...

    container = ServiceContainer(Service, config)
    await container.start()
    with pytest.raises(OSError, match="dried up"):
        await asyncio.wait_for(container.wait(), 5)
    assert "broken source failed: the service stops" in caplog.text


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_a_timer_refuses_an_interval_that_is_not_above_zero(interval: float) -> None:
    with pytest.raises(ConfigurationError, match="seconds above 0"):
        timer(interval)


async def test_timers_and_once_fire(config: dict[str, Any]) -> None:
    ticks = 0
    enough, fired = asyncio.Event(), asyncio.Event()

    class Service:
        name = "clock"

        @timer(interval=0.01, eager=True)
        async def tick(self) -> None:
            nonlocal ticks
            ticks += 1
            if ticks == 3:
                enough.set()
            raise ValueError("errors do not stop a timer")

        @once("hello", who="world")
        async def begin(self, what: str, who: str) -> None:
            assert (what, who) == ("hello", "world")
            fired.set()

    async with ServiceContainer(Service, config):
        await asyncio.wait_for(fired.wait(), 5)
        await asyncio.wait_for(enough.wait(), 5)


async def test_a_container_of_another_loop_is_not_waited_for(config: dict[str, Any]) -> None:
    container = ServiceContainer(recording_service([]), config)
    await container.start()

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="started in another event loop"):
            await container.stop()
        with pytest.raises(RuntimeError, match="started in another event loop"):
            await container.wait()

    await asyncio.to_thread(asyncio.run, elsewhere())
    await container.stop()
    await asyncio.to_thread(asyncio.run, container.stop())  # it is stopped: nothing to wait for
    await asyncio.to_thread(asyncio.run, container.wait())


class Feed(DependencyProvider[None]):
    """Fails when it is told to."""

    def __init__(self, lost: asyncio.Event) -> None:
        self.lost = lost

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        async def follow() -> None:
            await self.lost.wait()
            raise OSError("feed lost")

        host.spawn(follow(), name="feed")
        yield


async def test_the_failure_of_one_service_stops_all_of_its_runner(config: dict[str, Any]) -> None:
    class Follower:
        name = "follower"
        feed = Feed(asyncio.Event())

    class Neighbour:
        name = "neighbour"

    runner = ServiceRunner(Follower, Neighbour, config=config)
    await runner.start()
    assert runner.health().ok
    Follower.feed.lost.set()
    await asyncio.wait_for(runner.containers[1].wait(), 5)
    assert not runner.health().ok
    with pytest.raises(OSError, match="feed lost"):
        await runner.__aexit__(None, None, None)
    assert "aiorpc: watch services" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_service_that_is_stopped_leaves_the_others_of_its_runner_alone(
    config: dict[str, Any],
) -> None:
    class One:
        name = "one"

    class Two:
        name = "two"

        @rpc
        async def method(self) -> str:
            return "still here"

    async with ServiceRunner(One, Two, config=config) as runner:
        await runner.containers[0].stop()
        async with ClusterRpcProxy(config, timeout=5) as cluster:
            assert await cluster.two.method() == "still here"
    assert "aiorpc: watch services" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_stopping_a_runner_before_its_start_does_nothing(config: dict[str, Any]) -> None:
    class Service:
        name = "service"

    runner = ServiceRunner(Service, config=config)
    await runner.stop()
    await runner.start()
    assert runner.health().ok
    await asyncio.wait_for(runner.stop(), 5)
    await asyncio.wait_for(runner.containers[0].wait(), 5)


# The process


@asynccontextmanager
async def running(directory: Path, source: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process of Python's that runs *source*; killed if it is there still at the end."""
    script = directory / "program.py"
    script.write_text(source)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_serve_restores_the_signal_handlers(config: dict[str, Any]) -> None:
    heard: list[int] = []

    def ours(signum: int, frame: object) -> None:
        heard.append(signum)

    class Service:
        name = "service"

        @once
        async def ready(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, ours)
    try:
        assert await asyncio.wait_for(serve(Service, config=config), 5) == 0
        assert heard == []
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


SERVER = """
import asyncio, sys, logging
from aiorpc import rpc, serve
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

class Service:
    name = "signalled"
    @rpc
    async def method(self) -> None: ...

async def main():
    return await serve(Service, config={"AMQP_URI": "memory://", "SHUTDOWN_TIMEOUT": 5})

print("go", flush=True)
sys.exit(asyncio.run(main()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_serve_cleanly(tmp_path: Path, signum: signal.Signals) -> None:
    async with running(tmp_path, SERVER) as process:
        assert process.stdout is not None
        output = ""
        while "signalled ready" not in output:
            line = await asyncio.wait_for(process.stdout.readline(), 20)
            assert line, output
            output += line.decode()
        process.send_signal(signum)
        output += (await asyncio.wait_for(process.stdout.read(), 20)).decode()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert f"{signum.name}: finishing the running calls" in output
        assert "signalled stopped" in output


BLOCKED = """
import asyncio, sys, time
from aiorpc import once, serve

class Service:
    name = "blocked"
    @once
    async def block(self) -> None:
        print("blocked", flush=True)
        for _ in range(1200):
            # Many short sleeps: a signal that arrives just before a sleep does not interrupt the
            # sleep, and Python would then count both signals as one.
            time.sleep(0.05)

with asyncio.Runner(loop_factory={loop_factory}) as runner:
    runner.run(serve(Service, config="memory://"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_second_signal_ends_a_process_whose_loop_is_blocked(
    tmp_path: Path, loop: str, signum: signal.Signals
) -> None:
    pytest.importorskip(loop)
    source = BLOCKED.format(loop_factory=f'__import__("{loop}").new_event_loop')
    async with running(tmp_path, source) as process:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"blocked\n"
        process.send_signal(signum)
        await asyncio.sleep(0.3)  # or the two would be one to the kernel
        process.send_signal(signum)
        assert await asyncio.wait_for(process.wait(), 20) == 128 + signum
        output = await asyncio.wait_for(process.stdout.read(), 20)
        assert f"{signum.name} again: ending at once" in output.decode()


LOGGING = """
import asyncio, logging, os, signal
from aiorpc import once, serve

class Handler(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if "finishing the running calls" in record.getMessage():
            os.kill(os.getpid(), signal.SIGTERM)  # while this thread holds the handler's lock

class Service:
    name = "logging"
    @once
    async def wait(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(600)

logging.basicConfig(level=logging.INFO, handlers=[Handler()])
asyncio.run(serve(Service, config="memory://"))
"""


@pytest.mark.slow
async def test_a_second_signal_is_logged_even_while_the_main_thread_logs(tmp_path: Path) -> None:
    async with running(tmp_path, LOGGING) as process:
        assert process.stdout is not None
        output = await asyncio.wait_for(process.stdout.read(), 20)
        assert await asyncio.wait_for(process.wait(), 20) == 128 + signal.SIGTERM
        assert "SIGTERM again: ending at once" in output.decode()


def test_the_logger_of_errors_has_the_call_id(caplog: pytest.LogCaptureFixture) -> None:
    config = {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}

    async def main() -> None:
        async with (
            ServiceContainer(recording_service([]), config),
            ClusterRpcProxy(config, timeout=5) as cluster,
        ):
            with contextlib.suppress(RemoteError):
                await cluster.recorded.fails()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    (record,) = caplog.records
    assert "recorded.fails raised ValueError (call id recorded.fails." in record.getMessage()
    assert record.exc_info is not None

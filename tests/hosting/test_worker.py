"""Workers: what they share, what they do not share, and what ends them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from aiorpc import (
    AioRpcError,
    Call,
    ClusterRpcProxy,
    ConnectionLost,
    DependencyProvider,
    Entrypoint,
    RemoteError,
    RpcProxy,
    RpcTimeout,
    ServiceContainer,
    ServiceRunner,
    WorkerContext,
    from_thread,
    rpc,
    timer,
)
from aiorpc.entrypoints.rpc import Rpc
from aiorpc.entrypoints.timer import Once
from aiorpc.hosting.runner import serve
from tests.support.waiting import eventually

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture
def config() -> dict[str, Any]:
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}


class Tenants:
    name = "tenants"

    @rpc
    async def swap(self, who: str) -> str:
        before = tenant.get()
        tenant.set(who)
        await asyncio.sleep(0)
        return before


async def test_a_worker_does_not_see_the_context_variables_of_the_one_before(
    broker_config: dict[str, Any],
) -> None:
    config = {**broker_config, "max_workers": 1, "PREFETCH_COUNT": 10}
    async with (
        ServiceContainer(Tenants, config),
        ClusterRpcProxy(config, timeout=10) as cluster,
    ):
        replies = [cluster.tenants.swap.call_async(f"tenant {n}") for n in range(4)]
        assert [await reply for reply in replies] == ["nobody"] * 4


async def test_a_worker_does_not_see_the_context_variables_of_its_caller(
    config: dict[str, Any],
) -> None:
    async with ServiceContainer(Tenants, config), ClusterRpcProxy(config) as cluster:
        tenant.set("the caller")
        assert await cluster.tenants.swap("x") == "nobody"


class Session(DependencyProvider[list[str]]):
    """Records how it was closed."""

    def __init__(self, ended: list[str]) -> None:
        self.ended = ended

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[list[str]]:
        try:
            yield self.ended
        except BaseException as exc:
            self.ended.append(f"rolled back: {type(exc).__name__}")
            raise
        self.ended.append("committed")


async def test_a_method_that_swallows_its_cancellation_is_rolled_back(
    config: dict[str, Any],
) -> None:
    ended: list[str] = []

    class Stubborn:
        name = "stubborn"
        session = Session(ended)

        @rpc
        async def method(self) -> str:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return "all the same"

    async with ServiceContainer(Stubborn, config), ClusterRpcProxy(config) as cluster:
        with pytest.raises(RpcTimeout):
            await cluster.stubborn.method.with_options(timeout=0.05)()
    assert ended == ["rolled back: CancelledError"]


async def test_a_sync_method_that_times_out_before_a_thread_is_free_does_not_run(
    config: dict[str, Any],
) -> None:
    ran: list[int] = []
    go_on = threading.Event()

    class Threaded:
        name = "threaded"

        @rpc
        def method(self, number: int) -> None:
            ran.append(number)
            assert go_on.wait(10)

    async with (
        ServiceContainer(Threaded, {**config, "SYNC_WORKERS": 1}) as container,
        ClusterRpcProxy(config, timeout=10) as cluster,
    ):
        first = cluster.threaded.method.call_async(1)
        with pytest.raises(RpcTimeout):
            await cluster.threaded.method.with_options(timeout=0.05)(2)
        # The worker times out by a timer of its own.
        await eventually(lambda: container.running == 1)
        go_on.set()
        await first
    assert ran == [1]


async def test_a_sync_method_that_no_thread_has_begun_does_not_run_after_a_drain_abandons_it(
    config: dict[str, Any],
) -> None:
    ran: list[int] = []
    free_the_thread, second_began = threading.Event(), threading.Event()

    class FreesTheThread(DependencyProvider[None]):
        @asynccontextmanager
        async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
            try:
                yield
            finally:
                if worker_ctx.call.args[0] not in ran:
                    free_the_thread.set()
                    await asyncio.to_thread(second_began.wait, 0.2)

    class Threaded:
        name = "threaded"
        dependency = FreesTheThread()

        @Once.decorator(1)
        @Once.decorator(2)
        def method(self, number: int) -> None:
            ran.append(number)
            if len(ran) > 1:
                second_began.set()
            assert free_the_thread.wait(10)

    limits = {"SYNC_WORKERS": 1, "SHUTDOWN_TIMEOUT": 0.05}
    async with ServiceContainer(Threaded, {**config, **limits}) as container:
        await eventually(lambda: len(ran) == 1 and container.running == 2)
    assert container.overran
    assert len(ran) == 1


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit])
async def test_a_timer_continues_whatever_its_method_raises(
    config: dict[str, Any], error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    thrice = asyncio.Event()
    runs: list[int] = []

    class Ticking:
        name = "ticking"

        @timer(0.001)
        async def tick(self) -> None:
            runs.append(1)
            if len(runs) == 3:
                thrice.set()
            raise error("from inside")

    caplog.set_level(logging.CRITICAL, "aiorpc.worker")
    async with ServiceContainer(Ticking, config):
        await asyncio.wait_for(thrice.wait(), 5)


class Fired(Entrypoint):
    """Fires only when a test calls ``work``."""

    @asynccontextmanager
    async def listen(self, host: Any) -> AsyncGenerator[None]:
        yield


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit])
async def test_an_error_of_a_method_does_not_cancel_or_end_the_code_that_waits_for_it(
    config: dict[str, Any], error: type[BaseException]
) -> None:
    class Raising:
        name = "raising"

        @Fired.decorator
        async def method(self) -> None:
            raise error("inside")

    async with ServiceContainer(Raising, config) as container:
        (entrypoint,) = container.entrypoints
        with pytest.raises(AioRpcError, match=rf"raising.method raised {error.__name__}\(inside\)"):
            await container.work(entrypoint, Call("raising", "method"))


async def test_a_subclass_of_rpc_beside_plain_ones_shares_their_consumer(
    config: dict[str, Any],
) -> None:
    class Guarded(Rpc):
        """As a user would derive one."""

    class Mixed:
        name = "mixed"

        @rpc
        async def plain(self) -> str:
            return "plain"

        @Guarded.decorator
        async def guarded(self) -> str:
            return "guarded"

    async with ServiceContainer(Mixed, config), ClusterRpcProxy(config, timeout=5) as cluster:
        for _ in range(2):  # two consumers would take turns
            assert await cluster.mixed.plain() == "plain"
            assert await cluster.mixed.plain() == "plain"
            assert await cluster.mixed.guarded() == "guarded"


async def test_two_that_share_a_key_at_the_same_time_open_it_once(
    config: dict[str, Any],
) -> None:
    opened: list[str] = []

    @asynccontextmanager
    async def pool() -> AsyncGenerator[object]:
        opened.append("open")
        await asyncio.sleep(0)
        yield object()
        opened.append("closed")

    async with ServiceContainer(Tenants, config) as container:
        first, second = await asyncio.gather(
            container.share("pool", pool), container.share("pool", pool)
        )
        assert first is second
    assert opened == ["open", "closed"]


class Slow:
    """Its method returns when the test sets an event."""

    name = "slow"
    running: asyncio.Event
    go_on: asyncio.Event

    @rpc
    async def method(self) -> str:
        self.running.set()
        await self.go_on.wait()
        return "done"


async def test_cancelling_a_second_stop_of_a_runner_does_not_shorten_the_drain(
    config: dict[str, Any],
) -> None:
    Slow.running, Slow.go_on = asyncio.Event(), asyncio.Event()
    runner = ServiceRunner(Slow, config=config)
    await runner.start()
    async with ClusterRpcProxy(config, timeout=5) as cluster:
        reply = cluster.slow.method.call_async()
        await Slow.running.wait()
        stopping = asyncio.gather(runner.stop(), runner.stop())
        impatient = asyncio.create_task(runner.stop())
        await asyncio.sleep(0)
        impatient.cancel()
        Slow.go_on.set()
        assert await reply == "done"
        await stopping


async def test_a_runner_is_started_once(config: dict[str, Any]) -> None:
    async with ServiceRunner(Tenants, config=config) as runner:
        with pytest.raises(RuntimeError, match="started already"):
            await runner.start()


async def test_serve_that_is_cancelled_while_it_waits_for_the_broker_leaves_nothing_running() -> (
    None
):
    before = asyncio.all_tasks()
    nobody = {"AMQP_URI": "amqp://guest:guest@127.0.0.1:1/"}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(serve(Tenants, config=nobody), 0.05)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


class Name(DependencyProvider[str]):
    def value(self, worker_ctx: WorkerContext) -> str:
        return worker_ctx.call.method


class LoudName(Name):
    """Opens and closes around a dependency that does neither."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[str]:
        async with super().provide(worker_ctx) as name:
            try:
                yield name.upper()
            finally:
                self.closed.append(name)


async def test_a_dependency_may_give_a_lifetime_to_a_plain_value(config: dict[str, Any]) -> None:
    loud = LoudName()

    class Naming:
        name = "naming"
        title = loud

        @rpc
        async def shout(self) -> str:
            return self.title

    async with ServiceContainer(Naming, config), ClusterRpcProxy(config) as cluster:
        assert await cluster.naming.shout() == "SHOUT"
    assert loud.closed == ["shout"]


async def test_a_method_that_cancels_its_own_task_is_an_error_and_runs_once(
    config: dict[str, Any],
) -> None:
    runs: list[int] = []

    class Confused:
        name = "confused"

        @rpc
        async def method(self) -> None:
            runs.append(1)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async with (
        ServiceContainer(Confused, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match="CancelledError"):
            await cluster.confused.method()
    assert len(runs) == 1


async def test_a_log_filter_that_raises_costs_neither_the_answer_nor_the_worker_s_place(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails:
        name = "fails"

        @rpc
        async def method(self) -> None:
            raise ValueError("boom")

    def fail(record: logging.LogRecord) -> bool:
        raise TypeError("a filter of the user's")

    monkeypatch.setattr(logging.getLogger("aiorpc.worker"), "filters", [fail])
    # asyncio reports the error when the worker's task is collected.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    config["max_workers"] = 1
    async with (
        ServiceContainer(Fails, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        for _ in range(3):
            with pytest.raises(RemoteError, match="boom"):
                await cluster.fails.method()


async def test_expected_exceptions_may_be_any_collection(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Expected:
        name = "expected"

        @rpc(expected_exceptions=[ValueError, KeyError])
        async def method(self) -> None:
            raise ValueError("boom")

    async with (
        ServiceContainer(Expected, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match="boom"):
            await cluster.expected.method()
    assert "raised an expected error" in caplog.text


async def test_a_coroutine_that_a_thread_waits_for_is_cancelled_with_its_call(
    config: dict[str, Any],
) -> None:
    ended: list[str] = []

    class Threaded:
        name = "threaded"

        @rpc
        def method(self) -> None:
            try:
                from_thread.run(asyncio.sleep, 60)
            except asyncio.CancelledError:
                ended.append("first")
            from_thread.run(asyncio.sleep, 60)
            ended.append("second")

        @rpc
        def nothing(self) -> str:
            return "done"

    config["max_workers"] = 1
    async with (
        ServiceContainer(Threaded, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RpcTimeout):
            await cluster.threaded.method.with_options(timeout=0.1)()
        assert await cluster.threaded.nothing() == "done"
    assert ended == ["first"]


async def test_an_error_of_a_coroutine_is_raised_in_the_thread_that_waits_for_it(
    config: dict[str, Any],
) -> None:
    async def fails() -> None:
        raise TimeoutError("its own")

    class Threaded:
        name = "threaded"

        @rpc
        def method(self) -> str:
            with pytest.raises(TimeoutError, match="its own"):
                from_thread.run(fails)
            return "raised"

    async with (
        ServiceContainer(Threaded, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        assert await cluster.threaded.method() == "raised"


async def test_from_thread_awaits_any_awaitable_and_refuses_other_values(
    config: dict[str, Any],
) -> None:
    class Threaded:
        name = "threaded"
        me = RpcProxy("threaded")

        @rpc
        def replies(self) -> list[int]:
            replies = [from_thread.run(self.reply_of, number) for number in (1, 2)]
            return [from_thread.run(reply.result) for reply in replies]

        async def reply_of(self, number: int) -> Any:
            return self.me.number.call_async(number)

        @rpc
        def one(self) -> int:
            result: int = from_thread.run(self.me.number.call_async, 7)
            return result

        @rpc
        def wrong(self) -> None:
            from_thread.run(len, "abc")

        @rpc
        async def number(self, number: int) -> int:
            return number

    config["max_workers"] = 2
    async with (
        ServiceContainer(Threaded, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        for _ in range(3):
            with pytest.raises(RemoteError, match="a function that returns int"):
                await cluster.threaded.wrong()
        assert await cluster.threaded.replies() == [1, 2]
        assert await cluster.threaded.one() == 7


async def test_a_static_method_takes_all_its_arguments_from_the_call(
    config: dict[str, Any],
) -> None:
    class Static:
        name = "static"

        @staticmethod
        @rpc
        async def add(a: int, b: int) -> int:
            return a + b

    async with (
        ServiceContainer(Static, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        assert await cluster.static.add(1, 2) == 3
        assert await cluster.static.add(a=1, b=2) == 3


async def test_a_container_and_a_runner_stop_while_they_wait_for_the_broker() -> None:
    nobody = {"AMQP_URI": "amqp://guest:guest@127.0.0.1:9/"}
    async with asyncio.timeout(5):
        container = ServiceContainer(Tenants, nobody)
        starting = asyncio.create_task(container.start())
        await asyncio.sleep(0)
        await container.stop()
        with pytest.raises(AioRpcError, match="tenants was stopped before it was ready"):
            await starting
        runner = ServiceRunner(Tenants, config=nobody)
        starting = asyncio.create_task(runner.start())
        await asyncio.sleep(0)
        await runner.stop()
        with pytest.raises(ConnectionLost, match="it was closed"):
            await starting


class Told(DependencyProvider[list[Any]]):
    def value(self, worker_ctx: WorkerContext) -> list[Any]:
        return [
            worker_ctx.service_name,
            list(worker_ctx.args),
            dict(worker_ctx.kwargs),
            worker_ctx.config["GREETING"],
        ]


async def test_a_worker_context_tells_what_namekos_does(config: dict[str, Any]) -> None:
    class Telling:
        name = "telling"
        told = Told()

        @rpc
        async def tell(self, one: int, *, two: str) -> list[Any]:
            return self.told

    config |= {"GREETING": "hello"}
    async with ServiceContainer(Telling, config), ClusterRpcProxy(config) as cluster:
        told = await cluster.telling.tell(1, two="b")
    assert told == ["telling", [1], {"two": "b"}, "hello"]

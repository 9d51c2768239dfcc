"""
Middleware around calls at the service: what it may do. Whatever it does, each call ends, is
answered, and runs only as often as its middleware calls the handler.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from aiorpc import (
    Call,
    ClusterRpcProxy,
    ContextData,
    DependencyProvider,
    EventDispatcher,
    Handler,
    RemoteError,
    RpcProxy,
    RpcTimeout,
    ServiceContainer,
    ServiceRunner,
    WorkerContext,
    event_handler,
    from_thread,
    rpc,
)
from aiorpc.context import current


@pytest.fixture
def config() -> dict[str, Any]:
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}", "SHUTDOWN_TIMEOUT": 2}


class Recorder(DependencyProvider[None]):
    """Records what happens to it. It sets an event when it closes, then waits for another one."""

    def __init__(self, log: list[str], *, waits: bool = False) -> None:
        self.log = log
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        if not waits:
            self.may_close.set()

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
        self.log.append("open")
        try:
            yield
        except BaseException as error:
            self.log.append(f"roll back {type(error).__name__}")
            await self._close()
            raise
        await self._close()
        self.log.append("commit")

    async def _close(self) -> None:
        self.closing.set()
        await self.may_close.wait()


def attempts(log: list[str], *bodies: Callable[[], Awaitable[Any]], waits: bool = False) -> Any:
    """A service whose method runs the next one of *bodies* each time."""
    left = iter(bodies)

    class Tried:
        name = "tried"
        recorder = Recorder(log, waits=waits)

        @rpc
        async def method(self) -> Any:
            log.append("run")
            return await next(left)()

    return Tried


async def works() -> str:
    await asyncio.sleep(0)
    return "ok"


async def fails() -> None:
    raise ValueError("boom")


async def hangs() -> None:
    await asyncio.sleep(60)


async def twice(call: Call, handler: Handler) -> Any:
    try:
        return await handler(call)
    except ValueError:
        return await handler(call)


# Answers of its own


async def answers_none(call: Call, handler: Handler) -> Any:
    return None


async def swallows(call: Call, handler: Handler) -> Any:
    try:
        return await handler(call)
    except ValueError:
        return None


@pytest.mark.parametrize("middleware", [answers_none, swallows])
async def test_a_middleware_may_answer_with_none(config: dict[str, Any], middleware: Any) -> None:
    config["max_workers"] = 1
    async with (
        ServiceContainer(attempts([], *[fails] * 5), config, middleware=[middleware]),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        for _ in range(5):
            assert await cluster.tried.method() is None


async def test_the_caller_gets_an_error_if_a_middleware_s_answer_cannot_be_encoded(
    config: dict[str, Any],
) -> None:
    async def answers(call: Call, handler: Handler) -> Any:
        return object()

    async with (
        ServiceContainer(attempts([]), config, middleware=[answers]),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match="UnserializableValueError"):
            await cluster.tried.method()


# Once more


async def test_a_handler_may_be_called_again(config: dict[str, Any]) -> None:
    log: list[str] = []
    async with (
        ServiceContainer(attempts(log, fails, works), config, middleware=[twice]),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        assert await cluster.tried.method() == "ok"
    assert log == ["open", "run", "roll back ValueError", "open", "run", "commit"]


async def test_a_handler_cannot_be_called_while_it_runs(config: dict[str, Any]) -> None:
    async def both_at_once(call: Call, handler: Handler) -> Any:
        first, second = await asyncio.gather(handler(call), handler(call), return_exceptions=True)
        assert first == "ok"
        raise second

    log: list[str] = []
    async with (
        ServiceContainer(attempts(log, works), config, middleware=[both_at_once]),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match="await the earlier call first"):
            await cluster.tried.method()
    assert log == ["open", "run", "commit"]


async def test_a_second_attempt_is_cancelled_at_the_deadline(config: dict[str, Any]) -> None:
    log: list[str] = []
    async with (
        ServiceContainer(attempts(log, fails, hangs), config, middleware=[twice]) as container,
        ClusterRpcProxy(config, timeout=0.1) as cluster,
    ):
        with pytest.raises(RpcTimeout):
            await cluster.tried.method()
    assert not container.overran
    assert log[3:] == ["open", "run", "roll back CancelledError"]


async def test_middleware_after_its_handler_is_under_the_deadline_and_cannot_call_it_again_later(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def once_more(call: Call, handler: Handler) -> Any:
        assert await handler(call) == "ok"
        try:
            await asyncio.sleep(60)  # a pause before the next attempt
        except asyncio.CancelledError:
            with pytest.raises(asyncio.CancelledError):
                await handler(call)
            log.append("not begun")
            raise

    log: list[str] = []
    async with (
        ServiceContainer(attempts(log, works), config, middleware=[once_more]) as container,
        ClusterRpcProxy(config, timeout=0.1) as cluster,
    ):
        with pytest.raises(RpcTimeout):
            await cluster.tried.method()
    assert not container.overran
    assert log == ["open", "run", "commit", "not begun"]
    assert "its changes are committed; the middleware ran past the deadline" in caplog.text


async def test_a_call_cancelled_while_its_dependencies_close_gets_no_second_attempt(
    config: dict[str, Any],
) -> None:
    log: list[str] = []
    service = attempts(log, fails, hangs, waits=True)
    async with (
        ServiceContainer(service, config, middleware=[twice]) as container,
        ClusterRpcProxy(config, timeout=None) as cluster,
    ):
        reply = cluster.tried.method.call_async()
        await asyncio.wait_for(service.recorder.closing.wait(), 5)
        reply.cancel()
        for _ in range(10):  # turns of the one loop that both sides and the broker share
            await asyncio.sleep(0)
        service.recorder.may_close.set()
    assert not container.overran
    assert log == ["open", "run", "roll back ValueError"]


async def test_a_call_killed_while_its_dependencies_close_gets_no_second_attempt(
    config: dict[str, Any],
) -> None:
    class Stubborn(DependencyProvider[None]):
        @asynccontextmanager
        async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
            log.append("open")
            try:
                yield
            finally:
                closing.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    log.append("closed all the same")

    class Service:
        name = "tried"
        dependency = Stubborn()

        @rpc
        async def method(self) -> None:
            log.append("run")
            raise ValueError("boom")

    log: list[str] = []
    closing = asyncio.Event()
    config |= {"SHUTDOWN_TIMEOUT": 0.05, "CLEANUP_TIMEOUT": 10}
    async with ClusterRpcProxy(config, timeout=None) as cluster:
        async with ServiceContainer(Service, config, middleware=[twice]):
            reply = cluster.tried.method.call_async()
            await asyncio.wait_for(closing.wait(), 5)
        reply.cancel()
    assert log == ["open", "run", "closed all the same"]


async def test_context_data_that_it_adds_reaches_the_calls_and_events_made_inside(
    config: dict[str, Any],
) -> None:
    heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    after: list[Any] = []

    async def traced(call: Call, handler: Handler) -> object:
        trace = [*call.context.data.get("trace", []), str(call)]
        context = call.context.with_data({"trace": trace})
        result = await handler(msgspec.structs.replace(call, context=context))
        after.append(current.get().data.get("trace"))
        return result

    class Inner:
        name = "inner"
        trace = ContextData("trace")

        @rpc
        async def two(self) -> Any:
            return self.trace

        @event_handler("outer", "happened")
        async def hear(self, payload: Any) -> None:
            heard.set_result(self.trace)

    class Outer:
        name = "outer"
        inner = RpcProxy("inner")
        dispatch = EventDispatcher()

        @rpc
        async def one(self) -> Any:
            await self.dispatch("happened", None)
            return await self.inner.two()

        @rpc
        def threaded(self) -> Any:
            return from_thread.run(self.inner.two)

    async with (
        ServiceRunner(Inner, Outer, config=config, middleware=[traced]),
        ClusterRpcProxy(config) as cluster,
    ):
        assert await cluster.outer.one() == ["outer.one", "inner.two"]
        assert await cluster.outer.threaded() == ["outer.threaded", "inner.two"]
        assert await asyncio.wait_for(heard, 5) == ["outer.one", "inner.hear"]
    # Outside its handler, a middleware has the context that came with the call.
    assert after.count(None) == 2

"""
A coroutine that nobody awaits does nothing. The log names the service and the method; in the thread
of a sync method, making one is an error.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from aiorpc import (
    Call,
    ClusterRpcProxy,
    EventDispatcher,
    Handler,
    MethodNotFound,
    Publisher,
    RemoteError,
    RpcProxy,
    ServiceContainer,
    event_dispatcher,
    rpc,
)


@pytest.fixture(autouse=True)
def no_filters() -> Iterator[None]:
    """The filters of a program that sets none, in place of pytest's."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        yield


class Forgetful:
    name = "forgetful"
    dispatch = EventDispatcher()
    publish = Publisher()
    other = RpcProxy("forgetful")

    @rpc
    async def event(self) -> None:
        self.dispatch("sold", 1)

    @rpc
    async def message(self) -> None:
        self.publish("sold", routing_key="nobody")

    @rpc
    async def call(self) -> None:
        self.other.event()

    @rpc
    async def own(self) -> None:
        asyncio.sleep(0)

    @rpc
    async def cancelled(self) -> None:
        task = asyncio.ensure_future(self.other.event())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @rpc
    async def warn(self) -> None:
        warnings.warn("mind the gap", RuntimeWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("event", "coroutine 'dispatch' was never awaited"),
        ("message", "coroutine 'publish' was never awaited"),
        ("call", "coroutine 'Client._remote_call' was never awaited"),
        ("own", "coroutine 'sleep' was never awaited"),
    ],
)
async def test_a_coroutine_that_a_method_does_not_await_is_an_error_in_the_log(
    method: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ServiceContainer(Forgetful, "memory://"),
        ClusterRpcProxy("memory://", timeout=5) as cluster,
    ):
        with caplog.at_level(logging.ERROR):
            for _ in range(2):  # each time, and not once for each line
                await cluster.forgetful[method]()
    lines = [line for line in caplog.messages if "awaited" in line]
    assert len(lines) == 2
    assert lines[0].startswith(f"forgetful.{method}: {said}, so it did not run: write `await`")
    assert f"{__file__}, line" in lines[0]
    assert f"call id forgetful.{method}." in lines[0]


async def test_a_task_that_is_cancelled_before_it_begins_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        ServiceContainer(Forgetful, "memory://"),
        ClusterRpcProxy("memory://", timeout=5) as cluster,
    ):
        await cluster.forgetful.cancelled()
    assert "awaited" not in caplog.text


async def test_other_warnings_are_shown_as_before(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(RuntimeWarning, match="mind the gap"):
        async with (
            ServiceContainer(Forgetful, "memory://"),
            ClusterRpcProxy("memory://", timeout=5) as cluster,
        ):
            await cluster.forgetful.warn()
    assert "mind the gap" not in caplog.text


def test_a_coroutine_outside_any_worker_is_shown_as_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def forgotten() -> Any: ...

    async def main() -> None:
        async with ServiceContainer(Forgetful, "memory://"):
            forgotten()

    with pytest.warns(RuntimeWarning, match="forgotten.* was never awaited"):
        asyncio.run(main())
    assert "awaited" not in caplog.text


# Without from_thread.run


class Sync:
    name = "sync"
    dispatch = EventDispatcher()
    publish = Publisher()
    other = RpcProxy("sync")

    @rpc
    def event(self) -> None:
        self.dispatch("sold", 1)

    @rpc
    def message(self) -> None:
        self.publish("sold", routing_key="nobody")

    @rpc
    def call(self) -> None:
        self.other.event()

    @rpc
    def call_async(self) -> None:
        self.other.event.call_async()

    @rpc
    def call_async_through_middleware(self) -> None:
        self.outside.sync.event.call_async()

    @rpc
    def event_by_the_standalone_dispatcher(self) -> None:
        self.standalone("sync", "sold", 1)

    outside: Any = None
    standalone: Any = None


@pytest.mark.parametrize(
    "method",
    [
        *("event", "message", "call", "call_async", "call_async_through_middleware"),
        "event_by_the_standalone_dispatcher",
    ],
)
async def test_a_sync_method_that_sends_without_it_fails_at_once_and_is_told_of_it(
    method: str,
) -> None:
    async def middleware(call: Call, handler: Handler) -> object:
        return await handler(call)

    async with (
        ServiceContainer(Sync, "memory://"),
        ClusterRpcProxy("memory://", timeout=5) as cluster,
        ClusterRpcProxy("memory://", timeout=5, middleware=[middleware]) as Sync.outside,
        event_dispatcher("memory://") as dispatch,
    ):
        Sync.standalone = staticmethod(dispatch)
        with pytest.raises(RemoteError, match=r"from_thread\.run\(") as caught:
            await cluster["sync"][method]()
    assert caught.value.exc_type == "RuntimeError"


async def test_a_coroutine_is_made_in_other_threads_for_the_loop_to_run() -> None:
    async with (
        ServiceContainer(Sync, "memory://"),
        ClusterRpcProxy("memory://", timeout=5) as cluster,
    ):
        loop = asyncio.get_running_loop()

        def call() -> Any:
            return asyncio.run_coroutine_threadsafe(cluster["sync"].missing(), loop).result(5)

        with pytest.raises(MethodNotFound):
            await loop.run_in_executor(None, call)


async def test_the_last_container_restores_the_display_of_warnings() -> None:
    before, filters = warnings.showwarning, list(warnings.filters)
    async with ServiceContainer(Forgetful, "memory://"):
        async with ServiceContainer(Forgetful, "memory://"):
            assert warnings.showwarning is not before
        assert warnings.showwarning is not before
        assert list(warnings.filters) != filters
    assert warnings.showwarning is before
    assert list(warnings.filters) == filters

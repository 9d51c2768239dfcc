"""The client for threads: the same calls, from programs without an event loop."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aiorpc import (
    ConnectionLost,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    UnknownService,
    UnserializableValueError,
    event_handler,
    rpc,
)
from aiorpc.sync import ClusterRpcProxy, event_dispatcher

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def service(rabbitmq_uri: str) -> Iterator[str]:
    """A service in a loop of its own, as another process would have it."""
    name_ = f"sync_{uuid.uuid4().hex[:8]}"

    class Service:
        name = name_

        @rpc
        async def hello(self, value: str) -> str:
            return f"hello {value}"

        @rpc
        async def fail(self) -> None:
            raise ValueError("boom")

        @rpc
        async def slow(self) -> None:
            await asyncio.sleep(60)

    started, stop = threading.Event(), threading.Event()

    async def host() -> None:
        async with ServiceContainer(Service, {"AMQP_URI": rabbitmq_uri}) as container:
            started.set()
            await asyncio.to_thread(stop.wait)
            transport = container.transport
            await container.stop()
            del transport

    thread = threading.Thread(target=lambda: asyncio.run(host()))
    thread.start()
    assert started.wait(10)
    yield name_
    stop.set()
    thread.join(10)


@pytest.mark.alone  # milliseconds count
def test_calls_replies_and_errors(rabbitmq_uri: str, service: str) -> None:
    with ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5) as cluster:
        proxy: Any = cluster[service]
        assert proxy.hello("you") == "hello you"
        reply = proxy.hello.call_async("later")
        assert reply.result() == reply.result() == "hello later"
        with pytest.raises(RemoteError, match="boom"):
            proxy.fail()
        started = time.monotonic()
        with pytest.raises(RpcTimeout, match=r"0\.2 s"):
            proxy.slow.with_options(timeout=0.2)()
        assert time.monotonic() - started < 0.4
        with pytest.raises(UnknownService):
            cluster.service_that_never_was.method()


def test_many_threads_share_one_proxy(rabbitmq_uri: str, service: str) -> None:
    with (
        ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=10) as cluster,
        ThreadPoolExecutor(16) as threads,
    ):
        results = threads.map(lambda n: cluster[service].hello(str(n)), range(200))
        assert list(results) == [f"hello {n}" for n in range(200)]


def test_after_closing_it_says_so_and_leaves_no_thread(rabbitmq_uri: str) -> None:
    before = threading.active_count()
    proxy = ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5)
    cluster = proxy.start()
    proxy.close()
    proxy.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        cluster.service.method()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_it_names_the_remedy(rabbitmq_uri: str) -> None:
    with ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5) as cluster:
        pid = os.fork()
        if pid == 0:
            try:
                cluster.service.method()
            except RuntimeError as exc:
                os._exit(0 if "fork" in str(exc) else 1)
            os._exit(2)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def test_what_a_signal_handler_raises_takes_the_call_back() -> None:
    class TimeLimit(Exception):
        """Celery's is one: no KeyboardInterrupt."""

    def interrupt(signum: int, frame: object) -> None:
        raise TimeLimit

    cancelled = threading.Event()

    async def endless() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    proxy = ClusterRpcProxy("memory://")
    proxy.start()
    thread = proxy._thread
    assert thread is not None
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(TimeLimit):
            thread.wait(endless())
        assert cancelled.wait(5)
    finally:
        signal.signal(signal.SIGUSR1, before)
        proxy.close()


def test_a_call_that_another_thread_makes_while_it_closes_ends() -> None:
    proxy = ClusterRpcProxy("memory://")
    proxy.start()
    thread = proxy._thread
    assert thread is not None
    begun = threading.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(lambda: thread.wait(endless()))
        assert begun.wait(10)
        proxy.close()
        with pytest.raises(ConnectionLost, match="closed by another thread"):
            waiting.result(10)
    with pytest.raises(RuntimeError, match="was closed"):
        thread.wait(endless())


def test_events_are_dispatched_from_any_thread(rabbitmq_uri: str) -> None:
    source = f"sync_source_{uuid.uuid4().hex[:8]}"
    heard: queue.Queue[Any] = queue.Queue()
    started, stop = threading.Event(), threading.Event()

    class Listener:
        name = f"{source}_listener"

        @event_handler(source, "happened", reliable_delivery=False)
        async def hear(self, payload: Any) -> None:
            heard.put(payload)

    async def host() -> None:
        async with ServiceContainer(Listener, {"AMQP_URI": rabbitmq_uri}):
            started.set()
            await asyncio.to_thread(stop.wait, 30)

    thread = threading.Thread(target=lambda: asyncio.run(host()))
    thread.start()
    assert started.wait(10)
    try:
        with (
            event_dispatcher({"AMQP_URI": rabbitmq_uri}) as dispatch,
            ThreadPoolExecutor(4) as pool,
        ):
            list(pool.map(lambda number: dispatch(source, "happened", number), range(8)))
            dispatch(source, "happened")
            with pytest.raises(UnserializableValueError):
                dispatch(source, "happened", object())
        assert [heard.get(timeout=10) for _ in range(9)][-1] is None
        with pytest.raises(RuntimeError, match="this event_dispatcher was closed"):
            dispatch(source, "happened")
    finally:
        stop.set()
        thread.join(10)


def test_a_dispatcher_without_a_broker_says_so_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with (
        pytest.raises(ConnectionLost),
        event_dispatcher({"AMQP_URI": "amqp://guest:guest@127.0.0.1:9/", "RPC_TIMEOUT": 0.2}),
    ):
        pass
    assert threading.active_count() == before


def test_what_a_signal_handler_raises_before_the_call_is_waited_for_takes_it_back_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class TimeLimit(Exception):
        pass

    async def endless() -> None:
        await asyncio.Event().wait()

    proxy = ClusterRpcProxy("memory://")
    proxy.start()
    thread = proxy._thread
    assert thread is not None
    begin = asyncio.run_coroutine_threadsafe

    def interrupted(*args: Any) -> Any:
        begin(*args)
        raise TimeLimit  # as a signal between this call and the next line

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(TimeLimit):
        thread.wait(endless())
    monkeypatch.undo()

    async def still_runs() -> list[str | None]:
        await asyncio.sleep(0)
        return [task.get_coro().__name__ for task in asyncio.all_tasks()]

    assert thread.wait(still_runs()).count("unless_given_up") == 1  # this one
    proxy.close()

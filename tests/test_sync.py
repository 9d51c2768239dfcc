"""Calls and events from programs without an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import queue
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from aiorpc import (
    Call,
    ConnectionLost,
    Handler,
    IncorrectSignature,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    UnknownService,
    UnserializableValueError,
    event_handler,
    rpc,
)
from aiorpc.sync import ClusterRpcProxy, ServiceRpcProxy, event_dispatcher
from tests.support.recorded import Record

pytestmark = pytest.mark.rabbitmq


@contextmanager
def hosted(service_cls: type, config: Any) -> Generator[None]:
    """Host *service_cls* in a thread with a loop of its own, as another process would."""
    started, stop = threading.Event(), threading.Event()

    async def host() -> None:
        async with ServiceContainer(service_cls, config):
            started.set()
            await asyncio.to_thread(stop.wait, 30)

    thread = threading.Thread(target=lambda: asyncio.run(host()))
    thread.start()
    try:
        assert started.wait(10)
        yield
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture
def service(rabbitmq_uri: str) -> Iterator[str]:
    """The name of a service that runs."""

    class Service:
        name = f"sync_{uuid.uuid4().hex[:8]}"

        @rpc
        async def hello(self, value: str) -> str:
            return f"hello {value}"

        @rpc
        async def fail(self) -> None:
            raise ValueError("boom")

        @rpc
        async def names(self, **names: Any) -> list[str]:
            return sorted(names)

        @rpc
        async def count(self, n: int) -> AsyncGenerator[int]:
            try:
                for number in range(n):
                    yield number
            finally:
                type(self).closed.set()

        closed = threading.Event()

        @rpc
        async def was_closed(self) -> bool:
            return await asyncio.to_thread(self.closed.wait, 5)

        @rpc
        async def slow(self) -> None:
            await asyncio.sleep(60)

    with hosted(Service, {"AMQP_URI": rabbitmq_uri}):
        yield Service.name


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


def test_a_stream_is_read_in_a_loop(rabbitmq_uri: str, service: str) -> None:
    with ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=10) as cluster:
        proxy: Any = cluster[service]
        assert list(proxy.count.stream(1000)) == list(range(1000))
        for number in proxy.count.stream(1 << 60):
            if number == 5:
                break
        assert proxy.was_closed()
        with pytest.raises(IncorrectSignature):
            next(proxy.hello.stream("you"))


def test_a_stream_may_be_closed_in_any_thread_and_after_its_proxy(
    rabbitmq_uri: str, service: str
) -> None:
    closed: concurrent.futures.Future[None] = concurrent.futures.Future()
    with ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=10) as cluster:
        proxy: Any = cluster[service]
        items, kept = proxy.count.stream(1 << 60), proxy.count.stream(1 << 60)
        assert next(items) == next(kept) == 0
        # As the garbage collector does, if it runs in the thread of the loop.
        loop = proxy.count._thread._loop
        loop.call_soon_threadsafe(lambda: closed.set_result(items.close()))
        closed.result(5)
        assert proxy.was_closed()
    kept.close()


def test_a_method_may_have_arguments_of_any_name(rabbitmq_uri: str, service: str) -> None:
    names = ["args", "function", "kwargs", "self", "thread", "timeout"]
    with ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5) as cluster:
        method: Any = cluster[service].names
        arguments: dict[str, Any] = dict.fromkeys(names[:3] + names[4:], 1)
        assert method(**arguments) == sorted(arguments)
        assert method.call_async(**arguments).result() == sorted(arguments)


def test_a_proxy_of_one_service_can_be_entered_again_and_stopped(
    rabbitmq_uri: str, service: str
) -> None:
    proxy = ServiceRpcProxy(service, rabbitmq_uri, timeout=5)
    for _ in range(2):
        with proxy as remote:
            assert remote.hello("again") == "hello again"
            assert remote["hello"].with_options(timeout=3).call_async("you").result() == "hello you"
            with pytest.raises(RuntimeError, match="this ServiceRpcProxy is open already"):
                proxy.start()
            assert remote.hello("still") == "hello still"
    cluster = ClusterRpcProxy(rabbitmq_uri, timeout=5)
    assert cluster.start()[service].hello("you") == "hello you"
    cluster.stop()
    cluster.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "aiorpc.sync"]


def test_a_cancelled_reply_raises_cancelled_error(rabbitmq_uri: str, service: str) -> None:
    with ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5) as cluster:
        reply = cluster[service].slow.call_async()
        assert not reply.done()
        reply.cancel()
        assert reply.done()
        with pytest.raises(concurrent.futures.CancelledError):
            reply.result()


def test_many_threads_share_one_proxy(rabbitmq_uri: str, service: str) -> None:
    with (
        ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=10) as cluster,
        ThreadPoolExecutor(16) as threads,
    ):
        results = threads.map(lambda n: cluster[service].hello(str(n)), range(200))
        assert list(results) == [f"hello {n}" for n in range(200)]


def test_a_closed_proxy_refuses_calls_and_leaves_no_thread(rabbitmq_uri: str) -> None:
    before = threading.active_count()
    proxy = ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5)
    cluster = proxy.start()
    proxy.close()
    proxy.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        cluster.service.method()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_proxy_used_after_a_fork_names_the_remedy(rabbitmq_uri: str) -> None:
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


class Hanging:
    """A middleware in which every call hangs."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()

    async def __call__(self, call: Call, handler: Handler) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


def test_a_call_in_another_thread_ends_when_the_proxy_is_closed() -> None:
    hanging = Hanging()
    proxy = ClusterRpcProxy("memory://", middleware=[hanging])
    cluster = proxy.start()
    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(cluster.service.method)
        assert hanging.begun.wait(10)
        proxy.close()
        with pytest.raises(ConnectionLost, match="closed by another thread"):
            waiting.result(10)
    assert hanging.cancelled.is_set()
    with pytest.raises(RuntimeError, match="was closed"):
        cluster.service.method()


def test_a_call_in_the_proxys_own_loop_is_refused() -> None:
    async def calls_again(call: Call, handler: Handler) -> Any:
        return cluster.service.method()

    proxy = ClusterRpcProxy("memory://", middleware=[calls_again])
    cluster = proxy.start()
    try:
        with pytest.raises(RuntimeError, match="would wait for itself"):
            cluster.service.method()
    finally:
        proxy.close()


def test_middleware_wraps_what_a_dispatcher_sends() -> None:
    record = Record()
    with event_dispatcher("memory://", middleware=[record]) as dispatch:
        dispatch("source", "happened", 1)
    assert record.seen == {("producer", "event", "source.happened", "ok")}


def test_events_are_dispatched_from_any_thread(rabbitmq_uri: str) -> None:
    source = f"sync_source_{uuid.uuid4().hex[:8]}"
    heard: queue.Queue[Any] = queue.Queue()

    class Listener:
        name = f"{source}_listener"

        @event_handler(source, "happened", reliable_delivery=False)
        async def hear(self, payload: Any) -> None:
            heard.put(payload)

    with hosted(Listener, {"AMQP_URI": rabbitmq_uri}):
        with (
            event_dispatcher({"AMQP_URI": rabbitmq_uri}) as dispatch,
            ThreadPoolExecutor(4) as pool,
        ):
            list(pool.map(lambda number: dispatch(source, "happened", number), range(8)))
            dispatch(source, event_type="happened")
            with pytest.raises(UnserializableValueError):
                dispatch(source, "happened", object())
        assert [heard.get(timeout=10) for _ in range(9)][-1] is None
        with pytest.raises(RuntimeError, match="this event_dispatcher was closed"):
            dispatch(source, "happened")


def test_a_dispatcher_without_a_broker_says_so_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with (
        pytest.raises(ConnectionLost),
        event_dispatcher({"AMQP_URI": "amqp://guest:guest@127.0.0.1:9/", "RPC_TIMEOUT": 0.2}),
    ):
        pass
    assert threading.active_count() == before

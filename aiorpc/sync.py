"""
Calling services, and dispatching events, from programs without an event loop: threads, Flask,
Django, scripts. The same client as everywhere, on a loop of its own in a thread of its own. Safe
for any number of threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from .call import Middleware
from .calling.client import UNSET
from .calling.proxies import (
    ClusterProxy as AsyncClusterProxy,
    MethodProxy as AsyncMethodProxy,
    RpcReply as AsyncRpcReply,
)
from .calling.standalone import (
    ClusterRpcProxy as AsyncClusterRpcProxy,
    event_dispatcher as async_event_dispatcher,
)
from .config import Settings
from .exceptions import ConnectionLost

__all__ = [
    "ClusterProxy",
    "ClusterRpcProxy",
    "Dispatch",
    "MethodProxy",
    "RpcReply",
    "ServiceProxy",
    "event_dispatcher",
]

T = TypeVar("T")

#: Seconds for the loop's thread to end after it was told to.
JOIN_TIMEOUT = 10.0


class _LoopThread:
    """An event loop in a daemon thread, and the way to run something there and wait for it."""

    def __init__(self, of_whom: str) -> None:
        self._of_whom = of_whom
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="aiorpc.sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            # What other threads began meanwhile and wait for: they must not wait for ever.
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            loop.close()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* there; what a signal handler raises here cancels it."""
        if os.getpid() != self._pid:
            coroutine.close()
            raise RuntimeError(
                f"this {self._of_whom} was made before a fork, and its thread stayed in the "
                "parent: make it in the worker process (gunicorn's post_fork, Celery's "
                "worker_process_init)"
            )
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(
                f"a sync {self._of_whom} cannot be used in its own loop: use aiorpc's async one"
            )
        begun: list[asyncio.Task[Any]] = []
        given_up = False

        async def unless_given_up() -> T:
            if given_up:
                coroutine.close()
                raise asyncio.CancelledError
            task = asyncio.current_task()
            assert task is not None
            begun.append(task)
            return await coroutine

        def take_back() -> None:
            for task in begun:
                task.cancel()

        try:
            with self._lock:  # what is begun before the loop is told to stop is also ended there
                if self._closed:
                    coroutine.close()
                    raise RuntimeError(
                        f"this {self._of_whom} was closed and cannot be used any more"
                    )
                future = asyncio.run_coroutine_threadsafe(unless_given_up(), self._loop)
            return future.result()
        except concurrent.futures.CancelledError:
            if self._closed:
                raise ConnectionLost(f"this {self._of_whom} was closed by another thread") from None
            raise
        except BaseException:
            # Maybe not the call's, but of a signal handler's: a Ctrl-C, or Celery's time limit. It
            # may come anywhere above, so nothing that is set there can be relied on.
            given_up = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(take_back)
            raise

    def close(self) -> None:
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_TIMEOUT)


class RpcReply(Generic[T]):
    """The answer to a call that has been sent; ``result()`` waits for it, as often as you like."""

    def __init__(self, thread: _LoopThread, reply: AsyncRpcReply[T]) -> None:
        self._thread = thread
        self._reply = reply

    def result(self) -> T:
        """The result; what it raises is what calling the method raises."""
        return self._thread.wait(self._reply.result())

    def done(self) -> bool:
        """Whether the answer, or an error, is here."""
        return self._reply.done()

    def cancel(self) -> None:
        """Take the call back."""

        async def cancel() -> None:
            self._reply.cancel()

        self._thread.wait(cancel())


class MethodProxy:
    """A remote method: call it for its result, ``call_async`` it for a reply to come."""

    __slots__ = ("_method", "_thread")

    def __init__(self, thread: _LoopThread, method: AsyncMethodProxy) -> None:
        self._thread = thread
        self._method = method

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method and wait. Raises what the async ``MethodProxy.__call__`` raises."""
        return self._thread.wait(self._method(*args, **kwargs))

    def call_async(self, /, *args: Any, **kwargs: Any) -> RpcReply[Any]:
        """Send the call now, and return the reply that will come."""

        async def send() -> AsyncRpcReply[Any]:
            return self._method.call_async(*args, **kwargs)

        return RpcReply(self._thread, self._thread.wait(send()))

    def with_options(self, **options: Any) -> MethodProxy:
        """The same method, called otherwise; see :class:`aiorpc.calling.options.CallOptions`."""
        return MethodProxy(self._thread, self._method.with_options(**options))


class ServiceProxy:
    """A remote service: each attribute, or item, is a method of it."""

    __slots__ = ("_get", "_thread")

    def __init__(self, thread: _LoopThread, get: Callable[[str], AsyncMethodProxy]) -> None:
        self._thread = thread
        self._get = get

    def __getattr__(self, name: str) -> MethodProxy:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> MethodProxy:
        return MethodProxy(self._thread, self._get(name))


class ClusterProxy:
    """All services of a broker: each attribute, or item, is a service."""

    __slots__ = ("_cluster", "_thread")

    def __init__(self, thread: _LoopThread, cluster: AsyncClusterProxy) -> None:
        self._thread = thread
        self._cluster = cluster

    def __getattr__(self, name: str) -> ServiceProxy:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> ServiceProxy:
        return ServiceProxy(self._thread, self._cluster[name].__getitem__)


class ClusterRpcProxy:
    """
    Calls any service of a broker, from any thread::

        with ClusterRpcProxy("amqp://guest:guest@localhost/", timeout=3) as cluster:
            cluster.service_x.remote_method("hello")

    Make one per process and keep it (after the fork, where a server forks); ``start()`` and
    ``close()`` are there for programs whose life is no ``with`` block. Arguments, errors and
    timeouts are those of :class:`aiorpc.ClusterRpcProxy`.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
        *,
        timeout: float | None | msgspec.UnsetType = UNSET,
        context_data: Mapping[str, Any] | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._proxy = AsyncClusterRpcProxy(
            config, timeout=timeout, context_data=context_data, middleware=middleware
        )
        self._thread: _LoopThread | None = None

    def start(self) -> ClusterProxy:
        """Connect, and return what to call."""
        thread = _LoopThread("ClusterRpcProxy")
        try:
            cluster = thread.wait(self._proxy.start())
        except BaseException:
            thread.close()
            raise
        self._thread = thread
        return ClusterProxy(thread, cluster)

    def close(self) -> None:
        """Fail the calls that still wait, hang up, end the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.wait(self._proxy.aclose())
            finally:
                thread.close()

    def __enter__(self) -> ClusterProxy:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Dispatch(Protocol):
    """What :func:`event_dispatcher` gives."""

    def __call__(self, service: str, event_type: str, payload: Any = None) -> None: ...


@contextmanager
def event_dispatcher(
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
    *,
    context_data: Mapping[str, Any] | None = None,
) -> Generator[Dispatch]:
    """
    Dispatches events in the name of services, from any thread::

        with event_dispatcher("amqp://guest:guest@localhost/") as dispatch:
            dispatch("service_x", "something_happened", {"id": 1})

    Each returns when the broker has the event. Errors are those of :func:`aiorpc.event_dispatcher`.
    """
    thread = _LoopThread("event_dispatcher")
    dispatcher = async_event_dispatcher(config, context_data=context_data)
    try:
        dispatch_there = thread.wait(dispatcher.__aenter__())
        try:
            yield lambda service, event_type, payload=None: thread.wait(
                dispatch_there(service, event_type, payload)
            )
        finally:
            thread.wait(dispatcher.__aexit__(None, None, None))
    finally:
        thread.close()

"""
Calls services and dispatches events from programs without an event loop: threads, Flask, Django,
scripts. This file imports ``calling``.

Each proxy starts one thread with an event loop, and runs the async proxy there. Any number of
threads may use a proxy at the same time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Never,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
)

from .call import Middleware
from .calling import proxies, standalone
from .calling.message_options import MessageKeywords
from .calling.options import Options
from .calling.proxies import Names
from .calling.standalone import Config, ProxyOptions
from .exceptions import ConnectionLost
from .from_thread import Bridge
from .transports.health import Health

__all__ = [
    "ClusterProxy",
    "ClusterRpcProxy",
    "Dispatch",
    "MethodProxy",
    "RpcReply",
    "ServiceProxy",
    "ServiceRpcProxy",
    "event_dispatcher",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that ``close`` waits for the thread of the loop to end.
JOIN_TIMEOUT = 10.0


class _LoopThread:
    """An event loop in a daemon thread. Other threads run coroutines in it with ``run``."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._pid = os.getpid()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._bridge = Bridge(self._loop)
        self._thread = threading.Thread(target=self._run_loop, name="aiorpc.sync", daemon=True)
        self._thread.start()

    def _run_loop(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            self._bridge.end()  # other threads wait for these calls
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            loop.close()

    def run(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run ``await function(*args, **kwargs)`` in the loop, and wait for its result in this thread.

        Raises:
            ConnectionLost: another thread called ``close`` meanwhile.
            RuntimeError: ``close`` was called before, or another process made this object.
            concurrent.futures.CancelledError: the call was cancelled.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this {self._owner} was made before a fork, and its thread stayed in the parent: "
                "make it in the worker process (gunicorn's post_fork, Celery's "
                "worker_process_init)"
            )
        if self._closed:
            raise RuntimeError(f"this {self._owner} was closed and cannot be used any more")
        try:
            return self._bridge.run(partial(function, *args, **kwargs))
        except asyncio.CancelledError:
            if self._closed:
                raise ConnectionLost(f"this {self._owner} was closed by another thread") from None
            raise concurrent.futures.CancelledError from None

    def soon(self, function: Callable[[], object]) -> None:
        """Call *function* in the loop, unless the loop has ended. Does not wait."""
        if os.getpid() == self._pid:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Cancel the tasks in the loop, and end the thread. Idempotent."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self.soon(self._loop.stop)
        self._thread.join(JOIN_TIMEOUT)


class RpcReply(Generic[T]):
    """The answer to a call that was sent. You may call ``result()`` any number of times."""

    def __init__(self, thread: _LoopThread, reply: proxies.RpcReply[T]) -> None:
        self._thread = thread
        self._reply = reply

    def result(self) -> T:
        """Wait for the result. Raises the same errors as a call of the method."""
        return self._thread.run(self._reply.result)

    def done(self) -> bool:
        """Whether the answer, or an error, has arrived."""
        return self._reply.done()

    def cancel(self) -> None:
        """Cancel the call. ``result()`` then raises ``concurrent.futures.CancelledError``."""

        async def cancel() -> None:
            self._reply.cancel()

        self._thread.run(cancel)


class MethodProxy:
    """A remote method. Call it for its result; ``call_async`` returns an :class:`RpcReply`."""

    __slots__ = ("_method", "_thread")

    def __init__(self, thread: _LoopThread, method: proxies.MethodProxy) -> None:
        self._thread = thread
        self._method = method

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method and wait. Raises the same errors as the async ``MethodProxy``."""
        return self._thread.run(self._method, *args, **kwargs)

    def call_async(self, /, *args: Any, **kwargs: Any) -> RpcReply[Any]:
        """Send the call now. The returned reply waits for the answer."""

        async def send() -> proxies.RpcReply[Any]:
            return self._method.call_async(*args, **kwargs)

        return RpcReply(self._thread, self._thread.run(send))

    def stream(self, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """
        Yield the items of a method that is an async generator. Leaving the loop cancels the call.
        """
        items = self._thread.run(self._streaming, args, kwargs)
        try:
            while batch := self._thread.run(items.batch):
                yield from batch
        finally:  # the garbage collector may close this generator in any thread, at any time
            self._thread.soon(items.cancel)

    async def _streaming(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> proxies.RpcStream[Any]:
        return self._method.stream(*args, **kwargs)

    def with_options(self, **options: Unpack[Options]) -> MethodProxy:
        """Return the method with other :class:`aiorpc.calling.options.CallOptions`."""
        return MethodProxy(self._thread, self._method.with_options(**options))


class ServiceProxy(Names[MethodProxy]):
    """A remote service. Each attribute and each item is a method of the service."""

    def __init__(self, thread: _LoopThread, service: proxies.ServiceProxy) -> None:
        super().__init__(lambda name: MethodProxy(thread, service[name]))


class ClusterProxy(Names[ServiceProxy]):
    """All services of a broker. Each attribute and each item is a service."""

    def __init__(self, thread: _LoopThread, cluster: proxies.ClusterProxy) -> None:
        super().__init__(lambda name: ServiceProxy(thread, cluster[name]))


class _Blocking(Generic[T]):
    """Runs an async proxy in a thread, and gives a blocking proxy to the user."""

    _proxy: standalone.ClusterRpcProxy | standalone.ServiceRpcProxy
    _thread: _LoopThread | None = None

    def _blocking(self, thread: _LoopThread, proxy: Any) -> T:
        """Return what calls *proxy* in *thread*."""
        raise NotImplementedError

    def start(self) -> T:
        """Connect, and return the proxy to call. A proxy that was closed may start again."""
        thread = _LoopThread(type(self).__name__)
        try:
            proxy = thread.run(self._proxy.start)
        except BaseException:
            thread.close()
            raise
        self._thread = thread
        return self._blocking(thread, proxy)

    def close(self) -> None:
        """Fail the pending calls, disconnect, and end the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._proxy.aclose)
            finally:
                thread.close()

    def stop(self) -> None:
        """Do the same as :meth:`close`. Nameko's name."""
        self.close()

    def health(self) -> Health:
        """Whether calls can be made right now."""
        return self._proxy.health()

    if not TYPE_CHECKING:  # type checkers report these mistakes themselves

        def __getattr__(self, name: str) -> NoReturn:
            kind = type(self).__name__
            raise AttributeError(
                f"{kind} has no attribute {name!r}: calls are made on the proxy that "
                f"`with {kind}(...) as proxy` or {kind}(...).start() gives"
            )

        async def __aenter__(self) -> NoReturn:
            kind = type(self).__name__
            raise TypeError(
                f"aiorpc.sync.{kind} needs `with`; a coroutine uses `async with aiorpc.{kind}(...)`"
            )

        async def __aexit__(self, *exc_info: object) -> None: ...

    def __enter__(self) -> T:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class ClusterRpcProxy(_Blocking[ClusterProxy]):
    """
    Calls any service of a broker, from any thread::

        with ClusterRpcProxy("amqp://guest:guest@localhost/", timeout=3) as cluster:
            cluster.service_x.remote_method("hello")

    Make one proxy per process, and keep it. In a server that forks, make it after the fork. Where a
    ``with`` block does not fit, use ``start()`` and ``close()``. Arguments, errors and timeouts are
    the same as for :class:`aiorpc.ClusterRpcProxy`.
    """

    def __init__(
        self, config: Config = None, *more: Never, **options: Unpack[ProxyOptions]
    ) -> None:
        self._proxy = standalone.ClusterRpcProxy(config, *more, **options)

    def _blocking(self, thread: _LoopThread, proxy: Any) -> ClusterProxy:
        return ClusterProxy(thread, proxy)


class ServiceRpcProxy(_Blocking[ServiceProxy]):
    """
    Calls one service: ``with ServiceRpcProxy("service_x", url) as x: x.remote_method("hello")``.
    Otherwise like :class:`ClusterRpcProxy`.
    """

    def __init__(
        self, service: str, config: Config = None, *more: Never, **options: Unpack[ProxyOptions]
    ) -> None:
        self._proxy = standalone.ServiceRpcProxy(service, config, *more, **options)

    def _blocking(self, thread: _LoopThread, proxy: Any) -> ServiceProxy:
        return ServiceProxy(thread, proxy)


class Dispatch(Protocol):
    """The function that :func:`event_dispatcher` yields."""

    def __call__(
        self,
        service: str,
        event_type: str,
        payload: Any = None,
        **options: Unpack[MessageKeywords],
    ) -> None: ...


@contextmanager
def event_dispatcher(
    config: Config = None,
    *,
    context_data: Mapping[str, Any] | None = None,
    middleware: Sequence[Middleware] = (),
    **options: Unpack[MessageKeywords],
) -> Generator[Dispatch]:
    """
    Dispatch events in the name of services, from any thread::

        with event_dispatcher("amqp://guest:guest@localhost/") as dispatch:
            dispatch("service_x", "something_happened", {"id": 1})

    ``dispatch`` returns when the broker has confirmed the event. Options and errors are the same as
    for :func:`aiorpc.event_dispatcher`.
    """
    dispatcher = standalone.event_dispatcher(
        config, context_data=context_data, middleware=middleware, **options
    )
    with closing(_LoopThread("event_dispatcher")) as thread:
        send = thread.run(dispatcher.__aenter__)

        def dispatch(
            service: str, event_type: str, payload: Any = None, **changes: Unpack[MessageKeywords]
        ) -> None:
            thread.run(send, service, event_type, payload, **changes)

        try:
            yield dispatch
        finally:
            thread.run(dispatcher.__aexit__, None, None, None)

"""
The objects that the workers of one service share: dependencies, middleware, timers and threads.
Awaits only the threads that run sync methods; no other I/O.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from ..call import Call, Middleware
from ..exceptions import ConfigurationError
from ..extensions import DependencyProvider, Entrypoint, Host
from ..from_thread import Bridge
from ..timers import Timers

__all__ = ["Threads", "Workshop"]


class Workshop:
    """
    The objects that the workers of one service share.

    Args:
        host: the host for dependencies and middleware.
        stopping: returns whether the service stops or is cancelled. Then other code may cancel the
            tasks of its workers, for example ``asyncio.run`` at its end.

    Attributes:
        coroutines: the names of the coroutine methods. The other methods run in threads.
        values: providers without anything to close after a call.
        lifetimes: providers that open and close around each call.
        cleanup_timeout: seconds that the dependencies of one worker may take to close.
    """

    def __init__(
        self,
        host: Host,
        entrypoints: Sequence[Entrypoint],
        providers: Sequence[DependencyProvider[Any]],
        middleware: Sequence[Middleware],
        timers: Timers,
        stopping: Callable[[], bool],
    ) -> None:
        _require_instances(host.service_cls, providers)
        self.host = host
        self.service_cls = host.service_cls
        self.coroutines = frozenset(
            entrypoint.method_name
            for entrypoint in entrypoints
            if inspect.iscoroutinefunction(getattr(host.service_cls, entrypoint.method_name))
        )
        self.values = [provider for provider in providers if not provider.has_lifetime]
        self.lifetimes = [provider for provider in providers if provider.has_lifetime]
        self.middleware = tuple(middleware)
        self.cleanup_timeout = host.settings.cleanup_timeout
        self.timers = timers
        self.stopping = stopping
        self.threads = Threads(host.service_name, host.settings.sync_threads)


def _require_instances(service_cls: type, providers: Sequence[DependencyProvider[Any]]) -> None:
    """
    Check that workers can make instances of *service_cls*, and set dependencies on them.

    Raises:
        ConfigurationError: they cannot.
    """
    name = service_cls.__qualname__
    if abstract := getattr(service_cls, "__abstractmethods__", None):
        missing = ", ".join(sorted(abstract))
        raise ConfigurationError(f"{name} is abstract: host a subclass that defines {missing}")
    try:
        inspect.signature(service_cls).bind()
    except TypeError as exc:
        raise ConfigurationError(
            f"each worker makes an instance of {name} without arguments, and that fails: {exc}. "
            "Give the arguments of __init__ defaults, or declare dependencies instead"
        ) from None
    except (ValueError, NameError):  # no signature, or Python 3.14 cannot read its annotations
        pass
    if providers and not service_cls.__dictoffset__:
        raise ConfigurationError(f"{name} has no __dict__ for its dependencies: remove __slots__")


class Threads:
    """
    Runs the sync methods of one service in threads.

    Args:
        most: the maximum number of threads.
    """

    def __init__(self, service_name: str, most: int) -> None:
        self._service_name = service_name
        self._most = most
        self._executor: Executor | None = None

    async def run(
        self, call: Call, method: Callable[..., Any], cancelled: Callable[[], bool]
    ) -> Any:
        """
        Run *method* for *call* in a thread and wait for it.

        A thread cannot be cancelled. A cancelled ``run`` waits until the method returns, so that
        the dependencies stay open, and raises ``CancelledError`` then. If the thread has not
        started the method, ``run`` raises at once.

        Args:
            cancelled: called at each cancellation while the method runs. Returns whether to stop
                waiting.
        """
        way_back = Bridge(asyncio.get_running_loop())
        thread = self._threads().submit(way_back.for_thread(method, *call.args, **call.kwargs))
        running = asyncio.wrap_future(thread)
        cancelling: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait((running,))
            except asyncio.CancelledError as exc:
                cancelling = exc
                way_back.end()
                if thread.cancel() or cancelled():
                    raise
        if cancelling is not None:
            running.exception()  # asyncio would log an error that nobody read
            raise cancelling
        result = running.result()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigurationError(
                f"{call} is a sync method and returned an awaitable: declare it with `async def`, "
                "and the functions of its decorators too"
            )
        return result

    def _threads(self) -> Executor:
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor  # only sync methods need it

            self._executor = ThreadPoolExecutor(
                self._most, thread_name_prefix=f"aiorpc-{self._service_name}"
            )
        return self._executor

    def close(self) -> None:
        """Start no more methods. Does not wait for running methods."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

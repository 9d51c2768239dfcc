"""
Runs coroutines in the event loop of another thread, and waits for their results.

Users call ``run`` in a sync ``@rpc def``. The worker of such a method, and ``aiorpc.sync``, use
``Bridge``. This file imports no other file of aiorpc.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

__all__ = ["run"]

P = ParamSpec("P")
R = TypeVar("R")

#: While a thread waits, it checks at this interval, in seconds, whether the loop is closed.
_CHECK_INTERVAL = 1.0


class Bridge:
    """Runs coroutines in *loop* for other threads, until ``end`` is called."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def end(self) -> None:
        """Cancel the tasks of other threads, and refuse new tasks. Call this in the loop."""
        self._ended = True
        for task in list(self._tasks):
            task.cancel()

    def for_thread(self, method: Callable[..., R], *args: Any, **kwargs: Any) -> Callable[[], R]:
        """Return a function that runs *method* in a thread, with a copy of this context."""

        def call() -> R:
            bridge.set(self)
            try:
                return method(*args, **kwargs)
            except StopIteration as exc:
                # A future does not accept a StopIteration, so its waiter would wait forever.
                # Python itself converts a StopIteration in coroutines in the same way.
                name = getattr(method, "__qualname__", repr(method))
                raise RuntimeError(f"{name} raised StopIteration") from exc

        return partial(contextvars.copy_context().run, call)

    def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """
        Run ``await function()`` in the loop, and wait for its result in this thread.

        If a signal handler raises in this thread meanwhile, the task in the loop is cancelled.

        Raises:
            asyncio.CancelledError: the task was cancelled, ``end`` was called, or the loop closed.
            RuntimeError: this thread runs the loop, so it would wait for itself.
        """
        done: concurrent.futures.Future[R] = concurrent.futures.Future()
        task: asyncio.Task[R] | None = None

        def begin() -> None:
            nonlocal task
            if self._ended:
                done.set_exception(asyncio.CancelledError())
                return
            task = self._loop.create_task(_awaited(function))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(partial(_copy_result, done))

        def cancel() -> None:
            if task is not None:
                task.cancel()

        self._check()
        try:
            self._call_in_loop(begin)
            return self._result(done)
        except BaseException:
            # A signal handler may have raised (Ctrl-C, Celery's time limit), even before the loop
            # has run `begin`; the loop then runs `begin` before `cancel`.
            if not done.done():
                with suppress(asyncio.CancelledError):
                    self._call_in_loop(cancel)
            raise

    def _check(self) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            raise RuntimeError(
                "this thread runs the event loop, and would wait for itself: await the coroutine "
                "instead of using from_thread.run() or aiorpc.sync"
            )
        if self._ended:
            raise asyncio.CancelledError

    def _call_in_loop(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed
            raise asyncio.CancelledError from None

    def _result(self, done: concurrent.futures.Future[R]) -> R:
        while True:
            try:
                return done.result(_CHECK_INTERVAL)
            except TimeoutError:
                if done.done():  # the coroutine may have raised this TimeoutError
                    return done.result()
                if self._loop.is_closed():
                    raise asyncio.CancelledError from None


async def _awaited(function: Callable[[], Awaitable[R]]) -> R:
    awaitable = function()
    if not inspect.isawaitable(awaitable):
        raise TypeError(
            "from_thread.run() takes a function that returns an awaitable, not a function that "
            f"returns {type(awaitable).__name__}: call that function without run()"
        )
    return await awaitable


def _copy_result(done: concurrent.futures.Future[R], task: asyncio.Task[R]) -> None:
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())


#: The bridge of this thread. ``Bridge.for_thread`` sets it.
bridge: ContextVar[Bridge] = ContextVar("aiorpc.bridge")


def require_loop(what: str) -> None:
    """
    Check that the current thread may make a coroutine. *what* names the coroutine.

    Raises:
        RuntimeError: the current thread runs a sync method and no event loop, so it cannot await.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if bridge.get(None) is not None:
            raise RuntimeError(
                f"{what} was called in the thread of a sync method, which has no event loop, so "
                "nothing was sent: use from_thread.run(function, *arguments), or make the method "
                "`async def` and await the call"
            ) from None


def run(function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """
    Run ``await function(*args, **kwargs)`` in the event loop of the service, and wait for its
    result in this thread. *function* may also be the ``result`` of a ``call_async`` reply::

        @rpc
        def report(self, month: str) -> bytes:
            rows = from_thread.run(self.books.sold_in, month)

    The coroutine has the deadline and the context data of the call. The host cancels the coroutine
    when the deadline passes, or when the caller cancels the call.

    Raises:
        RuntimeError: the current thread is not the thread of a sync method.
        TypeError: *function* does not return an awaitable.
        asyncio.CancelledError: the call was cancelled, or its deadline passed. Do not catch it.
    """
    try:
        own = bridge.get()
    except LookupError:
        raise RuntimeError(
            "from_thread.run() works only in the thread of a sync @rpc method; in a coroutine, "
            "await the call; in a unit test, run the method with aiorpc.testing.run_sync(); in a "
            "program without a loop, use aiorpc.sync.ClusterRpcProxy"
        ) from None
    return own.run(partial(function, *args, **kwargs))

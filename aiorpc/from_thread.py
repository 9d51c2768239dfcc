"""
Lets a thread await coroutines of an event loop that runs in another thread.

Users call ``run`` in a sync ``@rpc def``. The worker of that method, and ``aiorpc.sync``, use
``Bridge``. Imports nothing of aiorpc.
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

#: Seconds between two checks whether the loop is still open.
_CHECK_INTERVAL = 1.0


class Bridge:
    """Runs coroutines in *loop* for other threads, until ``end`` is called."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def end(self) -> None:
        """Cancel what runs for other threads, and let nothing more begin. Call it in the loop."""
        self._ended = True
        for task in list(self._tasks):
            task.cancel()

    def for_thread(self, method: Callable[..., R], *args: Any, **kwargs: Any) -> Callable[[], R]:
        """A function for a thread to call: *method* in a copy of this context, with this bridge."""

        def call() -> R:
            bridge.set(self)
            try:
                return method(*args, **kwargs)
            except StopIteration as exc:
                # A future refuses a StopIteration, and its waiter would wait for ever. Python
                # converts it in coroutines in the same way.
                name = getattr(method, "__qualname__", repr(method))
                raise RuntimeError(f"{name} raised StopIteration") from exc

        return partial(contextvars.copy_context().run, call)

    def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """
        Call *function* in the loop, await what it returns, and wait for that in this thread.

        An exception that a signal handler raises here meanwhile cancels what runs in the loop.

        Raises:
            asyncio.CancelledError: it was cancelled, ``end`` was called, or the loop is closed.
            RuntimeError: this thread runs the loop.
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
            # Maybe a signal handler's: Ctrl-C, or Celery's time limit. It may come before `begin`
            # has run; the loop then runs `begin` first.
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
                "here, without from_thread.run() or aiorpc.sync"
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


#: The bridge of this thread, set by ``Bridge.for_thread``.
bridge: ContextVar[Bridge] = ContextVar("aiorpc.bridge")


def run(function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """
    Run ``await function(*args, **kwargs)`` in the event loop of the service, and wait for it here.
    It awaits anything, also the reply of a ``call_async``::

        @rpc
        def report(self, month: str) -> bytes:
            rows = from_thread.run(self.books.sold_in, month)

    It runs under the deadline and with the context data of the call. It is cancelled when the
    deadline passes, or when the caller cancels the call.

    Raises:
        RuntimeError: this is not the thread of a sync method.
        TypeError: *function* returns what cannot be awaited.
        asyncio.CancelledError: the call was cancelled, or its deadline passed. Let it pass.
    """
    try:
        own = bridge.get()
    except LookupError:
        raise RuntimeError(
            "from_thread.run() works in the thread of a sync @rpc method; in a coroutine, await "
            "the call, in a unit test run the method by aiorpc.testing.run_sync(), and in a "
            "program without a loop use aiorpc.sync.ClusterRpcProxy"
        ) from None
    return own.run(partial(function, *args, **kwargs))

"""Lets a sync ``@rpc def``, which runs in a thread, await coroutines of its service's loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

__all__ = ["run"]

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds between two looks whether the loop is there still.
_LOOK = 1.0


class Bridge:
    """
    The way of one thread back to the loop, for as long as its call may go on. The worker that hands
    a method to a thread makes it, in the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ended = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def end(self) -> None:
        """
        Nobody waits for the call any more: cancel what runs for its thread, and let no more begin.
        To be called in the loop.
        """
        self._ended = True
        for task in list(self._tasks):
            task.cancel()

    def there(self, method: Callable[..., R], *args: Any, **kwargs: Any) -> Callable[[], R]:
        """What to call in a thread: *method*, in a copy of this context, with this way back."""

        def call() -> R:
            bridge.set(self)
            try:
                return method(*args, **kwargs)
            except StopIteration as exc:
                # No future takes one: it would wait for ever. Python treats coroutines alike.
                name = getattr(method, "__qualname__", repr(method))
                raise RuntimeError(f"{name} raised StopIteration") from exc

        return partial(contextvars.copy_context().run, call)

    def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """Call *function* in the loop, await what it returns, and wait for that in this thread."""
        done: concurrent.futures.Future[R] = concurrent.futures.Future()

        async def awaited() -> R:
            awaitable = function()
            if not inspect.isawaitable(awaitable):
                raise TypeError(
                    "from_thread.run() takes what is awaited, and was given a function that "
                    f"returns {type(awaitable).__name__}: call that here, without run()"
                )
            return await awaitable

        def begin() -> None:
            task = self.loop.create_task(awaited())
            self._tasks.add(task)
            task.add_done_callback(finish)
            if self._ended:
                task.cancel()

        def finish(task: asyncio.Task[R]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                done.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(task.result())

        if self._ended:
            raise asyncio.CancelledError
        try:
            self.loop.call_soon_threadsafe(begin, context=contextvars.copy_context())
        except RuntimeError:  # the loop is closed: the service is gone, and its caller
            raise asyncio.CancelledError from None
        while True:
            try:
                return done.result(_LOOK)
            except TimeoutError:
                if done.done():  # the error may be the coroutine's own
                    return done.result()
                if self.loop.is_closed():
                    raise asyncio.CancelledError from None


#: Set by the worker that hands a sync method to a thread.
bridge: ContextVar[Bridge] = ContextVar("aiorpc.bridge")


def run(function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """
    Run ``await function(*args, **kwargs)`` in the event loop of the service, and wait for it here.
    Anything that can be awaited will do, the reply of a ``call_async`` too::

        @rpc
        def report(self, month: str) -> bytes:
            rows = from_thread.run(self.books.sold_in, month)

    It runs under the deadline and with the context data of the call. When the deadline passes, or
    the caller takes the call back, it is cancelled.

    Raises:
        RuntimeError: this is not the thread of a sync method.
        TypeError: *function* returns what cannot be awaited.
        asyncio.CancelledError: nobody waits for the call any more; let it pass.
    """
    try:
        there = bridge.get()
    except LookupError:
        raise RuntimeError(
            "from_thread.run() works in the thread of a sync @rpc method; in a coroutine, await "
            "the call, in a unit test run the method by aiorpc.testing.run_sync(), and in a "
            "program without a loop use aiorpc.sync.ClusterRpcProxy"
        ) from None
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is there.loop:
        raise RuntimeError("from_thread.run() would wait for itself here: await the coroutine")
    return there.run(partial(function, *args, **kwargs))

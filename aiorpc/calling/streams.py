"""
The streams of a client, and the object that a program iterates. Awaits items; sends through the
client.

The request, the receiving and the end run in one task for each stream, so that a middleware of the
caller lasts as long as the stream. The program's ``async for`` takes the items from a buffer. The
task does not reference the object that the program holds: so dropping the object ends the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from ..call import Call, Handler
from ..config import Settings
from ..exceptions import RpcTimeout
from ..transports.base import Transport
from ..wire.names import ALIVE_EVERY, STREAM
from .inflow import Inflow, PendingStream
from .options import Route
from .pending import Pending

__all__ = ["RpcStream", "StreamCalls"]

T_co = TypeVar("T_co", covariant=True)

#: Seconds between two signs of life without heartbeats.
ALIVE = 10.0


class RpcStream(Generic[T_co]):
    """
    The items of a stream: ``async for item in proxy.method.stream(...)``.

    The request is sent when the program waits for the first item. To leave the loop early, or to
    drop this object, or to cancel the waiting task, cancels the call: the service closes the
    generator and rolls back. If your code keeps a reference, use ``async with`` or ``aclose()``.
    """

    def __init__(
        self,
        start: Callable[[Inflow], Coroutine[Any, Any, Any]],
        convert: Callable[[Any], Any] | None,
        idle_timeout: float | None,
        name: str,
    ) -> None:
        self._start = start
        self._convert = convert
        self._idle_timeout = idle_timeout
        self._name = name
        self._task: asyncio.Task[Any] | None = None
        self._inflow: Inflow | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        """
        Return the next item.

        Raises:
            StopAsyncIteration: the stream has ended.
            RpcTimeout: the deadline passed, or no item came within ``idle_timeout``.
            ConnectionLost: the connection or the service was lost in the stream.
            Exception: the errors of a call, after all items before it.
        """
        inflow = self._inflow
        if inflow is None or not inflow.items:
            inflow = await self._more()
        item = inflow.items.popleft()
        if inflow.took is not None:
            inflow.took()
        return item if self._convert is None else self._convert(item)  # type: ignore[no-any-return]

    async def batch(self) -> list[T_co]:
        """Return all items that have arrived, at least one; an empty list at the end."""
        try:
            first = await self.__anext__()
        except StopAsyncIteration:
            return []
        assert self._inflow is not None
        return [first, *[await self.__anext__() for _ in range(len(self._inflow.items))]]

    async def _more(self) -> Inflow:
        """Wait for an item, or raise how the stream ended."""
        if self._over:
            raise StopAsyncIteration
        if self._task is None or self._inflow is None:
            self._inflow = Inflow()
            self._task = asyncio.create_task(self._start(self._inflow))
            self._task.add_done_callback(_notify(self._inflow))
        inflow, task = self._inflow, self._task
        idle = asyncio.timeout(self._idle_timeout)
        try:
            async with idle:
                while not inflow.items and not task.done():
                    inflow.news.clear()
                    await inflow.news.wait()
        except BaseException as exc:
            self.cancel()
            if isinstance(exc, TimeoutError) and idle.expired():
                raise RpcTimeout(
                    f"{self._name}: no item came within {self._idle_timeout:g} s (idle_timeout)"
                ) from None
            raise
        if not inflow.items:
            self._over = True
            task.result()
            raise StopAsyncIteration
        return inflow

    def cancel(self) -> None:
        """Cancel the call, unless the stream has ended. ``aclose`` also waits for the end."""
        self._over = True
        if self._inflow is not None:
            self._inflow.items.clear()
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Cancel the call, unless the stream has ended. Idempotent."""
        self.cancel()
        if self._task is not None and not self._task.done():
            await asyncio.wait((self._task,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        task = self._task
        if task is None or task.done():
            return
        loop = task.get_loop()
        if asyncio._get_running_loop() is loop:
            task.cancel()
        elif not loop.is_closed():  # the garbage collector runs in any thread
            loop.call_soon_threadsafe(task.cancel)

    def __repr__(self) -> str:
        return f"<RpcStream {self._name}>"


def _notify(inflow: Inflow) -> Callable[[asyncio.Task[Any]], None]:
    """Return what a finished task calls: it must not reference the program's object."""

    def notify(task: asyncio.Task[Any]) -> None:
        inflow.news.set()
        if not task.cancelled():
            task.exception()  # the program may never ask

    return notify


class StreamCalls:
    """
    The streams of one client.

    Args:
        wrapped, new_call, send, cancel: methods of the client.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        wrapped: Callable[[Route, Handler], Handler],
        new_call: Callable[[Route, tuple[Any, ...], Mapping[str, Any]], Call],
        send: Callable[[Call, Route, Callable[..., Pending]], Awaitable[Pending]],
        cancel: Callable[[Pending], None],
    ) -> None:
        self._window = settings.stream_window
        self._alive_every = settings.heartbeat or ALIVE
        self._wrapped = wrapped
        self._new_call = new_call
        self._send = send
        self._kind = partial(
            PendingStream,
            transport=transport,
            cancel=cancel,
            window=settings.stream_window,
            alive_every=self._alive_every,
        )

    def open(
        self,
        route: Route,
        convert: Callable[[Any], Any] | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> RpcStream[Any]:
        """Return the stream of a call of *route*, which applies *convert* to each item."""
        idle_timeout = route.options.idle_timeout
        # The request is confirmed, and never re-sent: a stream does not run twice.
        headers = {**route.headers, STREAM: self._window, ALIVE_EVERY: self._alive_every}
        options = msgspec.structs.replace(route.options, resend=False)
        route = msgspec.structs.replace(route, confirm=True, options=options, headers=headers)

        async def wait(inflow: Inflow, call: Call) -> None:
            if inflow.error is not None:  # a middleware tries again, and would double items
                raise inflow.error
            pending = await self._send(call, route, partial(self._kind, inflow=inflow))
            assert isinstance(pending, PendingStream)
            try:
                await pending.wait()
            except Exception as error:
                if pending.received:
                    inflow.error = error
                raise

        async def start(inflow: Inflow) -> None:
            call = self._new_call(route, args, kwargs)
            await self._wrapped(route, partial(wait, inflow))(call)

        return RpcStream(start, convert, idle_timeout, route.routing_key)

"""
The threads that run the sync methods of one service. Awaits only these threads; no other I/O.

They are daemon threads: Python does not wait for a method that never returns, so a process ends
after its drain. ``concurrent.futures`` has no pool of daemon threads.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from ..call import Call
from ..exceptions import ConfigurationError
from ..from_thread import Bridge
from ..logs import logger

if TYPE_CHECKING:
    from queue import SimpleQueue

__all__ = ["MethodThread", "Threads"]

log = logger("aiorpc.hosting")

#: A function to run for a call, and the future of its result. ``None`` ends the thread.
Work: TypeAlias = tuple[Call, Callable[[], Any], "Future[Any]"] | None


class Threads:
    """
    Runs the sync methods of one service in threads.

    Args:
        most: the maximum number of threads.
    """

    def __init__(self, service_name: str, most: int) -> None:
        self._service_name = service_name
        self._most = most
        self._threads: list[MethodThread] = []
        self._queue: SimpleQueue[Work] | None = None
        self._idle = threading.Semaphore(0)
        self._closed = False
        #: The abandoned calls whose methods may still run.
        self._left: list[tuple[Call, Future[Any]]] = []

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
        thread = self._submit(call, way_back.for_thread(method, *call.args, **call.kwargs))
        running = asyncio.wrap_future(thread)
        cancelling: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait((running,))
            except asyncio.CancelledError as exc:
                cancelling = exc
                way_back.end()
                if thread.cancel():
                    raise
                if cancelled():
                    self._left.append((call, thread))
                    raise
        if cancelling is not None:
            running.exception()  # asyncio would log an error that nobody read
            raise cancelling
        result = running.result()
        if inspect.isawaitable(result):
            raise _awaitable(call, result)
        return result

    def _submit(self, call: Call, function: Callable[[], Any]) -> Future[Any]:
        if self._closed:
            raise RuntimeError(f"{self._service_name} has stopped and starts no more methods")
        if self._queue is None:
            from queue import SimpleQueue  # only sync methods need it

            self._queue = SimpleQueue()
        future: Future[Any] = Future()
        self._queue.put((call, function, future))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
            name = f"aiorpc-{self._service_name}_{len(self._threads)}"
            thread = MethodThread(name, self._queue, self._idle)
            self._threads.append(thread)
            thread.start()
        return future

    def frame_of(self, call: Call) -> FrameType | None:
        """Return what the thread that runs the method of *call* executes now, if there is one."""
        for thread in self._threads:
            if thread.call is call and thread.ident is not None:
                return sys._current_frames().get(thread.ident)
        return None

    def close(self) -> None:
        """Start no more methods. Does not wait for running methods, but logs their names."""
        self._closed = True
        if self._queue is not None:
            # The service has no workers any more, so nobody waits for the work in the queue.
            self._queue.put(None)
        if running := sorted({str(call) for call, future in self._left if not future.done()}):
            log.warning(
                "%s stops without its sync method(s) that did not return: %s; their threads end "
                "with the process",
                self._service_name,
                ", ".join(running),
            )


def _awaitable(call: Call, result: Any) -> ConfigurationError:
    if inspect.iscoroutine(result):
        result.close()
    return ConfigurationError(
        f"{call} is a sync method and returned an awaitable: declare it with `async def`, and the "
        "functions of its decorators too"
    )


class MethodThread(threading.Thread):
    """Runs the functions in *queue*, one after the other. Releases *idle* after each function."""

    def __init__(self, name: str, queue: SimpleQueue[Work], idle: threading.Semaphore) -> None:
        super().__init__(name=name, daemon=True)
        self._queue = queue
        self._idle = idle
        #: The call whose method runs now.
        self.call: Call | None = None

    def run(self) -> None:
        while (work := self._queue.get()) is not None:
            self.call, function, future = work
            settle: Callable[[], object] | None = None
            if future.set_running_or_notify_cancel():
                try:
                    settle = partial(future.set_result, function())
                except BaseException as exc:  # noqa: BLE001 - the worker raises it in the loop
                    settle = partial(future.set_exception, exc)
            self.call = None
            self._idle.release()  # first: whoever has the result may submit the next function
            if settle is not None:
                settle()
            del work, function, future, settle  # an idle thread keeps no arguments and results
        self._queue.put(None)  # ends the next thread

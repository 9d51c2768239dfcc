"""
Names the method that blocks an event loop. A thread of its own watches the loop's heartbeat and
reads the stack of the loop's thread. Logs; no other I/O.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

from ..context import current
from ..logs import logger, named
from .heartbeat import Heartbeat

__all__ = ["Blocker", "Watchdog"]

log = logger("aiorpc.hosting")

#: Seconds to wait for the thread's end.
_END = 1.0
_REMEDY = (
    "no other call of this process runs meanwhile. Declare the method with `def`, so that it runs "
    "in a thread, or await asyncio.to_thread(...) for the part that blocks"
)
#: Why a stall has no name: whether the process got no processor.
_WHY = {
    True: "this process was stopped, or the machine had no free processor",
    False: "what blocked it ended before it could be named, perhaps code in C",
}


class Blocker(NamedTuple):
    """What blocks the loop: *text* names it; service and method are empty outside of a call."""

    text: str
    service: str = ""
    method: str = ""


class Watchdog:
    """
    Watches *heartbeat* until ``stop``.

    One warning names what blocks the loop when it has done so for *bound* seconds, with its stack.
    Another one tells how long it took at the end.

    Args:
        bound: seconds.
        name: returns what a task of the loop works on; None if it does not know the task.

    Attributes:
        blocker: what blocks the loop now, if the log named it.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        bound: float,
        name: Callable[[asyncio.Task[Any]], Blocker | None],
    ) -> None:
        self.blocker: Blocker | None = None
        self._heartbeat = heartbeat
        self._bound = bound
        self._name = name
        self._stalls = heartbeat.stalls
        self._starved = False
        self._used = _clock_of(heartbeat.thread)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="aiorpc watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(_END)

    def _watch(self) -> None:
        used = self._used()
        while True:
            # A stall is named as soon as it has lasted for the bound.
            looks_at = max(self._heartbeat.due + self._bound, monotonic() + self._bound / 4)
            if self._stopped.wait(looks_at - monotonic()):
                return
            before, used = used, self._used()
            late, least = monotonic() - looks_at, self._bound / 2
            try:
                self._look(starved=late > least and used - before < least)
            except Exception:
                log.exception("the watchdog of the event loop failed; it continues")

    def _look(self, *, starved: bool) -> None:
        """
        Look at the loop once.

        Args:
            starved: neither this thread nor the loop's got the processor. (If the loop's thread
                used it, code in C held Python's lock.)
        """
        beat = self._heartbeat
        self._starved = self._starved or starved
        if self._stalls != beat.stalls:
            self._stalls = beat.stalls
            self._tell_end(beat.length)
            self._starved = False
        elif self.blocker is None and beat.late > self._bound and not starved:
            self._tell(beat.late)

    def _tell(self, late: float) -> None:
        # At once, because the loop may run on while we look: the stack takes longest.
        task = asyncio.current_task(self._heartbeat.loop)
        blocker = (task and self._name(task)) or _unknown(task)
        stack = _stack_of(self._heartbeat.thread)
        text = f"{blocker.text} has blocked the event loop for {late:.2f} s: {_REMEDY}"
        self.blocker = blocker
        _warn(text, blocker, stack)

    def _tell_end(self, length: float) -> None:
        blocker, self.blocker = self.blocker, None
        if blocker is not None:
            _warn(f"{blocker.text} blocked the event loop for {length:.2f} s", blocker)
        elif length > 1.5 * self._bound:  # a shorter stall may have ended just before the look
            log.warning("the event loop did not run for %.2f s: %s", length, _WHY[self._starved])


def _clock_of(thread: int) -> Callable[[], float]:
    """Return a function that returns the processor seconds of *thread*, which runs."""
    clock_id = getattr(time, "pthread_getcpuclockid", None)  # not on macOS
    if clock_id is None:
        return monotonic
    return partial(time.clock_gettime, clock_id(thread))


def _warn(text: str, blocker: Blocker, stack: str | None = None) -> None:
    if not log.isEnabledFor(logging.WARNING):
        return  # `handle` does not look at the level
    record = log.makeRecord(
        *(log.name, logging.WARNING, __file__, 0, "%s", (text,), None),
        extra=named(blocker.service, blocker.method),
        sinfo=stack,
    )
    log.handle(record)


def _unknown(task: asyncio.Task[Any] | None) -> Blocker:
    """Describe a task that is no worker's: by the call that started it, or by its name."""
    if task is None:
        return Blocker("a callback")
    context = getattr(task, "get_context", None)  # since Python 3.12
    stack = context().get(current).call_id_stack if context and current in context() else ()
    if not stack:
        return Blocker(f"the task {task.get_name()!r}")
    service, _, method = stack[-1].rpartition(".")[0].rpartition(".")
    return Blocker(f"a task of {service}.{method} (call id {stack[-1]})", service, method)


def _stack_of(thread: int) -> str:
    """Return the stack of *thread* as Python formats it, without the frames that run the loop."""
    frame: FrameType | None = sys._current_frames().get(thread)
    frames = list(traceback.walk_stack(frame))[::-1] if frame is not None else []
    # The outermost frames, up to asyncio's or uvloop's loop, are the same in each stack.
    loops = [at for at, (each, _) in enumerate(frames) if _module(each) in _OF_THE_LOOP]
    inner = frames[loops[-1] + 1 :] if loops else frames
    own = next((at for at, (each, _) in enumerate(inner) if not _is_ours(each)), 0)
    shown = inner[own:] or frames
    lines = traceback.StackSummary.extract(iter(shown)).format()
    return "The stack of the event loop (most recent call last):\n" + "".join(lines).rstrip("\n")


_OF_THE_LOOP = frozenset({"asyncio.runners", "asyncio.base_events", "asyncio.events"})


def _module(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name


def _is_ours(frame: FrameType) -> bool:
    return _module(frame).partition(".")[0] in ("aiorpc", "asyncio", "contextlib")

"""
The points of a process at which it can be killed: each suspension and each resumption of a
coroutine, the start and the end of each SQL statement, and each write to the broker.

A point has a name, and the number of its occurrence since :meth:`Points.arm`: the second statement
with the same text is ``sql: ... #2``. So a point means the same in another run, although the order
of points of several tasks may differ.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from inspect import isasyncgen
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from aiorpc.transports.amqp.lane import Lane
from tests.once.frames import described

#: The code whose tasks count. A library's reader of a socket, for example, does no step of a call.
_OURS = (str(Path(__file__).parents[2] / "aiorpc"), str(Path(__file__).parent))


class Points:
    """
    Counts the points of this process, and kills it at one of them. Names do not contain *run*.

    Attributes:
        passed: the points since :meth:`arm`, in order.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self.passed: list[str] = []
        self._seen: Counter[str] = Counter()
        self._last = ""
        self._armed = False

    def arm(self, last: str = "") -> None:
        """Count from now on, and end the process with SIGKILL at the point *last*."""
        self.passed.clear()
        self._seen.clear()
        self._last = last
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def reach(self, name: str) -> None:
        if not self._armed:
            return
        self._seen[name] += 1
        point = f"{name} #{self._seen[name]}"
        self.passed.append(point)
        if point == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Watch the tasks of the running loop, and the databases and brokers of this process."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._task)
        event.listen(Engine, "before_cursor_execute", self._statement_begins)
        event.listen(Engine, "after_cursor_execute", self._statement_ends)
        for name in ("do_begin", "do_commit", "do_rollback"):
            for dialect in _classes(DefaultDialect):
                if name in vars(dialect):
                    setattr(dialect, name, self._around(name[3:].upper(), vars(dialect)[name]))
        opened = Lane.opened

        def watched(lane: Lane, transport: Any) -> None:
            transport.write = self._written(transport.write)
            opened(lane, transport)

        Lane.opened = watched

    def _task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(Watched(coro, self) if _is_ours() else coro, loop=loop, **options)

    def _statement_begins(self, _: Any, __: Any, statement: str, *more: Any) -> None:
        self.reach(f"before {_short(statement)}")

    def _statement_ends(self, _: Any, __: Any, statement: str, *more: Any) -> None:
        self.reach(f"after {_short(statement)}")

    def _around(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def around(*args: Any) -> Any:
            self.reach(f"before {name}")
            result = do(*args)
            self.reach(f"after {name}")
            return result

        return around

    def _written(self, write: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def watched(data: bytes) -> None:
            what = described(data).replace(f"_{self._run}", "")
            if what:
                self.reach(f"before the write of {what}")
            write(data)
            if what:
                self.reach(f"after the write of {what}")

        return watched


class Watched(Coroutine[Any, Any, Any]):
    """The coroutine *inner* of a task, whose suspensions and resumptions are points."""

    def __init__(self, inner: Coroutine[Any, Any, Any], points: Points) -> None:
        self._inner = inner
        self._points = points
        self._at = ""
        self.__name__ = getattr(inner, "__name__", "")
        self.__qualname__ = getattr(inner, "__qualname__", "")

    def send(self, value: Any) -> Any:
        return self._step(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._inner.throw, *error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # asyncio.Task needs no more than send and throw

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        if self._at:
            self._points.reach(f"resumed in {self._at}")
        awaited = step(*args)
        self._at = _place(self._inner)
        self._points.reach(f"suspended in {self._at}")
        return awaited


def _is_ours() -> bool:
    """Return whether a function of ours makes a task now."""
    frame = sys._getframe(2)
    while frame.f_globals["__name__"].partition(".")[0] == "asyncio":
        assert frame.f_back is not None
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(_OURS)


def _place(inner: Any) -> str:
    """Return where *inner* is suspended: the innermost functions of ours and of all."""
    ours = last = getattr(inner, "__qualname__", "a task")
    awaited = inner
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            last = frame.f_code.co_qualname
            if frame.f_code.co_filename.startswith(_OURS):
                ours = last
        awaited = _awaited_by(awaited)
    return ours if last == ours else f"{ours} ({last})"


def _awaited_by(outer: Any) -> Any:
    """Return what *outer* awaits; None if it is no coroutine, or not of Python."""
    awaited = getattr(outer, "cr_await", None) or getattr(outer, "ag_await", None)
    if type(awaited).__name__ in ("async_generator_asend", "async_generator_athrow"):
        # Python does not say which generator it belongs to.
        generators = (each for each in gc.get_referents(awaited) if isasyncgen(each))
        return next(generators, None)
    return awaited


def _short(statement: str) -> str:
    return re.sub(r"\s+", " ", statement)[:50]


def _classes(cls: type) -> list[type]:
    return [cls, *(deeper for each in cls.__subclasses__() for deeper in _classes(each))]

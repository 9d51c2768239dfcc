"""
Reads what the workers of one service do now: their calls, and the stacks of their tasks and
threads. Reads source files for the lines of code; no other I/O.
"""

from __future__ import annotations

import gc
import linecache
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from ...logs import one_line
from ..pool import Pool, waiting_in
from ..worker import Worker, phase_of
from ..workshop import Workshop
from .arguments import shown_arguments
from .shapes import Doing

__all__ = ["doings", "frames_of"]

#: Calls, frames of one call, and characters of one line that are shown at most.
MOST_CALLS = 500
MOST_FRAMES = 30
_LONGEST_LINE = 300
_OWN = str(Path(__file__).parents[2])
#: Objects between two coroutines that Python 3.11 to 3.14 does not let us look through.
_OPAQUE = frozenset({"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"})
#: The attributes of the frame of a coroutine, a generator and an async generator, and of what each
#: of them awaits.
_CHAIN = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


def doings(pool: Pool, workshop: Workshop) -> list[Doing]:
    """Return the calls of *pool*: the running ones, the oldest first, then the waiting ones."""
    running = sorted(pool.workers, key=lambda worker: worker.began)
    return [_doing(worker, workshop) for worker in [*running, *waiting_in(pool)][:MOST_CALLS]]


def _doing(worker: Worker, workshop: Workshop) -> Doing:
    call = worker.call
    return Doing(
        call.method,
        call.id,
        phase_of(worker),
        round(monotonic() - worker.began, 3) if worker.began else 0.0,
        shown_arguments(worker.entrypoint, call, workshop.service_cls),
        [] if worker.task is None else _stack(worker, workshop),
    )


def _stack(worker: Worker, workshop: Workshop) -> list[str]:
    assert worker.task is not None
    frames = deque(frames_of(worker.task.get_coro()), MOST_FRAMES)
    if (thread := workshop.threads.frame_of(worker.call)) is not None:
        inner = deque([thread], MOST_FRAMES)
        while (outer := inner[0].f_back) is not None and len(inner) < MOST_FRAMES:
            inner.appendleft(outer)
        frames = inner
    lines = list(map(_line, frames))
    own = next((at for at, frame in enumerate(frames) if not _is_own(frame)), 0)
    return lines[own:]


def _is_own(frame: FrameType) -> bool:
    """Whether the frame is of the host, or of Python's threads around it."""
    file = frame.f_code.co_filename
    return file.startswith(_OWN) or file.endswith("threading.py")


def _line(frame: FrameType) -> str:
    file, number = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(file, number, frame.f_globals).strip()
    place = f"{file}:{number} in {frame.f_code.co_qualname}"
    return one_line(f"{place}: {code}" if code else place, _LONGEST_LINE)


def frames_of(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of all that it awaits, the outermost first."""
    while awaited is not None:
        for frame_name, next_name in _CHAIN:
            if (frame := getattr(awaited, frame_name, None)) is not None:
                yield frame
                awaited = getattr(awaited, next_name)
                break
        else:
            awaited = _behind(awaited)


def _behind(awaited: Any) -> Any:
    if type(awaited).__name__ not in _OPAQUE:
        return None
    names = [frame_name for frame_name, _ in _CHAIN]
    return next(
        (each for each in gc.get_referents(awaited) if any(hasattr(each, name) for name in names)),
        None,
    )

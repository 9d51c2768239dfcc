"""
The heartbeat of an event loop, by which other threads see whether the loop runs. A timer of the
loop; no I/O.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import monotonic

__all__ = ["Heartbeat"]


class Heartbeat:
    """
    Beats in the running event loop until ``stop``. Any thread may read the attributes.

    Args:
        every: seconds between two beats.
        bound: seconds; a beat that is later ended a stall. None: none did.
        beaten: called in the loop with each beat.

    Attributes:
        loop, thread: the loop, and the id of its thread.
        due: the ``time.monotonic()`` of the next beat.
        stalls: the number of stalls that have ended.
        length: seconds of the last of them.
    """

    def __init__(
        self, every: float, bound: float | None, beaten: Callable[[], None] | None = None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.stalls = 0
        self.length = 0.0
        self._every = every
        self._bound = bound
        self._beaten = beaten
        self._plan()

    @property
    def late(self) -> float:
        """Seconds that the next beat is overdue; 0 if the loop runs."""
        return max(0.0, monotonic() - self.due)

    def stop(self) -> None:
        """End the beats. Call this in the loop."""
        self._timer.cancel()

    def _plan(self) -> None:
        self.due = monotonic() + self._every
        self._timer = self.loop.call_later(self._every, self._beat)

    def _beat(self) -> None:
        late = self.late
        self._plan()
        if self._bound is not None and late > self._bound:
            self.length = late
            self.stalls += 1  # last: it announces the length
        if self._beaten is not None:
            self._beaten()

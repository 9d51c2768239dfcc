"""
Watches the deadlines of many calls with one timer of the event loop. Nothing here awaits.

Most calls are answered in time, and then their deadlines are removed. So adding and removing a
deadline must be cheap. Firing may be inexact: a deadline fires at most ``TICK`` late, never early.
A ``loop.call_at`` for each call costs about ten times as much.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Protocol, TypeAlias

from .logs import logger

__all__ = ["TICK", "Bucket", "Expiring", "Timers"]

log = logger("aiorpc.timers")

#: The longest delay of a deadline, in seconds.
TICK = 0.01
#: The number of buckets at which ``Timers`` first deletes the empty buckets.
_MANY = 1000


class Expiring(Protocol):
    """An object with a deadline. Its hash must depend on identity."""

    def expired(self) -> None:
        """``Timers`` calls this once when the deadline passes, unless the object was removed."""


#: The objects whose deadlines fire together.
Bucket: TypeAlias = dict[Expiring, None]


class Timers:
    """Deadlines in the time of *loop*, grouped in buckets of ``TICK`` seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, Bucket] = {}
        #: The bucket that ``add`` used last. The next deadline often has the same tick.
        self._bucket: Bucket = {}
        self._tick = -1
        #: A heap of the ticks of all buckets. An empty bucket stays until its tick or a sweep.
        self._due: list[int] = []
        self._sweep_at = _MANY
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0

    def add(self, at: float, expiring: Expiring) -> Bucket:
        """
        Call ``expiring.expired()`` at the loop time *at*. Return the bucket of the deadline.

        ``bucket.pop(expiring, None)`` removes the deadline, and does nothing after it has fired.
        """
        tick = int(at / TICK) + 1
        if tick != self._tick:
            self._turn_to(tick)
        bucket = self._bucket
        bucket[expiring] = None
        return bucket

    def _turn_to(self, tick: int) -> None:
        bucket = self._buckets.get(tick)
        if bucket is None:
            if len(self._due) >= self._sweep_at:
                self._sweep()
            bucket = self._buckets[tick] = {}
            heapq.heappush(self._due, tick)
            if self._timer is None or tick < self._timer_at:
                self._wake_at(tick)
        self._tick, self._bucket = tick, bucket

    def _sweep(self) -> None:
        """Delete empty buckets. Removed deadlines in the far future would leave very many."""
        # We change both containers in place, because `_fire` may be using them.
        for tick in [tick for tick, bucket in self._buckets.items() if not bucket]:
            del self._buckets[tick]
        self._due[:] = self._buckets
        heapq.heapify(self._due)
        self._sweep_at = max(_MANY, 2 * len(self._due))

    def close(self) -> None:
        """Remove all deadlines, and cancel the timer of the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for bucket in self._buckets.values():
            bucket.clear()
        self._buckets.clear()
        self._due.clear()
        self._tick = -1

    def _wake_at(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = tick
        self._timer = self._loop.call_at(tick * TICK, self._fire)

    def _fire(self) -> None:
        self._timer = None
        buckets, due = self._buckets, self._due
        now = int(self._loop.time() / TICK)
        while due and (due[0] <= now or not buckets[due[0]]):
            bucket = buckets.pop(heapq.heappop(due))
            if bucket is self._bucket:
                self._tick = -1
            for expiring in list(bucket):
                if expiring in bucket:  # an earlier callback may have removed this deadline
                    del bucket[expiring]
                    try:
                        expiring.expired()
                    except Exception:
                        log.exception("the callback of a deadline failed")
        if due:  # a callback may have set the timer already, for a later tick
            self._wake_at(due[0])

"""
Deadlines of many calls on one timer of the event loop. It sets that timer and awaits nothing.

Nearly every deadline is removed, because the answer comes first. So adding and removing must be
cheap, and firing need not be exact: a deadline fires within ``TICK`` after its time, never before.
A ``loop.call_at`` for each call costs about ten times as much.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from typing import Protocol, TypeAlias

__all__ = ["TICK", "Bucket", "Expiring", "Timers"]

log = logging.getLogger("aiorpc.timers")

#: Seconds by which a deadline may fire late.
TICK = 0.01
#: Buckets at which empty ones are looked for.
_MANY = 1000


class Expiring(Protocol):
    """An object with a deadline. Hashed by identity."""

    def expired(self) -> None:
        """Called once when the deadline has passed, unless the object was removed before."""


#: Deadlines that fire together.
Bucket: TypeAlias = dict[Expiring, None]


class Timers:
    """Deadlines on *loop*, by its time, in buckets of ``TICK`` seconds. ``close`` ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, Bucket] = {}
        #: The bucket of the deadline that was added last; the next one is mostly of the same tick.
        self._bucket: Bucket = {}
        self._tick = -1
        #: A heap of the ticks of all buckets. Empty buckets stay until they are due, or too many.
        self._due: list[int] = []
        self._sweep_at = _MANY
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0

    def add(self, at: float, expiring: Expiring) -> Bucket:
        """
        Call ``expiring.expired()`` at loop time *at*, and return its bucket.

        ``bucket.pop(expiring, None)`` removes the deadline. It does nothing if that has fired.
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
        """Delete empty buckets: far deadlines that were removed would leave very many."""
        # In place, because deadlines may be firing.
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
                if expiring in bucket:  # a callback may remove another deadline
                    del bucket[expiring]
                    try:
                        expiring.expired()
                    except Exception:
                        log.exception("a callback at a deadline failed")
        if due:  # a callback may have set the timer for a later tick
            self._wake_at(due[0])

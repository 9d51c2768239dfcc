"""
The deadlines of many calls on one timer of the event loop.

Nearly every deadline is taken back: the answer comes first. So adding and removing have to be
cheap, and firing need not be exact: a deadline fires within ``TICK`` after its time, never before.
A timer of the loop for each call costs some ten times as much.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias

__all__ = ["TICK", "Bucket", "Expiring", "Timers"]

log = logging.getLogger("aiorpc.timers")

#: Seconds; how late a deadline may fire.
TICK = 0.01
#: Buckets at which those that are empty are looked for.
_MANY = 1000


class Expiring(Protocol):
    """What has a deadline. Hashed by identity."""

    def expired(self) -> None:
        """The deadline has passed. Called once, unless it was removed before."""


#: Deadlines that fire together.
Bucket: TypeAlias = dict[Expiring, None]


class Timers:
    """
    Deadlines on *loop*, by loop time, in buckets of ``TICK`` seconds. Ends with ``close``.
    """

    __slots__ = (
        "_bucket",
        "_buckets",
        "_due",
        "_loop",
        "_sweep_at",
        "_tick",
        "_timer",
        "_timer_at",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, Bucket] = {}
        #: That of the deadline that was added last: the next one is most often of the same tick.
        self._bucket: Bucket = {}
        self._tick = -1
        #: The ticks of all buckets, a heap; empty buckets stay until they are due, or too many.
        self._due: list[int] = []
        self._sweep_at = _MANY
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0

    def add(self, at: float, expiring: Expiring) -> Bucket:
        """
        Fire *expiring* at loop time *at*. It is taken back by ``pop(expiring, None)`` from what is
        returned; nothing happens then if it has fired.
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
        """Forget the buckets that were emptied: of far deadlines they would be very many."""
        # In place: this may happen while some of them fire.
        for tick in [tick for tick, bucket in self._buckets.items() if not bucket]:
            del self._buckets[tick]
        self._due[:] = self._buckets
        heapq.heapify(self._due)
        self._sweep_at = max(_MANY, 2 * len(self._due))

    def close(self) -> None:
        """Nothing fires any more."""
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
                if expiring in bucket:  # one that fires may take another back
                    del bucket[expiring]
                    _guarded(expiring.expired)
        if due:  # a callback may have set the timer already, for a later tick
            self._wake_at(due[0])


def _guarded(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("what had to happen at a deadline failed")

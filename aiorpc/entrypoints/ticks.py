"""
The ticks of timers and crons: when they are due, and how a run starts. Awaits the clock and the end
of each run.

A tick is a moment in seconds since 1970 (UTC), so all instances of a service mean the same tick.
"""

from __future__ import annotations

import asyncio
import time
from math import floor
from typing import NamedTuple, Protocol

from ..extensions import Entrypoint, Host

__all__ = ["MANY", "Due", "Every", "Schedule", "due", "start", "wait_until"]

#: Due ticks that are counted at most.
MANY = 1000
#: Seconds after which a wait looks at the clock again, which an operator may set.
_LOOK_EVERY = 30.0


class Schedule(Protocol):
    """When a method runs."""

    def after(self, moment: float) -> float:
        """Return the first tick later than *moment*."""
        ...

    def until(self, moment: float) -> float:
        """Return the last tick that is not later than *moment*."""
        ...


class Every(NamedTuple):
    """Ticks at the multiples of *interval* seconds since 1970."""

    interval: float

    def after(self, moment: float) -> float:
        number = floor(moment / self.interval) + 1
        tick = number * self.interval
        return tick if tick > moment else (number + 1) * self.interval

    def until(self, moment: float) -> float:
        number = floor(moment / self.interval)
        tick = number * self.interval
        return tick if tick <= moment else (number - 1) * self.interval


class Due(NamedTuple):
    """The last tick that is due, and the number of due ticks (:data:`MANY` at most)."""

    tick: float
    number: int


def due(schedule: Schedule, last: float, now: float) -> Due | None:
    """Return the ticks that are later than *last* and not later than *now*, if any."""
    number = 0
    tick = schedule.after(last)
    while tick <= now and number < MANY:
        last = tick
        number += 1
        tick = schedule.after(tick)
    if number == MANY:
        last = max(last, schedule.until(now))
    return Due(last, number) if number else None


async def wait_until(moment: float) -> None:
    """Return when the clock shows *moment*."""
    while (seconds := moment - time.time()) > 0:  # noqa: ASYNC110 - the clock gives no event
        await asyncio.sleep(min(seconds, _LOOK_EVERY))


def start(host: Host, entrypoint: Entrypoint, kind: str) -> asyncio.Event:
    """
    Start a run of the method of *entrypoint*. Return an event that is set when the run ended.

    Unlike ``host.work``, the run is not cancelled when the container stops: it must finish.
    """
    ended = asyncio.Event()
    host.submit(entrypoint, host.new_call(entrypoint, kind=kind), lambda outcome: ended.set())
    return ended

"""
Counts the calls of each entrypoint. Awaits nothing.

Each ended call changes plain attributes. Running and waiting calls are counted when somebody asks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from math import floor, log2
from time import monotonic
from typing import Any

import msgspec

from ..call import Call
from ..extensions import Entrypoint, Outcome
from ..logs import one_line
from ..wire.errors import reason_of
from .callers import Callers, Stack, ignore
from .discovery.shapes import Caller

__all__ = ["Activity", "Counts", "Ledger", "bucket_of", "seconds_of"]

#: Buckets of durations per doubling: neighbours differ by 9 %.
_STEPS = 8
#: The shortest duration that has a bucket of its own, in seconds.
_SHORTEST = 1e-6
#: Characters of the text of an error that are kept.
_LONGEST = 200


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket of a duration."""
    return floor(_STEPS * log2(max(seconds, _SHORTEST)))


def seconds_of(bucket: int) -> float:
    """Return the middle of the durations in *bucket*, in seconds."""
    return float(2 ** ((bucket + 0.5) / _STEPS))


class Counts(msgspec.Struct, eq=False):
    """What the ended calls of one entrypoint add up to. Refused and cancelled calls count too."""

    ended: int = 0
    #: Calls that ended with an error that the entrypoint does not expect.
    errors: int = 0
    last_error: str = ""
    #: Seconds of all ended calls together, from their start until their dependencies closed.
    seconds: float = 0.0
    #: The number of calls by :func:`bucket_of` their duration; ``None``: nobody asks for it.
    durations: Counter[int] | None = None
    #: Takes the call id stack of each call when it ends.
    saw: Callable[[Stack], object] = ignore
    callers: Callers | None = None

    def failed(self, entrypoint: Entrypoint, outcome: Outcome) -> None:
        """Count the error of *outcome* and keep its text, unless *entrypoint* expects it."""
        if not isinstance(outcome.error, (entrypoint.expected_exceptions, entrypoint.answers)):
            self.errors += 1
            self.last_error = one_line(reason_of(outcome), _LONGEST)

    def keep_callers(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep who makes the calls from now on."""
        self.callers = Callers(loop, lambda: self.ended, partial(setattr, self, "saw"))


class Activity(msgspec.Struct, frozen=True):
    """The :class:`Counts` of an entrypoint at one moment, with its running and waiting calls."""

    entrypoint: Entrypoint
    ended: int
    errors: int
    last_error: str
    seconds: float
    in_flight: int
    waiting: int
    durations: dict[int, int]
    callers: dict[str, Caller]


class Ledger(dict[Entrypoint, Counts]):
    """
    The counts of all entrypoints of one service.

    Args:
        running, waiting: return its workers.

    Attributes:
        started: when counting began.
    """

    def __init__(
        self, running: Callable[[], Iterable[Any]], waiting: Callable[[], Iterable[Any]]
    ) -> None:
        super().__init__()
        self._running, self._waiting = running, waiting
        #: The event loop that sums up the callers; ``None``: nobody can ask for them.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin()

    def open(self, entrypoints: Iterable[Entrypoint]) -> None:
        """Count the calls of *entrypoints* from now on."""
        self.update((each, Counts()) for each in entrypoints if each.starts_calls)
        self._begin()

    def _begin(self) -> None:
        self.started = datetime.now(UTC)
        self._since = monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since counting began."""
        return monotonic() - self._since

    def __missing__(self, entrypoint: Entrypoint) -> Counts:
        counts = self[entrypoint] = Counts()  # an extension submits calls of its own entrypoint
        if self._loop is not None:
            counts.keep_callers(self._loop)
        return counts

    def refused(self, call: Call, outcome: Outcome) -> None:
        """Count a call that was refused, unless the service does not have its method."""
        if call.entrypoint is not None:
            counts = self[call.entrypoint]
            counts.ended += 1
            counts.failed(call.entrypoint, outcome)
            stack = call.context.call_id_stack
            counts.saw(stack if call.id else (*stack, ""))

    def reset(self) -> None:
        """Begin to count from zero again."""
        self._begin()
        for entrypoint, counts in self.items():
            if counts.callers is not None:
                counts.callers.close()
            self[entrypoint] = Counts(durations=None if counts.durations is None else Counter())
            if self._loop is not None:
                self[entrypoint].keep_callers(self._loop)

    def keep_durations(self, keep: bool) -> None:
        """Count the durations of calls, or stop that and forget them."""
        for counts in self.values():
            if not keep:
                counts.durations = None
            elif counts.durations is None:
                counts.durations = Counter()

    def keep_callers(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Keep who calls in *loop*, or, with ``None``, stop that."""
        self._loop = loop
        for counts in self.values():
            if loop is not None:
                counts.keep_callers(loop)
            elif counts.callers is not None:
                counts.callers.close()

    def activity(self) -> list[Activity]:
        """Return what each entrypoint has done since the start, and how many calls it has now."""
        runs = Counter(worker.entrypoint for worker in self._running())
        waits = Counter(worker.entrypoint for worker in self._waiting())
        return [
            Activity(
                *(entrypoint, counts.ended, counts.errors, counts.last_error, counts.seconds),
                runs[entrypoint],
                waits[entrypoint],
                dict(counts.durations or ()),
                {} if counts.callers is None else counts.callers.found(),
            )
            for entrypoint, counts in self.items()
        ]

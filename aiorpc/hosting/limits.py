"""
The limits of single entrypoints: ``max_concurrency`` and ``max_waiting``. Awaits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic

from ..exceptions import Overloaded
from ..extensions import Entrypoint
from .worker import Worker

__all__ = ["Limits"]

#: The weight of the last run in the mean duration of runs.
_WEIGHT = 0.2
#: Seconds that a run is assumed to take before any run has ended.
_FIRST_GUESS = 1.0


class _Limit:
    """The places of one entrypoint, and the workers that wait for a place."""

    def __init__(self, most: int, waiting: int | None) -> None:
        self._most = most
        self._most_waiting = waiting
        #: When each worker got its place, in ``time.monotonic()``.
        self._places: dict[Worker, float] = {}
        #: Oldest first.
        self.waiting: dict[Worker, None] = {}
        self._mean = _FIRST_GUESS

    def enter(self, worker: Worker) -> bool:
        """
        Give *worker* a place, and return True; otherwise it waits.

        Raises:
            Overloaded: too many workers wait.
        """
        if len(self._places) < self._most:
            self._places[worker] = monotonic()
            return True
        if self._most_waiting is not None and len(self.waiting) >= self._most_waiting:
            raise self._overloaded(worker)
        self.waiting[worker] = None
        return False

    def leave(self, worker: Worker) -> Worker | None:
        """Remove *worker*. Return the worker that gets its place, if any."""
        began = self._places.pop(worker, None)
        if began is None:
            self.waiting.pop(worker, None)
            return None
        now = monotonic()
        self._mean += _WEIGHT * (now - began - self._mean)
        following = next(iter(self.waiting), None)
        if following is not None:
            del self.waiting[following]
            self._places[following] = now
        return following

    def _overloaded(self, worker: Worker) -> Overloaded:
        retry_after = round(self._mean * (len(self.waiting) + 1) / self._most, 3)
        return Overloaded(
            f"{self._most} call(s) of {worker.call} run in this process (max_concurrency), and "
            f"{len(self.waiting)} wait (max_waiting). Try again in {retry_after:g} s",
            retry_after=retry_after,
        )


class Limits:
    """The limits of the entrypoints of one service; false if there is none."""

    def __init__(self, entrypoints: Iterable[Entrypoint]) -> None:
        self._limits = {
            entrypoint: _Limit(entrypoint.max_concurrency, entrypoint.max_waiting)
            for entrypoint in entrypoints
            if entrypoint.max_concurrency is not None
        }

    def __bool__(self) -> bool:
        return bool(self._limits)

    def enter(self, worker: Worker) -> bool:
        """
        Return whether *worker* may run now; otherwise it waits.

        Raises:
            Overloaded: too many workers wait.
        """
        limit = self._limits.get(worker.entrypoint)
        return limit is None or limit.enter(worker)

    def leave(self, worker: Worker) -> Worker | None:
        """Remove the ended *worker*. Return the worker that may run in its place, if any."""
        limit = self._limits.get(worker.entrypoint)
        return None if limit is None else limit.leave(worker)

    def waiting(self) -> Iterator[Worker]:
        """Yield the workers that wait for a place."""
        for limit in self._limits.values():
            yield from list(limit.waiting)

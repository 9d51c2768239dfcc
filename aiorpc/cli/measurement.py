"""
Measures how fast a service answers a call, for ``aiorpc bench``.

A measurement has one of two modes. Without a rate, each caller makes its next call after the answer
to the last call: this shows the service's capacity. With a rate, calls start at fixed times, even
if earlier calls are unanswered, as with real users. Then the latency of a call counts from its
planned time, so it includes the time behind slow calls.

Awaits the calls of its *call* function; opens no connection and prints nothing.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ..exceptions import RemoteError

__all__ = ["Failures", "Figures", "Measurement", "Plan", "percentile", "report_of"]


class Plan(msgspec.Struct, frozen=True):
    """The parameters of a measurement."""

    #: The most calls at a time.
    in_flight: int
    #: Calls per second; ``None``: each caller calls again after each answer.
    rate: float | None
    #: Seconds.
    duration: float


class Failures(msgspec.Struct):
    """Calls that ended with an error of one type; ``first`` is the text of the first error."""

    count: int
    first: str


class Figures(msgspec.Struct):
    """The figures of a measurement. ``seconds`` counts from the first call to the last answer."""

    target: str
    in_flight: int
    rate: float | None
    seconds: float
    calls: int
    results: int
    results_per_second: float
    #: Milliseconds from call to result, for calls that returned a result.
    latency_ms: dict[str, float] | None
    errors: dict[str, Failures]


class Measurement:
    """Makes calls by a plan, and records the latency or the error of each call."""

    def __init__(self, call: Callable[[], Awaitable[Any]], plan: Plan) -> None:
        self._call = call
        self._stop = asyncio.Event()
        self.plan = plan
        self.began = self.ended = time.perf_counter()
        #: Seconds from call to result, for each call that returned a result.
        self.latencies = array.array("d")
        self.failures: dict[str, Failures] = {}
        self.interrupted = False

    @property
    def elapsed(self) -> float:
        """Seconds from the first call until now, or until the last answer."""
        return (self.ended or time.perf_counter()) - self.began

    @property
    def failed(self) -> int:
        """The number of calls that ended with an error."""
        return sum(each.count for each in self.failures.values())

    def interrupt(self) -> None:
        """Start no more calls. :meth:`run` returns after the answers to the calls in flight."""
        self.interrupted = True
        self._stop.set()

    async def run(self) -> None:
        """Make the calls. Return when the time is over and all calls are answered."""
        self.began, self.ended = time.perf_counter(), 0.0
        due = self._due_times()
        async with asyncio.TaskGroup() as callers:
            for _ in range(self.plan.in_flight):
                callers.create_task(self._keep_calling(due))
        self.ended = time.perf_counter()

    def _due_times(self) -> Iterator[float]:
        """Yield the planned time of each call. All callers share this iterator."""
        rate, began = self.plan.rate, self.began
        end = began + self.plan.duration
        for number in itertools.count():
            due = time.perf_counter() if rate is None else began + number / rate
            if due >= end or self._stop.is_set():
                return
            yield due

    async def _keep_calling(self, due_times: Iterator[float]) -> None:
        for due in due_times:
            began = due
            early = due - time.perf_counter()
            if early > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(early):
                        await self._stop.wait()
                        return
                began = time.perf_counter()  # do not count a late timer as latency
            try:
                await self._call()
            except Exception as error:  # noqa: BLE001 - a registered error may be of any class
                self._count(error)
            else:
                self.latencies.append(time.perf_counter() - began)

    def _count(self, error: Exception) -> None:
        name, text = type(error).__name__, str(error)
        if isinstance(error, RemoteError):
            name, text = error.exc_type, error.value
        self.failures.setdefault(name, Failures(0, text)).count += 1


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value that is >= *percent* of all values. *ordered* is not empty."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def report_of(target: str, measured: Measurement) -> Figures:
    """Return the figures of a finished measurement."""
    latencies = sorted(measured.latencies)
    results, seconds = len(latencies), measured.elapsed
    return Figures(
        target,
        measured.plan.in_flight,
        measured.plan.rate,
        round(seconds, 3),
        results + measured.failed,
        results,
        round(results / seconds, 1) if seconds else 0.0,
        _latency(latencies) if latencies else None,
        dict(sorted(measured.failures.items(), key=lambda item: -item[1].count)),
    )


def _latency(ordered: Sequence[float]) -> dict[str, float]:
    figures = {
        "min": ordered[0],
        "mean": sum(ordered) / len(ordered),
        **{f"p{percent}": percentile(ordered, percent) for percent in (50, 95, 99)},
        "max": ordered[-1],
    }
    return {name: round(seconds * 1000, 3) for name, seconds in figures.items()}

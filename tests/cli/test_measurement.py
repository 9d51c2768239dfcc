"""What ``aiorpc bench`` measures, what it counts, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from aiorpc import RemoteError, RpcTimeout
from aiorpc.cli.measurement import Measurement, Plan, percentile, report_of

Call = Callable[[], Awaitable[None]]


def plan(in_flight: int = 1, rate: float | None = None, duration: float = 0.1) -> Plan:
    return Plan(in_flight=in_flight, rate=rate, duration=duration)


async def measured(call: Call, of: Plan) -> Measurement:
    measurement = Measurement(call, of)
    await measurement.run()
    return measurement


class Answering:
    """Answers *together* calls when all of them have begun; counts the most at the same time."""

    def __init__(self, together: int = 1) -> None:
        self.most = self.calls = self._now = 0
        self._together = together
        self._all_there = asyncio.Event()

    async def __call__(self) -> None:
        self.calls += 1
        self._now += 1
        self.most = max(self.most, self._now)
        if self._now == self._together:
            self._all_there.set()
        await self._all_there.wait()
        self._now -= 1


async def test_as_many_calls_are_in_flight_as_wanted_and_no_more() -> None:
    answering = Answering(together=5)
    found = await measured(answering, plan(in_flight=5, duration=0.05))
    assert answering.most == 5
    assert len(found.latencies) == answering.calls > 5
    assert found.elapsed >= 0.05


async def test_a_rate_is_kept() -> None:
    begun: list[float] = []

    async def call() -> None:
        begun.append(time.perf_counter())

    found = await measured(call, plan(in_flight=10, rate=100, duration=0.2))
    assert len(found.latencies) == 20
    # A busy machine may delay calls, but none may come early.
    assert all(at >= found.began + number / 100 for number, at in enumerate(begun))


async def test_a_call_that_waits_behind_a_slow_one_counts_as_slow() -> None:
    """One caller, a call due every 10 ms, and the first takes 100 ms."""
    durations = iter([0.1])

    async def call() -> None:
        await asyncio.sleep(next(durations, 0))

    found = await measured(call, plan(in_flight=1, rate=100, duration=0.05))
    assert len(found.latencies) == 5
    # The last was due at 40 ms, and was answered after 100.
    assert min(found.latencies) > 0.055


async def test_errors_are_counted_by_type() -> None:
    errors = [
        RemoteError("ValueError", "no such person"),
        RemoteError("ValueError", "another"),
        RpcTimeout("no answer"),
        KeyError("of a registered class"),
    ]

    async def call() -> None:
        if errors:
            raise errors.pop(0)

    report = report_of("s.m", await measured(call, plan(rate=1000, duration=0.01)))
    assert report.calls == 10
    assert report.results == 6
    counted = {name: (each.count, each.first) for name, each in report.errors.items()}
    assert counted == {
        "ValueError": (2, "no such person"),
        "RpcTimeout": (1, "no answer"),
        "KeyError": (1, "'of a registered class'"),
    }
    assert next(iter(report.errors)) == "ValueError"  # the most frequent first


async def test_without_a_result_there_is_no_latency() -> None:
    async def call() -> None:
        raise RpcTimeout("no answer")

    report = report_of("s.m", await measured(call, plan(rate=1000, duration=0.005)))
    assert report.latency_ms is None
    assert report.results_per_second == 0


async def test_a_measurement_can_be_ended_early() -> None:
    called = asyncio.Event()

    async def call() -> None:
        called.set()

    # The second call is due in 1000 s.
    measurement = Measurement(call, plan(in_flight=2, rate=0.001, duration=10_000))
    running = asyncio.ensure_future(measurement.run())
    await called.wait()
    measurement.interrupt()
    await running
    assert len(measurement.latencies) == 1


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (1, 1), (50, 50), (95, 95), (99, 99), (100, 100)]
)
def test_percentiles_are_values_that_were_measured(percent: float, value: int) -> None:
    assert percentile(range(1, 101), percent) == value
    assert percentile([7], percent) == 7

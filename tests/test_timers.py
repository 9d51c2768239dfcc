"""Timers: many deadlines on one timer of the event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from aiorpc.timers import TICK, Timers


class Item:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.expired = callback


async def test_each_deadline_fires_once_after_its_time_in_order() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    fired: list[tuple[float, float]] = []
    done = asyncio.Event()
    times = [loop.time() + n * 0.007 for n in (5, 1, 3, 1, 9)]

    def at(time: float) -> Callable[[], None]:
        def fire() -> None:
            fired.append((time, loop.time()))
            if len(fired) == len(times):
                done.set()

        return fire

    for time in times:
        timers.add(time, Item(at(time)))
    await asyncio.wait_for(done.wait(), 5)
    assert sorted(time for time, _ in fired) == sorted(times)
    for time, when in fired:
        assert time <= when
    assert [time for time, _ in fired] == sorted(times)


async def test_a_removed_deadline_does_not_fire() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    last = asyncio.Event()
    item = Item(lambda: pytest.fail("it was removed"))
    bucket = timers.add(loop.time(), item)
    bucket.pop(item, None)
    bucket.pop(item, None)
    timers.add(loop.time() + TICK, Item(last.set))
    await asyncio.wait_for(last.wait(), 5)


async def test_a_timer_callback_may_add_remove_and_fail(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    last = asyncio.Event()

    def again() -> None:
        timers.add(loop.time(), Item(last.set))
        raise ValueError("boom")

    timers.add(loop.time(), Item(again))
    await asyncio.wait_for(last.wait(), 5)
    assert "boom" in caplog.text


async def test_a_callback_may_remove_another_deadline_of_the_same_time() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    last, at = asyncio.Event(), loop.time()
    other = Item(lambda: pytest.fail("it was removed"))
    timers.add(at, Item(lambda: bucket.pop(other, None)))
    bucket = timers.add(at, other)
    timers.add(at, Item(last.set))
    await asyncio.wait_for(last.wait(), 5)


async def test_closing_cancels_the_timer_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    handles: list[asyncio.TimerHandle] = []
    call_at = loop.call_at

    def recording(*args: Any) -> asyncio.TimerHandle:
        handles.append(call_at(*args))
        return handles[-1]

    monkeypatch.setattr(loop, "call_at", recording)
    timers = Timers(loop)
    bucket = timers.add(loop.time() + 3600, Item(lambda: pytest.fail("it was closed")))
    assert [handle.cancelled() for handle in handles] == [False]
    timers.close()
    assert [handle.cancelled() for handle in handles] == [True]
    assert not bucket


async def test_removed_far_deadlines_leave_few_buckets() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    fired = asyncio.Event()
    now = loop.time()
    timers.add(now + 0.02, Item(fired.set))
    buckets = []
    for number in range(20_000):  # each in a bucket of its own
        item = Item(lambda: None)
        buckets.append(timers.add(now + 3600 + number * TICK, item))
        buckets[-1].pop(item, None)
    ours: list[dict[Any, Any]] = [{}]
    references = sys.getrefcount(ours[0])  # of a bucket that only our list holds
    assert sum(sys.getrefcount(buckets[at]) > references for at in range(len(buckets))) <= 1000
    await asyncio.wait_for(fired.wait(), 5)
    timers.close()

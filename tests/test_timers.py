"""Many deadlines on one timer of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from aiorpc.timers import TICK, Timers


class Item:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.expired = callback


async def test_each_fires_once_after_its_time_and_within_a_tick_or_so() -> None:
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


async def test_what_was_removed_does_not_fire() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    last = asyncio.Event()
    item = Item(lambda: pytest.fail("it was removed"))
    bucket = timers.add(loop.time(), item)
    bucket.pop(item, None)
    bucket.pop(item, None)
    timers.add(loop.time() + TICK, Item(last.set))
    await asyncio.wait_for(last.wait(), 5)


async def test_a_callback_may_add_and_remove_and_fail(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    last = asyncio.Event()

    def again() -> None:
        timers.add(loop.time(), Item(last.set))
        raise ValueError("boom")

    timers.add(loop.time(), Item(again))
    await asyncio.wait_for(last.wait(), 5)
    assert "boom" in caplog.text


async def test_one_that_fires_may_take_back_another_of_the_same_time() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    last, at = asyncio.Event(), loop.time()
    other = Item(lambda: pytest.fail("it was removed"))
    timers.add(at, Item(lambda: bucket.pop(other, None)))
    bucket = timers.add(at, other)
    timers.add(at, Item(last.set))
    await asyncio.wait_for(last.wait(), 5)


async def test_after_closing_nothing_fires_and_no_timer_is_left() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    timers.add(loop.time() + 3600, Item(lambda: pytest.fail("it was closed")))
    handle = timers._timer
    assert handle is not None
    timers.close()
    assert handle.cancelled()


async def test_far_deadlines_that_were_taken_back_leave_nothing() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    fired = asyncio.Event()
    now = loop.time()
    timers.add(now + 0.02, Item(fired.set))
    for number in range(20_000):  # each of a tick of its own
        item = Item(lambda: None)
        timers.add(now + 3600 + number * TICK, item).pop(item, None)
    assert len(timers._buckets) <= 1000
    await asyncio.wait_for(fired.wait(), 5)
    timers.close()

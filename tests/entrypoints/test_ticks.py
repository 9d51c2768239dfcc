"""When timers and crons are due: intervals, cron expressions, and changes of the clocks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from aiorpc.entrypoints.cron import times_of
from aiorpc.entrypoints.ticks import MANY, Every, Schedule, due

BERLIN = ZoneInfo("Europe/Berlin")


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def ticks(schedule: Schedule, begin: str, end: str) -> list[str]:
    """Return the ticks after *begin* and until *end*, in the time of Berlin."""

    def walk() -> Iterator[str]:
        tick = schedule.after(moment(begin))
        while tick <= moment(end):
            yield datetime.fromtimestamp(tick, BERLIN).isoformat()
            tick = schedule.after(tick)

    return list(walk())


@given(
    st.floats(0.001, 1e7, allow_nan=False),
    st.floats(0, 4e9, allow_nan=False),
)
def test_ticks_of_an_interval_lie_on_both_sides_of_a_moment(interval: float, now: float) -> None:
    every = Every(interval)
    assert every.until(now) <= now < every.after(now)
    assert every.after(now) - every.until(now) == pytest.approx(interval, rel=0.01)


def test_due_ticks_are_counted_and_the_last_one_returned() -> None:
    every = Every(10)
    assert due(every, 100, 109) is None
    assert due(every, 100, 110) == (110, 1)
    assert due(every, 100, 139) == (130, 3)
    assert due(every, 200, 139) is None  # the last tick is of a clock that is ahead
    assert due(every, 0, 1e6) == (1e6, MANY)
    minutes = times_of("* * * * *", "UTC")
    assert due(minutes, 0, 1e9) == (1e9 - 1e9 % 60, MANY)


def test_a_cron_is_in_its_zone() -> None:
    day = ("2026-06-01T00:00+02:00", "2026-06-03T00:00+02:00")
    at_eight = ["2026-06-01T08:00:00+02:00", "2026-06-02T08:00:00+02:00"]
    assert ticks(times_of("0 8 * * *", "Europe/Berlin"), *day) == at_eight
    assert ticks(times_of("0 6 * * *", "UTC"), *day) == at_eight
    assert ticks(times_of("0 2 * * TUE", "America/New_York"), *day) == at_eight[1:]


def test_a_cron_with_six_fields_begins_with_the_second() -> None:
    found = ticks(
        times_of("*/20 59 23 * * *", "Europe/Berlin"),
        "2026-06-01T23:00+02:00",
        "2026-06-02T01:00+02:00",
    )
    assert [text[11:19] for text in found] == ["23:59:00", "23:59:20", "23:59:40"]


SPRING = ("2026-03-28T12:00+01:00", "2026-03-30T12:00+02:00")  # 02:00 is followed by 03:00
AUTUMN = ("2026-10-24T12:00+02:00", "2026-10-26T12:00+01:00")  # 02:59 is followed by 02:00


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # In the hour that does not exist: at its end.
        ("30 2 * * *", ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
        ("0,30 2 29 * *", ["2026-03-29T03:00:00+02:00"]),
        (
            "30 1,2,3 29 * *",
            [f"2026-03-29T{time}" for time in ("01:30:00+01:00", "03:00:00+02:00")]
            + ["2026-03-29T03:30:00+02:00"],
        ),
        # Every hour: hours that exist.
        (
            "15 * 29 * *",
            ["2026-03-29T00:15:00+01:00", "2026-03-29T01:15:00+01:00", "2026-03-29T03:15:00+02:00"],
        ),
    ],
)
def test_clocks_that_go_forward_skip_no_run(expression: str, expected: list[str]) -> None:
    found = ticks(times_of(expression, "Europe/Berlin"), *SPRING)
    assert found[: len(expected)] == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # In the hour that comes twice: in the first one only.
        ("30 2 * * *", ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]),
        ("0,30 2 25 * *", ["2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00"]),
        # Every hour: both.
        (
            "30 * 25 * *",
            [f"2026-10-25T{time}" for time in ("00:30:00+02:00", "01:30:00+02:00")]
            + [f"2026-10-25T{time}" for time in ("02:30:00+02:00", "02:30:00+01:00")]
            + ["2026-10-25T03:30:00+01:00"],
        ),
    ],
)
def test_clocks_that_go_back_repeat_no_run(expression: str, expected: list[str]) -> None:
    found = ticks(times_of(expression, "Europe/Berlin"), *AUTUMN)
    assert found[: len(expected)] == expected


@given(
    st.sampled_from(["30 2 * * *", "*/7 * * * *", "0 */2 * * *", "5,59 1-3 * * SUN", "0 0 1 * *"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.one_of(
        st.integers(int(moment(SPRING[0])), int(moment(SPRING[1]))),
        st.integers(int(moment(AUTUMN[0])), int(moment(AUTUMN[1]))),
        st.integers(int(moment("2026-04-04T00:00Z")), int(moment("2026-04-06T00:00Z"))),
    ),
)
def test_ticks_of_a_cron_rise_at_any_moment(expression: str, zone: str, now: int) -> None:
    times = times_of(expression, zone)
    assert times.until(now) <= now
    following = [now + 0.5]
    for _ in range(8):
        following.append(times.after(following[-1]))
    assert all(one < two for one, two in pairwise(following))


def test_without_a_change_of_the_clocks_a_cron_walks_back_as_it_walked_forward() -> None:
    times = times_of("*/25 8-10 * * *", "Europe/Berlin")
    begin = moment("2026-06-01T00:00Z")
    forward = [begin]
    for _ in range(30):
        forward.append(times.after(forward[-1]))
    for tick, following in pairwise(forward[1:]):
        assert times.until(tick) == tick
        assert times.until(following - 0.5) == tick
    assert datetime.fromtimestamp(forward[1], UTC).isoformat() == "2026-06-01T06:00:00+00:00"

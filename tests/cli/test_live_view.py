"""The figures of ``aiorpc top``, and how they fit a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from aiorpc.cli.live_table import drawn
from aiorpc.hosting.counts import bucket_of
from aiorpc.hosting.discovery.live_view import CallerRow, Quantiles, Row, View, quantile, view_of
from aiorpc.hosting.discovery.shapes import (
    UNREADABLE,
    Caller,
    EndpointData,
    EndpointInfo,
    EndpointStats,
    Info,
    Stats,
    answer_of,
    encoded,
)
from tests.support.files import REPOSITORY


def endpoint(requests: int, errors: int = 0, **data: Any) -> EndpointStats:
    last = "ValueError: no" if errors else ""
    return EndpointStats(
        "quote", "rpc-shop", requests, errors, last, 0, 0, EndpointData("Rpc", **data)
    )


def stats(pid: str, uptime: float, *endpoints: EndpointStats, started: str = "then") -> Stats:
    return Stats(
        name="shop",
        id=pid,
        metadata={"host": "ada", "pid": pid},
        started=started,
        uptime=uptime,
        endpoints=list(endpoints),
    )


def only(before: list[Stats], now: list[Any], **depths: tuple[int, int]) -> Row:
    view = view_of(now, {each.id: each for each in before}, depths, "amqp://localhost/")
    (row,) = view.methods
    return row


def test_the_callers_of_all_instances_are_added_up() -> None:
    def called(**callers: tuple[int, float]) -> EndpointStats:
        made = {name: Caller(*seen) for name, seen in callers.items()}
        return endpoint(100, callers=made)

    before = [stats("1", 10, called(web=(10, 1.0))), stats("2", 5, called(web=(5, 9.0)))]
    now = [
        stats("1", 12, called(web=(16, 0.5), shop=(4, 2.0))),
        stats("2", 7, called(web=(5, 11.0))),
        stats("3", 1, called(web=(1, 0.1))),
    ]
    assert only(before, now).callers == {
        "web": CallerRow(22, 3.0, 0.1),
        "shop": CallerRow(4, 2.0, 2.0),
    }
    assert only([], now[:1]).callers["web"].calls_per_second is None


def test_rates_are_of_ended_calls_of_all_instances_since_the_last_look() -> None:
    before = [stats("1", 10, endpoint(100, 1)), stats("2", 5, endpoint(50))]
    now = [
        stats("1", 12, endpoint(123, 2, in_flight=2, waiting=1)),
        stats("2", 7, endpoint(70)),
    ]
    row = only(before, now)
    assert (row.calls_per_second, row.errors_per_second) == (20.0, 0.5)
    assert (row.calls, row.errors, row.in_flight, row.waiting) == (193, 2, 2, 1)
    assert (row.instances, row.last_error) == (2, "ValueError: no")


def test_the_first_look_and_counts_that_began_anew_have_no_rates() -> None:
    row = only([], [stats("1", 12, endpoint(10))])
    assert (row.calls, row.calls_per_second, row.p50_ms) == (10, None, None)
    row = only([stats("1", 10, endpoint(100))], [stats("1", 1, endpoint(3), started="now")])
    assert (row.calls, row.calls_per_second) == (3, None)


def test_quantiles_are_of_the_calls_since_the_last_look() -> None:
    early = {bucket_of(0.001): 50, bucket_of(1.0): 50}
    later = {bucket_of(0.001): 148, bucket_of(1.0): 50, bucket_of(0.2): 2}
    before = [stats("1", 10, endpoint(100, durations=early))]
    row = only(before, [stats("1", 12, endpoint(200, durations=later))])
    assert row.p50_ms == pytest.approx(1.0, rel=0.05)
    assert row.p99_ms == pytest.approx(200, rel=0.05)
    # The instance forgot its durations in between, because nobody asked.
    row = only(before, [stats("1", 12, endpoint(101, durations={bucket_of(0.5): 1}))])
    assert row.p50_ms == pytest.approx(500, rel=0.05)


def test_the_quantiles_of_a_service_are_of_all_its_calls() -> None:
    fast, slow = {bucket_of(0.001): 97}, {bucket_of(0.2): 3}

    def look(uptime: float, *durations: dict[int, int]) -> Stats:
        methods = [endpoint(0, durations=each) for each in durations]
        named = [replace(each, name=f"m{at}") for at, each in enumerate(methods)]
        return stats("1", uptime, *named)

    before = {"1": look(10, {}, {})}
    seen = view_of([look(12, fast, slow)], before, {}, "broker")
    assert [row.p50_ms for row in seen.methods] == pytest.approx([1.0, 200.0], rel=0.05)
    assert seen.durations["shop"].p50_ms == pytest.approx(1.0, rel=0.05)
    assert seen.durations["shop"].p99_ms == pytest.approx(200.0, rel=0.05)
    idle = view_of([look(12, {}, {})], before, {}, "broker")
    assert idle.durations == {"shop": Quantiles(None, None)}


def test_a_quantile_of_nothing_is_none() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({bucket_of(0.001): 0}, 0.5) is None


def test_the_queue_of_a_method_is_shown_if_the_broker_describes_it() -> None:
    now = [stats("1", 12, endpoint(10)), stats("2", 12, endpoint(10))]
    row = only([], now, **{"rpc-shop": (7, 2)})
    assert (row.queue, row.consumers) == (7, 2)
    row = only([], now)
    assert (row.queue, row.consumers) == (None, None)


def test_an_instance_of_an_earlier_aiorpc_shows_without_figures() -> None:
    old = Info(name="shop", id="old", endpoints=[EndpointInfo("quote", None, {"kind": "Rpc"})])
    row = only([], [old])
    assert (row.instances, row.calls, row.in_flight) == (1, None, None)
    row = only([], [old, stats("1", 12, endpoint(10))])
    assert (row.instances, row.calls) == (2, 10)


def screen(view: View, width: int, height: int | None) -> list[str]:
    console = Console(width=width, height=height or 100, highlight=False)
    with console.capture() as captured:
        console.print(drawn(view, width, height))
    return captured.get().rstrip("\n").split("\n")


def view(methods: int, silent: Sequence[str] = ()) -> View:
    rows = [
        Row(
            service="a_service_with_a_long_name",
            method=f"and_a_method_{number}",
            kind="Rpc",
            instances=3,
            calls=123_456_789,
            errors=1_234,
            last_error="ValueError: [red]\x1b[2J and more of a long text" * 3,
            calls_per_second=12_345.6 - number,
            errors_per_second=0.5,
            p50_ms=0.123,
            p99_ms=12_345.0,
            in_flight=100,
            waiting=1_000,
            queue=1_234_567,
            consumers=3,
        )
        for number in range(methods)
    ]
    services = {"a_service_with_a_long_name": ["ada:1", "ada:2", "ada:3"]}
    return View(
        time="2026-11-30T12:00:00Z",
        broker="amqp://x/",
        services=services,
        methods=rows,
        silent=list(silent),
    )


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_a_view_fits_the_terminal(width: int, height: int) -> None:
    lines = screen(view(100), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("aiorpc top  12:00:00Z  1 service(s), 3 instance(s)")
    assert lines[1].startswith("METHOD")
    assert "12,346" in lines[2]  # the busiest first
    assert lines[-1] == f"... and {100 - (height - 3)} more methods"
    assert ("LAST ERROR" in lines[1]) is (width == 120)


def test_silent_instances_are_the_last_line() -> None:
    silent = [f"shop in ada:{number}" for number in range(100)]
    lines = screen(view(100, silent), 80, 24)
    assert len(lines) <= 24
    assert lines[-1].startswith("no answer: shop in ada:0, shop in ada:1, ")
    assert max(map(len, lines)) <= 80


def test_texts_of_peers_cannot_control_the_terminal() -> None:
    text = "\n".join(screen(view(1), 200, None))
    assert "ValueError: [red]\\x1b[2J" in text
    assert "\x1b[2J" not in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_screens_of_the_documentation_are_of_this_program(width: int, height: int) -> None:
    page = (REPOSITORY / "docs" / "top.md").read_text(encoding="utf-8")
    (shown,) = re.findall(rf"(?s)<!-- screen: {width}x{height} -->\n\n```text\n(.*?)```", page)
    lines = shown.splitlines()
    assert 5 < len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[1].split() == screen(view(1), width, height)[1].split(), "run docs/screens.py"


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_requests", 10**400), ("num_requests", -1), ("data", {"durations": {"99999999": 1}})],
)
def test_a_foreign_answer_with_absurd_numbers_cannot_be_read(field: str, value: object) -> None:
    """Its figures would overflow."""
    own = json.loads(encoded(stats("1", 10, endpoint(3, durations={5: 1})), 10_000))
    assert answer_of(json.dumps(own).encode()) == stats("1", 10, endpoint(3, durations={5: 1}))
    own["endpoints"][0][field] = value
    with pytest.raises(UNREADABLE):
        answer_of(json.dumps(own).encode())

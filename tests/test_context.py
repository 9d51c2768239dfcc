"""Contexts: ids, context data and deadlines."""

from __future__ import annotations

import math
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiorpc.context import FAR, NO_CONTEXT, Context, Deadline, new_id


def test_the_time_left_of_a_deadline_is_never_negative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    deadline = Deadline.after(3)
    assert deadline.remaining() == 3
    monkeypatch.setattr(time, "monotonic", lambda: 104.0)
    assert deadline.remaining() == 0.0


def test_a_timeout_only_makes_a_deadline_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    outer = Context(("a",), {"k": "v"}, Deadline(110.0))
    assert outer.within(5).deadline == Deadline(105.0)
    assert outer.within(20) is outer
    assert outer.within(None) is outer
    assert (outer.within(5).call_id_stack, outer.within(5).data) == (("a",), {"k": "v"})


@pytest.mark.parametrize("timeout", [FAR, math.inf])
def test_a_very_long_timeout_is_unlimited(timeout: float) -> None:
    assert NO_CONTEXT.within(timeout) is NO_CONTEXT


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(10, ("a", "b", "c", "own")), (2, ("b", "c", "own")), (0, ("own",))],
)
def test_the_stack_keeps_the_nearest_ids(keep: int, expected: tuple[str, ...]) -> None:
    context = Context(("a", "b", "c"), {"k": 1}, Deadline(1.0))
    entered = context.entered("own", keep)
    assert entered == Context(expected, {"k": 1}, Deadline(1.0))
    assert context.call_id_stack == ("a", "b", "c")


def test_new_context_data_updates_the_old() -> None:
    context = Context((), {"a": 1, "b": 1})
    assert context.with_data({"b": 2}).data == {"a": 1, "b": 2}
    assert context.data == {"a": 1, "b": 1}


def test_ids_made_in_many_threads_differ() -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: new_id(), range(4000)))
    assert len(set(ids)) == len(ids)


def test_a_forked_process_makes_other_ids() -> None:
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    child = fork.Process(target=lambda: queue.put(new_id()))
    child.start()
    child.join(10)
    assert queue.get()[:24] != new_id()[:24]

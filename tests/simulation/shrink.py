"""Shortens the faults of a failing run to the fewest that still fail in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .faults import Fault
from .world import Result, simulate

__all__ = ["shrink"]


def shrink(failed: Result, play: Callable[[object, Sequence[Fault]], Result] = simulate) -> Result:
    """
    Return the run of ``failed.seed`` with the fewest faults that has the same kind of violation.

    Leaves out halves, then quarters, and so on, as delta debugging does (Zeller and Hildebrandt,
    2002), until no single fault can be left out.
    """
    best, faults, parts = failed, list(failed.struck), 2
    again = play(failed.seed, faults)
    if again.kind != failed.kind:  # a fault that did not strike has had an effect on the draw
        faults, again = list(failed.faults), play(failed.seed, failed.faults)
    best = again
    while faults:
        size = -(-len(faults) // parts)
        for start in range(0, len(faults), size):
            fewer = faults[:start] + faults[start + size :]
            result = play(failed.seed, fewer)
            if result.kind == failed.kind:
                best, faults, parts = result, fewer, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(faults), parts * 2)
    return best

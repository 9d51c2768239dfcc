"""
Keeps who called each method. Awaits nothing.

A call only appends its call id stack to a short list, so it does not get slower. A timer sums the
list up each second in which calls come. Up to ``KEPT`` calls of a method in a second, the numbers
are exact. Above, they are estimates from the last ``KEPT`` calls of each second.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeAlias

from ..logs import one_line
from .discovery.shapes import Caller

__all__ = ["OTHERS", "UNKNOWN", "Callers", "Stack", "ignore"]

Stack: TypeAlias = tuple[str, ...]

#: Calls of one method that are kept until the next sum.
KEPT = 128
#: Seconds between two sums.
EVERY = 1.0
#: The most callers of a method that are told apart, and the name of all others together.
MOST, OTHERS = 32, "(others)"
#: The caller of a call whose message has no call ids.
UNKNOWN = "(unknown)"
#: Characters of a name.
_LONGEST = 120


def ignore(stack: Stack) -> None:
    """Keep nothing, because nobody can ask."""


class Callers:
    """
    The callers of one method.

    Args:
        ended: returns how many calls of the method have ended.
        set_saw: sets the function that takes the call id stack of each call when it ends.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[], int],
        set_saw: Callable[[Callable[[Stack], object]], None],
    ) -> None:
        self._loop, self._ended, self._set_saw = loop, ended, set_saw
        self._recent: deque[Stack] = deque(maxlen=KEPT)
        self._before = 0
        self._timer: asyncio.TimerHandle | None = None
        #: The calls, and the time of the last one, by caller.
        self._found: dict[str, tuple[float, float]] = {}
        set_saw(self._first)

    def close(self) -> None:
        """Keep no more callers."""
        self._sum_up()
        self._set_saw(ignore)

    def found(self) -> dict[str, Caller]:
        """Return the callers by ``service.method``, the most frequent first."""
        self._sum_up()
        now = monotonic()
        ordered = sorted(self._found.items(), key=lambda each: (-each[1][0], each[0]))
        return {name: Caller(round(calls), round(now - last, 1)) for name, (calls, last) in ordered}

    def _first(self, stack: Stack) -> None:
        """Take the first call since the last sum."""
        self._before = self._ended() - 1
        self._recent.append(stack)
        self._set_saw(self._recent.append)
        self._timer = self._loop.call_later(EVERY, self._sum_up)

    def _sum_up(self) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._set_saw(self._first)
        each_stands_for = max(1.0, (self._ended() - self._before) / len(self._recent))
        now = monotonic()
        for name, number in Counter(map(_caller_of, self._recent)).items():
            if name not in self._found and len(self._found) >= MOST:
                name = OTHERS
            calls, _ = self._found.get(name, (0.0, 0.0))
            self._found[name] = calls + number * each_stands_for, now
        self._recent.clear()


def _caller_of(stack: Any) -> str:
    """Return ``service.method`` of the call that made the call with *stack*."""
    if len(stack) < 2 or not isinstance(stack[-2], str):
        return UNKNOWN
    return one_line(stack[-2].rpartition(".")[0], _LONGEST) or UNKNOWN

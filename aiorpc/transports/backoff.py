"""Computes the pauses between attempts. Pure: nothing here awaits or does I/O."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """
    Seconds to wait before the next attempt: doubled each time, jittered, bounded.

    Args:
        first: seconds before the second attempt.
        most: seconds at most.
    """

    def __init__(self, first: float = 0.1, most: float = 5.0) -> None:
        self._first = self._next = first
        self._most = most

    def reset(self) -> None:
        """Begin again with ``first``, after a success."""
        self._next = self._first

    def next(self) -> float:
        """Return the seconds to wait now."""
        now, self._next = self._next, min(self._next * 2, self._most)
        return now * random.uniform(0.5, 1.0)

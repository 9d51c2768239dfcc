"""How long to wait between attempts at what failed. Pure."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Seconds to wait before the next attempt: doubled each time, jittered, bounded."""

    def __init__(self, first: float = 0.1, most: float = 5.0) -> None:
        self._first = self._next = first
        self._most = most

    def reset(self) -> None:
        """It worked: begin anew."""
        self._next = self._first

    def next(self) -> float:
        """How long to wait now."""
        now, self._next = self._next, min(self._next * 2, self._most)
        return now * random.uniform(0.5, 1.0)

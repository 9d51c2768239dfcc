"""Measures how late our own event loop is: every time that we measure has that error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Lag", "watched_loop"]

#: Seconds between two measurements, and the least lag that is remembered.
_EVERY, _LEAST = 0.005, 0.02


class Lag:
    """The delays of an event loop."""

    def __init__(self) -> None:
        #: Each loop time with its delay, in seconds.
        self._delays: list[tuple[float, float]] = [(0.0, 0.0)]

    def since(self, at: float) -> float:
        """Return the longest delay since loop time *at*."""
        return max((delay for when, delay in self._delays if when >= at), default=0.0)

    @property
    def longest(self) -> float:
        return self.since(0.0)

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY
            await asyncio.sleep(_EVERY)
            if (delay := loop.time() - due) > _LEAST:
                self._delays.append((due, delay))


@asynccontextmanager
async def watched_loop() -> AsyncIterator[Lag]:
    """Measure inside the block."""
    lag = Lag()
    watching = asyncio.create_task(lag.watch())
    try:
        yield lag
    finally:
        watching.cancel()

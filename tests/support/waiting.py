"""
Waits for what tells nobody when it happens. Imports nothing of aiorpc's.

A test waits for an event where there is one. Where there is none, as with a queue at the broker or
a file that another process writes, it asks again and again, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

__all__ = ["PATIENCE", "eventually", "eventually_blocking"]

#: Seconds after which something that should happen counts as not happening.
PATIENCE = 10.0
#: Turns of the event loop to wait before `eventually` begins to sleep between two questions.
_TURNS = 20


async def eventually(
    check: Callable[[], object | Awaitable[object]], patience: float = PATIENCE
) -> None:
    """
    Return when *check*, a function or a coroutine function, returns something true.

    Raises:
        TimeoutError: it did not within *patience* seconds.
    """
    async with asyncio.timeout(patience):
        asked = 0
        while True:
            result = check()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return
            asked += 1
            await asyncio.sleep(0 if asked < _TURNS else 0.005)


def eventually_blocking(
    check: Callable[[], object], patience: float = PATIENCE, *, every: float = 0.05
) -> bool:
    """
    Ask *check* every *every* seconds, without an event loop, for at most *patience* seconds.

    Returns:
        Whether it returned something true in time.
    """
    end = time.monotonic() + patience
    while not check():
        if time.monotonic() >= end:
            return False
        time.sleep(every)  # nothing says when it happens
    return True

"""
Waits for things that give no event. Imports nothing of aiorpc.

A test waits for an event if there is one. For something without an event, such as the length of a
queue at the broker or a file of another process, it polls with these functions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

__all__ = ["PATIENCE", "eventually", "eventually_blocking"]

#: Seconds after which something that should happen counts as not happening.
PATIENCE = 10.0
#: Checks after which `eventually` sleeps 5 ms between two checks, instead of one loop turn.
_TURNS = 20


async def eventually(
    check: Callable[[], object | Awaitable[object]], patience: float = PATIENCE
) -> None:
    """
    Wait until *check*, a function or a coroutine function, returns a true value.

    Raises:
        TimeoutError: *check* returned no true value within *patience* seconds.
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
    Call *check* every *every* seconds, for at most *patience* seconds, without an event loop.

    Returns:
        Whether *check* returned a true value in time.
    """
    end = time.monotonic() + patience
    while not check():
        if time.monotonic() >= end:
            return False
        time.sleep(every)  # there is no event to wait for
    return True

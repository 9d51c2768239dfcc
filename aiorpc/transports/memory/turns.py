"""
Runs the work of the broker in this process in later turns of its event loop, never in ``publish``.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Turns"]


class Turns:
    """
    Runs callbacks in later turns of *loop*, all in one context, never in a sender's context.

    Attributes:
        time: returns the loop's time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = loop.time
        self._loop = loop
        self._context = contextvars.copy_context()
        self._next: deque[Callable[[float], None]] = deque()
        self._handle: asyncio.Handle | None = None

    def soon(self, callback: Callable[[float], None]) -> None:
        """Call *callback* with the loop's time in the next turn."""
        self._next.append(callback)
        if self._handle is None:
            self._handle = self._loop.call_soon(self._run, context=self._context)

    def at(self, time: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        """Call *callback* at loop time *time*."""
        return self._loop.call_at(time, callback, *args, context=self._context)

    def end(self) -> None:
        """Call no more callbacks."""
        self._next.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _run(self) -> None:
        self._handle = None
        callbacks = self._next
        now = self.time()
        try:
            # The next turn runs callbacks that these callbacks add.
            for _ in range(len(callbacks)):
                callbacks.popleft()(now)
        finally:
            if callbacks and self._handle is None:  # a handler raised KeyboardInterrupt
                self._handle = self._loop.call_soon(self._run, context=self._context)

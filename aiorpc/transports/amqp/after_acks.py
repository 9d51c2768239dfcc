"""Waits until the broker has read acks, by a request on their channel. Does I/O through aiormq."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import aiormq

from .errors import errors, quietly

__all__ = ["AfterAcks"]


class AfterAcks:
    """
    Calls functions when the broker has read the acks written so far. If this process ends earlier,
    the broker may never read the acks. Any later answer on the channel proves that it read them.
    """

    def __init__(self, channel: aiormq.Channel) -> None:
        self._channel = channel
        self._waiting: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def call(self, function: Callable[[], None]) -> None:
        """Call *function* when the broker has answered, or the channel has ended."""
        self._waiting.append(function)
        if self._task is None:
            self._task = self._channel.loop.create_task(self._ask())

    async def _ask(self) -> None:
        # confirm.select has no side effect here, and the request ends with the connection.
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                try:
                    with quietly(), suppress(Exception), errors():
                        await self._channel.confirm_delivery()
                finally:
                    for function in waiting:
                        function()
        finally:
            self._task = None

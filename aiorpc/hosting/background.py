"""The tasks that a container runs beside its calls. Awaits only their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Background"]


class Background:
    """
    The tasks of one container, until ``close``.

    Args:
        bound: seconds to wait for cancelled tasks.
        failed: called with the name and the error of a task that raised.
    """

    def __init__(self, bound: float, failed: Callable[[str, BaseException], None]) -> None:
        #: In the order of their start.
        self.tasks: dict[asyncio.Task[None], None] = {}
        #: Those of the tasks that settle a message.
        self._settling: set[asyncio.Task[None]] = set()
        self._bound = bound
        self._failed = failed
        self._closed = False

    def spawn(
        self, background: Coroutine[Any, Any, None], name: str, *, settles: bool = False
    ) -> None:
        """See :meth:`aiorpc.extensions.Host.spawn`. After ``close``, *background* does not run."""
        if self._closed:  # nothing would end it
            background.close()
            return
        task = asyncio.get_running_loop().create_task(background, name=name)
        self.tasks[task] = None
        if settles:
            self._settling.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(task.get_name(), error)

    async def stop(self) -> None:
        """Cancel the tasks that run now and settle no message, and wait."""
        await self._cancel([task for task in self.tasks if task not in self._settling])

    async def settle(self, patience: float) -> None:
        """Wait at most *patience* seconds, and CLEANUP_TIMEOUT, for tasks that settle a message."""
        if self._settling:
            await asyncio.wait(list(self._settling), timeout=min(patience, self._bound))

    async def close(self) -> None:
        """Cancel all tasks, wait, and start no more tasks."""
        self._closed = True
        await self._cancel(list(self.tasks))

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._bound)

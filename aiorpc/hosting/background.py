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
        self._bound = bound
        self._failed = failed
        self._closed = False

    def spawn(self, background: Coroutine[Any, Any, None], name: str) -> None:
        """See :meth:`aiorpc.extensions.Host.spawn`. After ``close``, *background* does not run."""
        if self._closed:  # nothing would end it
            background.close()
            return
        task = asyncio.get_running_loop().create_task(background, name=name)
        self.tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(task.get_name(), error)

    async def stop(self) -> None:
        """Cancel the tasks that run now, and wait."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._bound)

    async def close(self) -> None:
        """Do the same as ``stop``, and start no more tasks."""
        self._closed = True
        await self.stop()

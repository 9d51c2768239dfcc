"""
The slot of one worker: it starts a process, another one when that dies, and replaces it on
request. Awaits the processes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ...exceptions import AioRpcError
from ...logs import logger
from .process import WorkerProcess

__all__ = ["Crew", "Slot", "WorkersFailed"]

log = logger("aiorpc.hosting")

#: Processes of one worker that may end one after the other before they are ready.
ATTEMPTS = 5
#: Seconds before the second, third... attempt: doubled up to the longest, times 0.5 to 1.
PAUSE, LONGEST_PAUSE = 0.25, 30.0
#: Seconds of service after which the pauses begin with the first again.
STEADY = 60.0
#: Seconds after which the log says that a new process is not ready.
PATIENCE = 10.0


class WorkersFailed(AioRpcError):
    """A worker does not become ready. *status* is the exit status of its last process."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass(eq=False)
class Crew:
    """
    What the slots of a supervisor share.

    Attributes:
        start: starts a process of the worker with this number.
        give_up: ends the command with this error.
        loaded: set when one process has loaded the services. The others start then, so that a
            mistake in a module shows once.
        has_served: whether one process was ready.
    """

    start: Callable[[int], Awaitable[WorkerProcess]]
    give_up: Callable[[Exception], None]
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    has_served: bool = False


class Slot:
    """
    Keeps the worker *number* alive, until ``leave``.

    Attributes:
        process: the one that serves, or starts; None in a pause.
    """

    def __init__(self, number: int, crew: Crew) -> None:
        self.number = number
        self.process: WorkerProcess | None = None
        self._crew = crew
        self._has_left = False
        self._deaths = self._failures = 0
        self._problem = "starts"
        self._begin()

    def _begin(self) -> None:
        name = f"aiorpc: keep worker {self.number}"
        self.keeping = asyncio.create_task(self._keep(), name=name)

    @property
    def problem(self) -> str | None:
        """Why there is no process."""
        return f"worker {self.number}: {self._problem}" if self.process is None else None

    def leave(self) -> None:
        """Let the process finish its calls, and start no other."""
        self._has_left = True
        self.keeping.cancel()
        if self.process is not None:
            self.process.stop()

    async def replace(self) -> str | None:
        """
        Start another process, and stop the earlier one when the new one is ready. Return when the
        earlier one has ended.

        Returns:
            why the new one does not serve calls; the earlier one stays.
        """
        try:
            successor = await self._crew.start(self.number)
        except OSError as error:
            return f"cannot start: {error.strerror or error}"
        try:
            if not await self._is_ready(successor):
                return successor.end
            if self._has_left:
                return None
            earlier, self.process = self.process, successor
            self.keeping.cancel()  # it keeps the earlier one
            self._begin()
        finally:
            if self.process is not successor:
                successor.stop()
        if earlier is not None:
            earlier.stop()
            await asyncio.wait((earlier.ended,))
        return None

    async def _is_ready(self, successor: WorkerProcess) -> bool:
        """Wait until *successor* serves calls or has ended. The log says if that takes long."""
        if await successor.becomes_ready(PATIENCE) or successor.ended.done():
            return successor.ready.is_set()
        log.warning(
            "worker %d: the new process (pid %d) is not ready yet: %s; the earlier one stays until "
            "then",
            *(self.number, successor.pid, "; ".join(successor.report().reasons)),
        )
        return await successor.becomes_ready()

    async def _keep(self) -> None:
        try:
            if self.number > 1:
                await self._crew.loaded.wait()
            while True:
                await self._serve_once()
        except Exception as error:  # noqa: BLE001 - `run` of the supervisor raises it
            self._crew.give_up(error)

    async def _serve_once(self) -> None:
        """Return when a process has ended and the pause after it is over."""
        if self.process is None:
            try:
                self.process = await self._crew.start(self.number)
            except OSError as error:
                problem = f"cannot start: {error.strerror or error}"
                self._count_failure(problem, status=1)
                await self._pause(problem)
                return
        process = self.process
        if await process.loads():
            self._crew.loaded.set()
        if await process.becomes_ready():
            self._crew.has_served = True
            self._failures = 0
        await asyncio.wait((process.ended,))
        self.process = None
        problem = f"pid {process.pid} ended: {process.end}"
        if not process.ready.is_set():
            failure = process.failure
            if failure is not None and failure.final and not self._crew.has_served:
                raise WorkersFailed(failure.text, failure.status)
            self._count_failure(problem, status=max(process.ended.result(), 1))
        elif process.served_for > STEADY:
            self._deaths = 0
        await self._pause(problem)

    def _count_failure(self, problem: str, *, status: int) -> None:
        """
        Count a process that was never ready, because of *problem*.

        Raises:
            WorkersFailed: it was the last attempt; *status* is the exit status.
        """
        self._failures += 1
        if self._failures == ATTEMPTS:
            raise WorkersFailed(
                f"worker {self.number} failed {ATTEMPTS} times before it was ready; the last time: "
                f"{problem}",
                status,
            )

    async def _pause(self, problem: str) -> None:
        longest = min(LONGEST_PAUSE, PAUSE * 2 ** min(self._deaths, 10))
        seconds = longest * random.uniform(0.5, 1.0)  # not all at the same time
        self._deaths += 1
        self._problem = problem
        log.warning("worker %d: %s; it starts again in %.1f s", self.number, problem, seconds)
        await asyncio.sleep(seconds)

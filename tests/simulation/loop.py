"""
An event loop without a clock, sockets or threads: its time is a number, and a seed chooses which
process runs next. Knows nothing of aiorpc.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["BEGIN", "PROCESS", "Livelock", "Process", "SimulationLoop", "Stuck"]

#: Virtual seconds that one callback takes.
STEP = 5e-6
#: The time at which a run begins.
BEGIN = 1000.0


class Stuck(Exception):
    """No callback is ready, no timer is set, and the simulation has not ended: a deadlock."""


class Livelock(Exception):
    """The run took more steps than any run should."""


class Process:
    """
    A simulated operating system process: its callbacks run in their order, and interleave freely
    with those of other processes.

    Args:
        skew: seconds by which the wall clock of the process is fast.

    Attributes:
        began: when the process started.
        alive: false after a crash. Then none of its callbacks runs any more.
        stalled: whether the process does not run now, like a process that swaps.
    """

    def __init__(self, loop: SimulationLoop, name: str, skew: float = 0.0) -> None:
        self.loop = loop
        self.name = name
        self.skew = skew
        self.began = loop.time()
        self.alive = True
        self.stalled = False
        self.ready: deque[asyncio.Handle] = deque()
        self.runnable = False
        self.tasks: list[asyncio.Task[Any]] = []
        self._prune_at = 100
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run *coroutine* in this process."""
        return self.loop.create_task(coroutine, context=self.context.copy())

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.loop.call_soon(callback, *args, context=self.context)

    def created(self, task: asyncio.Task[Any]) -> None:
        """Remember *task*: a crash has to keep it from running its ``finally``."""
        self.tasks.append(task)
        if len(self.tasks) > self._prune_at:
            self.tasks = self.running
            self._prune_at = 100 + 2 * len(self.tasks)

    @property
    def running(self) -> list[asyncio.Task[Any]]:
        """The tasks that are not done."""
        return [task for task in self.tasks if not task.done()]

    def crash(self) -> None:
        """End at once, as by ``kill -9``: no callback of this process runs any more."""
        self.alive = False
        self.ready.clear()

    def stall(self, seconds: float) -> None:
        """Run nothing for *seconds*."""
        self.stalled = True
        self.loop.later(seconds, self._resume)

    def _resume(self) -> None:
        self.stalled = False
        self.loop.wake(self)

    def __repr__(self) -> str:
        return self.name


PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("simulation.process")


class SimulationLoop(asyncio.BaseEventLoop):
    """
    Runs the callbacks of many processes in virtual time.

    asyncio promises that callbacks of ``call_soon`` run in their order. The loop keeps this promise
    within a process, and between timers of one process. Callbacks of different processes have no
    order in reality, so the seed chooses. Time passes with each callback, and jumps to the next
    timer when nothing is ready.

    Attributes:
        steps: the number of callbacks that ran.
        complaints: what asyncio reported, such as an exception that nobody retrieved.
    """

    def __init__(self, seed: object, *, most_steps: int = 3_000_000) -> None:
        super().__init__()
        self._now = BEGIN
        self._random = random.Random(f"schedule {seed}").random
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._sequence = 0
        self._runnable: list[Process] = []
        self._most_steps = most_steps
        self.steps = 0
        self.complaints: list[str] = []
        self.ended = False
        self.world = Process(self, "world")
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self._now

    def begin(self, main: Coroutine[Any, Any, None]) -> None:
        """Run *main* in the process ``world``, until it ends."""
        self.run_until_complete(self.world.spawn(main))

    def later(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Call *callback* in the process ``world``."""
        self.call_at(self._now + seconds, callback, *args, context=self.world.context)

    # --- what asyncio asks of a loop

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.ended:
            self._enqueue(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.ended:
            self._sequence += 1
            heapq.heappush(self._timers, (when, self._sequence, handle))
        return handle

    def run_in_executor(
        self, executor: object, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run *function* in a later turn: there are no threads."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_at(self._now + 0.001 * self._random(), run)
        return future

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer stays in the heap until its time."""

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        context = options.get("context")
        process = PROCESS.get(self.world) if context is None else context.get(PROCESS)
        if self.ended:
            task._log_destroy_pending = False
            _dispose(coroutine)
        else:
            process.created(task)
        return task

    def _complain(self, loop: object, context: dict[str, Any]) -> None:
        if not self.ended:
            self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    # --- the schedule

    def _enqueue(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(PROCESS) or self.world
        if process.alive:
            process.ready.append(handle)
            if not process.runnable and not process.stalled:
                process.runnable = True
                self._runnable.append(process)

    def wake(self, process: Process) -> None:
        """Let *process* run again after a stall."""
        if process.ready and not process.runnable:
            process.runnable = True
            self._runnable.append(process)

    def _run_once(self) -> None:
        runnable, timers, pick = self._runnable, self._timers, self._random
        while not self._stopping:
            if timers and (not runnable or timers[0][0] <= self._now):
                self._fire()
                continue
            if not runnable:
                raise Stuck
            index = int(pick() * len(runnable))
            process = runnable[index]
            ready = process.ready
            handle = None if process.stalled or not ready else ready.popleft()
            if not ready or process.stalled:
                process.runnable = False
                runnable[index] = runnable[-1]
                runnable.pop()
            if handle is None or handle._cancelled:
                continue
            self._now += STEP
            self.steps += 1
            if self.steps > self._most_steps:
                raise Livelock(f"more than {self._most_steps} steps")
            handle._run()

    def _fire(self) -> None:
        """Make the next timers ready; jump to their time."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers or (self._runnable and timers[0][0] > self._now):
            return
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            handle = heapq.heappop(timers)[2]
            if not handle._cancelled:
                self._enqueue(handle)

    def timers_of(self, process: Process) -> list[asyncio.TimerHandle]:
        """The timers that *process* has set and not cancelled."""
        return [
            handle
            for _, _, handle in self._timers
            if not handle._cancelled and handle._context.get(PROCESS) is process
        ]

    def end(self, processes: list[Process]) -> None:
        """Close the loop, and dispose of what still runs, without effects."""
        self.ended = True
        self._timers.clear()
        self._runnable.clear()
        asyncio._set_running_loop(self)
        try:
            for process in (*processes, self.world):
                for task in process.running:
                    task._log_destroy_pending = False
                    _dispose(task.get_coro())
                process.tasks.clear()
                process.ready.clear()
        finally:
            asyncio._set_running_loop(None)
        self.close()


def _dispose(coroutine: Any) -> None:
    """Close *coroutine*, whatever its ``finally`` blocks await."""
    for _ in range(100):
        try:
            coroutine.close()
            return
        except BaseException:
            pass

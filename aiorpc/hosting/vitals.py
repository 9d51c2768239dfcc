"""
Whether the process of a runner is alive and ready. Owns the heartbeat and the watchdog of its event
loop, and reads state, also in other threads. Nothing here awaits the broker.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from ..call import Call
from ..config import Settings
from .container import ServiceContainer
from .heartbeat import Heartbeat
from .report import WorkerReport
from .watchdog import Blocker, Watchdog

__all__ = ["Vitals"]

#: Seconds between two beats at most, and between two looks at the workers. With a watchdog, five
#: beats take as long as its bound: a beat is the error of the length that it logs.
_EVERY = 1.0


class Vitals:
    """
    Watches the running event loop, and the workers of *containers*, inside :meth:`watching`.

    Args:
        problems: returns the reasons why the services do not serve calls now.
    """

    def __init__(
        self,
        settings: Settings,
        containers: Iterable[ServiceContainer],
        problems: Callable[[], Iterable[str]],
    ) -> None:
        self._liveness = settings.liveness_timeout
        self._warning = settings.blocked_loop_warning
        self._patience = settings.readiness_timeout
        self._containers = tuple(containers)
        self._problems = problems
        self._busy: dict[ServiceContainer, _Busy] = {}
        self._heartbeat: Heartbeat | None = None
        self._watchdog: Watchdog | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running event loop inside the block."""
        every = _EVERY if self._warning is None else min(self._warning / 5, _EVERY)
        self._heartbeat = Heartbeat(every, self._warning, self._look)
        if self._warning is not None:
            self._watchdog = Watchdog(self._heartbeat, self._warning, self._named)
        try:
            yield
        finally:
            self._heartbeat.stop()
            self._heartbeat = None
            if self._watchdog is not None:
                self._watchdog.stop()
                self._watchdog = None

    def report(self, number: int = 1) -> WorkerReport:
        """Return the report of this process, worker *number*. Any thread may call this method."""
        loop = self._loop_problem()
        reasons = [] if loop is None else [loop]
        reasons += [*self._problems(), *self._stuck()]
        return WorkerReport(number, os.getpid(), loop is None, not reasons, tuple(reasons))

    def _loop_problem(self) -> str | None:
        heartbeat, watchdog = self._heartbeat, self._watchdog
        late = 0.0 if heartbeat is None else heartbeat.late
        if late <= self._liveness:
            return None
        blocker = None if watchdog is None else watchdog.blocker
        by = f" by {blocker.text}" if blocker else ""
        return f"the event loop has been blocked for {late:.1f} s{by}"

    # The workers

    def _look(self) -> None:
        """Remember which calls keep all workers of a service busy, and since when."""
        now = monotonic()
        for container in self._containers:
            if container.running < container.max_workers:
                self._busy.pop(container, None)
                continue
            calls = frozenset(worker.call for worker in container.workers)
            before = self._busy.get(container)
            if before is None or before.calls != calls:
                self._busy[container] = _Busy(now, calls)

    def _stuck(self) -> Iterator[str]:
        for container, busy in list(self._busy.items()):
            seconds = monotonic() - busy.since
            if self._patience is not None and seconds > self._patience:
                counted = Counter(map(str, busy.calls))
                calls = ", ".join(f"{call} ({n})" for call, n in counted.most_common(5))
                yield (
                    f"all {len(busy.calls)} workers of {container.service_name} have run the same "
                    f"calls for {seconds:.0f} s: {calls}"
                )

    def _named(self, task: asyncio.Task[Any]) -> Blocker | None:
        for container in self._containers:
            for worker in container.workers:
                if worker.task is task:
                    call = worker.call
                    return Blocker(f"{call} (call id {call.id})", call.service, call.method)
        return None


class _Busy:
    """The calls that keep all workers of a service busy, in no order, and since when."""

    def __init__(self, since: float, calls: frozenset[Call]) -> None:
        self.since = since
        self.calls = calls

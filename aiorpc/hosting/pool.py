"""
Runs the calls of one service in workers: at most ``max_workers`` calls run, the others wait. Awaits
workers; no I/O.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from .. import figures
from ..call import Call
from ..config import Settings
from ..exceptions import AioRpcError, Overloaded
from ..extensions import Ending, Entrypoint, Outcome, Submission
from ..logs import logger
from .limits import Limits
from .new_calls import NewCalls
from .worker import Worker
from .workshop import Workshop

__all__ = ["Pool", "Submit", "waiting_in"]

log = logger("aiorpc.hosting")

#: The signature of ``Host.submit``.
Submit: TypeAlias = Callable[..., Submission]

#: Seconds between two warnings that a saturated service calls itself.
WARN_EVERY = 60.0


class Pool:
    """
    The workers of one service. Implements the call methods of :class:`~aiorpc.extensions.Host`.

    Attributes:
        accepting: whether new calls run. Otherwise the pool abandons them.
        overran: whether running calls exceeded SHUTDOWN_TIMEOUT when the service stopped.
        interceptors: see :meth:`intercept`; the last one is the outermost.
    """

    def __init__(self, service_name: str, settings: Settings) -> None:
        self.accepting = False
        self.overran = False
        self._service_name = service_name
        self._max_workers = settings.max_workers
        self._cleanup_timeout = settings.cleanup_timeout
        self._calls = NewCalls(service_name, settings.parent_calls_tracked, settings.broker_address)
        self.new_call = self._calls.new_call
        self._running: set[Worker] = set()
        #: The waiting workers, oldest first.
        self._waiting: dict[Worker, None] = {}
        self._starting = False
        self._idle: asyncio.Future[None] | None = None
        self._on_end = self._ended
        self._warned_at = -WARN_EVERY
        self.interceptors: list[Callable[[Submit], Submit]] = []
        self._innermost: Submit = self._run_worker
        self._run: Submit = self._innermost
        self._limits = Limits(())

    def open(self, workshop: Workshop, entrypoints: Iterable[Entrypoint]) -> None:
        """Run workers for *entrypoints* in this event loop, with the objects of *workshop*."""
        self._workshop = workshop
        self._calls.timed = bool(workshop.middleware)
        self._limits = Limits(entrypoints)
        if self._limits:
            self._innermost, self._on_end = self._run_limited, self._ended_limited
            self._compose()
        self._loop = asyncio.get_running_loop()
        figures.measure(self, _figures)
        # A worker must not see the context variables of the code that starts it, such as the end of
        # another call.
        self._context = contextvars.copy_context()

    # Calls

    def submit(
        self,
        entrypoint: Entrypoint,
        call: Call,
        settle: Callable[[Outcome], None],
        encode: Callable[[Any], Any] | None = None,
    ) -> Submission:
        """See :meth:`aiorpc.extensions.Host.submit`."""
        if not call.id:
            call = self._calls.entered(call)
        return self._run(entrypoint, call, settle, encode)

    def refuse(
        self,
        call: Call,
        outcome: Outcome,
        settle: Callable[[Outcome], None],
        encode: Callable[[Any], Any] | None = None,
    ) -> None:
        """See :meth:`aiorpc.extensions.Host.refuse`."""
        self._workshop.ledger.refused(call, outcome)
        if self.accepting and self._workshop.middleware:
            _refuse(self._workshop, self._calls.entered(call), outcome, settle, encode)
        else:
            settle(outcome)

    async def work(self, entrypoint: Entrypoint, call: Call) -> Any:
        """See :meth:`aiorpc.extensions.Host.work`."""
        done: asyncio.Future[Outcome] = self._loop.create_future()
        submission = self.submit(entrypoint, call, done.set_result)
        try:
            outcome = await asyncio.shield(done)
        except asyncio.CancelledError:
            submission.cancel()
            # The dependencies close first, because the code that cancels us may rely on that.
            await asyncio.wait((done,), timeout=self._cleanup_timeout)
            raise
        if isinstance(outcome.error, Exception):
            raise outcome.error
        if outcome.error is not None:
            # A CancelledError or SystemExit of the method must not cancel or end our caller.
            error = outcome.error
            raise AioRpcError(f"{call} raised {type(error).__name__}({error})") from error
        if outcome.ending is not Ending.RETURNED:
            raise AioRpcError(f"{call} did not run to its end: {outcome.ending.value}")
        return outcome.value

    def intercept(self, interceptor: Callable[[Submit], Submit]) -> Callable[[], None]:
        """
        Put *interceptor* between ``submit`` and the workers, and return a function that removes it.
        """

        def remove() -> None:
            if interceptor in self.interceptors:
                self.interceptors.remove(interceptor)
                self._compose()

        self.interceptors.append(interceptor)
        self._compose()
        return remove

    def _compose(self) -> None:
        self._run = self._innermost
        for each in self.interceptors:
            self._run = each(self._run)

    # Workers

    @property
    def workers(self) -> list[Worker]:
        """The running workers. Any thread may ask."""
        return list(self._running)

    def _run_worker(
        self,
        entrypoint: Entrypoint,
        call: Call,
        settle: Callable[[Outcome], None],
        encode: Callable[[Any], Any] | None,
    ) -> Worker:
        worker = Worker(self._workshop, self._on_end, entrypoint, call, settle, encode)
        if not self.accepting:
            worker.cancel(Ending.ABANDONED)
        elif len(self._running) < self._max_workers:
            self._running.add(worker)
            worker.start(self._loop, self._context.copy())
        else:
            self._waiting[worker] = None
            self._warn_of_deadlock(call)
        return worker

    def _run_limited(
        self,
        entrypoint: Entrypoint,
        call: Call,
        settle: Callable[[Outcome], None],
        encode: Callable[[Any], Any] | None,
    ) -> Worker:
        if not self.accepting:
            return self._run_worker(entrypoint, call, settle, encode)
        worker = Worker(self._workshop, self._on_end, entrypoint, call, settle, encode)
        try:
            if self._limits.enter(worker):
                self._wait_for_worker(worker)
        except Overloaded as error:
            self.refuse(call, Outcome(Ending.REFUSED, error=error), worker.end, encode)
        return worker

    def _ended_limited(self, worker: Worker) -> None:
        self._ended(worker)
        if (following := self._limits.leave(worker)) is not None:
            self._wait_for_worker(following)

    def _wait_for_worker(self, worker: Worker) -> None:
        self._waiting[worker] = None
        if not self._starting:
            self._start_waiting()
        if worker in self._waiting:
            self._warn_of_deadlock(worker.call)

    def _ended(self, worker: Worker) -> None:
        running = self._running
        if worker not in running:
            self._waiting.pop(worker, None)
            return
        running.remove(worker)
        if self._waiting and not self._starting:
            self._start_waiting()
        if not running:
            self.end_drain()

    def _start_waiting(self) -> None:
        # An expired worker ends inside `start` and calls `_ended`; the loop avoids recursion.
        self._starting = True
        try:
            while self._waiting and len(self._running) < self._max_workers:
                worker = next(iter(self._waiting))
                del self._waiting[worker]
                self._running.add(worker)
                worker.start(self._loop, self._context.copy())
        finally:
            self._starting = False

    def _warn_of_deadlock(self, call: Call) -> None:
        """Warn if a busy worker may be waiting for *call* (rule 9)."""
        now = self._loop.time()
        own = f"{self._service_name}."
        if (
            call.kind == "rpc"
            and now - self._warned_at >= WARN_EVERY
            and any(call_id.startswith(own) for call_id in call.context.call_id_stack[:-1])
        ):
            self._warned_at = now
            log.warning(
                "%s is saturated (%d workers, all busy) and calls itself: %s waits for a worker "
                "that may be waiting for it. Raise max_workers, or call the method directly",
                self._service_name,
                self._max_workers,
                call,
            )

    async def drain(self, timeout: float) -> None:
        """
        Abandon waiting calls, and wait for running calls. After *timeout* seconds, abandon the
        running calls too: cancel them, and wait at most CLEANUP_TIMEOUT for their dependencies.
        """
        self.accepting = False
        for worker in [*self._limits.waiting(), *self._waiting]:
            worker.cancel(Ending.ABANDONED)
        if await self._wait_until_idle(timeout):
            return
        self.overran = True
        running = list(self._running)
        log.error(
            "%s: %d call(s) still ran after %g s (SHUTDOWN_TIMEOUT) and are cancelled; their "
            "messages are requeued: %s",
            self._service_name,
            len(running),
            timeout,
            ", ".join(sorted({str(worker.call) for worker in running})),
        )
        for worker in running:
            worker.kill()
        if not await self._wait_until_idle(self._cleanup_timeout):
            log.error(
                "%s: %d call(s) ignored cancellation and are left: %s",
                self._service_name,
                len(self._running),
                ", ".join(sorted({str(worker.call) for worker in self._running})),
            )
            for worker in self._running:
                if worker.task is not None:  # asyncio.run() would wait for it without limit
                    asyncio.tasks._unregister_task(worker.task)

    def end_drain(self) -> None:
        """End the wait of :meth:`drain` for the running calls."""
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _wait_until_idle(self, timeout: float) -> bool:
        if self._running:
            self._idle = self._loop.create_future()
            await asyncio.wait((self._idle,), timeout=timeout)
        return not self._running


def _refuse(workshop: Workshop, call: Call, *refused: Any) -> None:
    from .refusals import refuse  # services without middleware start without it

    workshop.host.spawn(refuse(workshop, call, *refused), f"refuse {call}", settles=True)


def waiting_in(pool: Pool) -> list[Worker]:
    """Return the workers that wait."""
    return [*pool._limits.waiting(), *pool._waiting]


def _figures(pool: Pool) -> figures.Measured:
    service, running = pool._service_name, len(pool._running)
    if not pool.accepting and not running:
        return
    yield "workers", (service,), running
    yield "workers_max", (service,), pool._max_workers
    for each in pool._workshop.ledger.activity():
        labels = service, each.entrypoint.method_name
        yield "running", labels, each.in_flight
        yield "waiting", labels, each.waiting

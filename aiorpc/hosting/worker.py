"""
A worker runs one method once, with its dependencies open. Awaits the method, its dependencies and
the middleware; no other I/O.

From the outside in: deadline, middleware, dependencies, method. The worker encodes the result while
the dependencies are open. It settles the outcome after they closed, so an answer means "committed".

A caller can cancel a worker while it opens its dependencies and while its method runs. A
cancellation does not interrupt the closing of the dependencies (commit, roll back), which
CLEANUP_TIMEOUT limits. (The timeout of a middleware can interrupt it.) Then the middleware
continues under the deadline. It may call its handler again, unless the worker was cancelled. The
outcome depends on the reason of the cancellation.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from time import monotonic
from typing import Any

import msgspec

from ..call import Call, compose
from ..context import FAR, current
from ..exceptions import InProgress, RpcTimeout
from ..extensions import Ending, Entrypoint, Outcome, WorkerContext
from ..guards import Returned
from ..logs import logger
from ..timers import Bucket
from .counts import bucket_of
from .log_lines import log_end
from .sensitive import secrets_of
from .workshop import Workshop

__all__ = ["Worker", "phase_of"]

log = logger("aiorpc.worker")

#: A value that no method returns.
_NOTHING = object()
#: After a cancellation for one of these reasons, nobody waits for the result.
_NOBODY_WAITS = (Ending.TIMED_OUT, Ending.CANCELLED)


class _State(enum.IntEnum):
    WAITING = 0
    #: The task exists but has not run yet. If this task were cancelled now, its coroutine would
    #: never run, not even its ``finally``.
    STARTING = 1
    RUNNING = 2
    CLOSING = 3
    DONE = 4


# Enum lookup is slow on Python 3.11.
_WAITING, _STARTING, _RUNNING, _CLOSING, _DONE = _State
_RETURNED = Ending.RETURNED


class Worker(msgspec.Struct, eq=False):
    """Runs the method of *entrypoint* on a new service instance, and calls *settle* once."""

    _workshop: Workshop
    _ended: Callable[[Worker], None]
    entrypoint: Entrypoint
    call: Call
    _settle: Callable[[Outcome], None] | None
    _encode: Callable[[Any], Any] | None
    task: asyncio.Task[None] | None = None
    _state: _State = _WAITING
    _cancelled_for: Ending | None = None
    #: The reason of a cancellation while the dependencies closed; it cancels the middleware later.
    _owed: Ending | None = None
    _killed: bool = False
    #: The middleware's handler runs: the dependencies open, are open, or close.
    _serving: bool = False
    #: Whether the method returned and the dependencies closed.
    _committed: bool = False
    #: The timers' bucket with this worker's current deadline: the call's, or that of the closing.
    _deadlines: Bucket | None = None
    #: Whether the dependencies took longer than CLEANUP_TIMEOUT to close.
    _overdue: bool = False
    _result: Any = _NOTHING
    _encoded: Any = None
    #: The ``time.monotonic()`` of the start; 0 before.
    began: float = 0.0

    def start(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Run in *context*. If the deadline passed while the worker waited, end without a run."""
        deadline = self.call.context.deadline
        now = monotonic()
        if deadline is not None:
            if deadline.at <= now:
                outcome = _timed_out("it waited for a free worker past its deadline")
                self._workshop.host.refuse(self.call, outcome, self.end, self._encode)
                return
            self._deadlines = self._workshop.timers.add(deadline.at, self)
        self.began = now
        self._state = _STARTING
        self.task = loop.create_task(self._run(), context=context)

    def cancel(self, reason: Ending = Ending.CANCELLED) -> None:
        """Cancel the worker for *reason*. Does not change the outcome of closing dependencies."""
        if self._state is _WAITING:
            self.end(Outcome(reason))
        elif self._state in (_STARTING, _RUNNING) and self._cancelled_for is None:
            self._cancelled_for = reason
            if self._state is _RUNNING:
                assert self.task is not None
                self.task.cancel()
        elif self._state is _CLOSING and self._owed is None:
            self._owed = reason

    def kill(self) -> None:
        """Abandon the worker in any state, because the time for the container's stop is over."""
        self._killed = True
        if self._state is not _CLOSING:
            self.cancel(Ending.ABANDONED)
        if self.task is not None and self._state in (_RUNNING, _CLOSING):
            self.task.cancel()

    def expired(self) -> None:
        """Handle the end of a deadline: that of the call, or that of closing the dependencies."""
        if self._state is _CLOSING:
            assert self.task is not None
            self._overdue = True
            self.task.cancel()
        else:
            self.cancel(Ending.TIMED_OUT)

    # The run

    async def _run(self) -> None:
        cancelled_before_its_first_step = self._cancelled_for is not None
        if cancelled_before_its_first_step:
            self.end(_cancelled(self))
            return
        self._state = _RUNNING
        call = self.call
        current.set(call.context)
        foreign = False
        try:
            if middleware := self._workshop.middleware:
                result = await middleware[0](call, compose(middleware[1:], self.serve))
            else:
                result = await self.serve(call)
            if result is not self._result:  # a middleware made or changed the answer
                self._encoded = self._encode(result) if self._encode else result
            outcome = Outcome(_RETURNED, self._encoded)
        except asyncio.CancelledError as exc:
            assert self.task is not None
            if self._cancelled_for is not None or self._killed:
                outcome = _cancelled(self)
            elif self.task.cancelling() and self._workshop.stopping():
                outcome, foreign = Outcome(Ending.ABANDONED), True
            else:  # the method raised it or cancelled its own task: an ordinary error
                outcome = Outcome(Ending.RAISED, error=exc)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - a service's error ends its call only
            refused = isinstance(exc, InProgress) and exc.refuses_call
            outcome = Outcome(Ending.REFUSED if refused else Ending.RAISED, error=exc)
            if self._cancelled_for is not None:
                outcome = _cancelled(self)
                log.warning("%s raised an error while it was cancelled: %r", call, exc)
        except BaseException as exc:
            self.end(Outcome(Ending.RAISED, error=exc))
            raise
        self.end(outcome)
        if foreign:
            raise asyncio.CancelledError

    # long: a further function would cost each call
    async def serve(self, call: Call) -> Any:
        """Open the dependencies, run the method, close the dependencies: the innermost handler."""
        workshop = self._workshop
        if workshop.middleware:  # a middleware may call its handler more than once
            _begin(self, call)
        opened: list[AbstractAsyncContextManager[Any]] = []
        error: BaseException | None = None
        worker_ctx: Any = None
        try:
            service = workshop.service_cls()
            if workshop.values or workshop.lifetimes:
                worker_ctx = WorkerContext(workshop.host, self.entrypoint, service, call)
                for provider in workshop.values:
                    service.__dict__[provider.attr_name] = provider.value(worker_ctx)
                for provider in workshop.lifetimes:
                    dependency = provider.provide(worker_ctx)
                    service.__dict__[provider.attr_name] = await dependency.__aenter__()
                    opened.append(dependency)
            name = self.entrypoint.method_name
            method = getattr(service, name)
            if name in workshop.coroutines:
                result = await method(*call.args, **call.kwargs)
            elif (guard := workshop.guards.get(self.entrypoint)) is not None:
                result = await guard.run(worker_ctx, _Guarded(self, call, method))
            else:
                result = await workshop.run(self.entrypoint, call, method, self._stop_waiting)
            if self._cancelled_for is not None and self._cancelled_for in _NOBODY_WAITS:
                raise asyncio.CancelledError  # the method caught CancelledError: roll back
            if result is not self._result:  # a guard has its result encoded already
                self._result, encode = result, self._encode
                self._encoded = encode(result) if encode else result
        except BaseException as exc:  # noqa: BLE001 - raised below, after the dependencies closed
            error = exc
        try:
            if opened:
                await self._close(opened, error)
            if error is not None:
                raise error  # even if a dependency suppressed it
            self._committed = True
        finally:
            error = None  # avoid a reference cycle of frame and traceback
            if workshop.middleware:
                self._resume()
        return self._result

    def _stop_waiting(self) -> bool:
        """Answer the caller now: the thread may run long. Return whether to stop waiting."""
        if self._cancelled_for is not None and not self._killed:
            self._settle_once(_cancelled(self))
        return self._killed

    async def _close(
        self, opened: list[AbstractAsyncContextManager[Any]], error: BaseException | None
    ) -> None:
        """Commit or roll back, without cancellation, within CLEANUP_TIMEOUT."""
        bound = self._workshop.cleanup_timeout
        if self._state is not _DONE:  # done: a middleware did not await its handler
            self._state = _CLOSING
        if self._deadlines is not None:
            self._deadlines.pop(self, None)
        # On the timer that all workers share: asyncio.timeout() would add a timer for each worker.
        self._overdue = False
        self._deadlines = self._workshop.timers.add(monotonic() + min(bound, FAR), self)
        try:
            await _exit(opened, error)
        except asyncio.CancelledError:
            if self._killed or not self._overdue:
                raise
            text = (
                f"{self.call}: its dependencies did not close within {bound:g} s (CLEANUP_TIMEOUT)"
            )
            log.error("%s", text)
            if error is None:
                raise TimeoutError(text) from None
        finally:
            self._deadlines.pop(self, None)  # the middleware may take longer
            if self._overdue and self.task is not None:
                self.task.uncancel()

    def _resume(self) -> None:
        """Continue the middleware under the deadline of the call, after its handler ended."""
        self._serving = False
        current.set(self.call.context)
        if self._state is _DONE:  # a middleware did not await its handler
            return
        self._state = _RUNNING
        if self._owed is not None:
            self.cancel(self._owed)
        elif self._killed and self.task is not None:
            self.task.cancel()
        deadline = self.call.context.deadline
        if deadline is not None and (self._deadlines is None or self not in self._deadlines):
            self._deadlines = self._workshop.timers.add(deadline.at, self)

    # The end

    def end(self, outcome: Outcome) -> None:
        """End the worker with *outcome*, unless it has ended already."""
        if self._state is _DONE:
            return
        self._state = _DONE
        if self._deadlines is not None:
            self._deadlines.pop(self, None)
        if outcome.error is not None and self.entrypoint.sensitive_arguments:
            outcome.secrets = secrets_of(self.entrypoint, self.call, self._workshop.service_cls)
        if self.began or outcome.ending is Ending.CANCELLED:  # a refusal was counted before
            counts = self._workshop.ledger[self.entrypoint]
            seconds = monotonic() - self.began if self.began else 0.0
            counts.ended += 1
            counts.seconds += seconds
            if counts.durations is not None and self.began:
                counts.durations[bucket_of(seconds)] += 1
            if outcome.error is not None:
                counts.failed(self.entrypoint, outcome)
            counts.saw(self.call.context.call_id_stack)
        self._settle_once(outcome)
        self._result = self._encoded = None
        self._encode = None  # the submitter may hold this worker: a reference cycle for each call
        self._ended(self)
        began = self.began if log.isEnabledFor(logging.DEBUG) else 0.0
        if outcome.error is not None or began:  # last, because a user's log filter can raise
            log_end(self.call, outcome, self.entrypoint, self._workshop.service_cls, began)

    def _settle_once(self, outcome: Outcome) -> None:
        settle, self._settle = self._settle, None
        try:
            if settle is not None:
                settle(outcome)
        except Exception:
            log.exception("%s: the outcome could not be settled", self.call)


def _begin(worker: Worker, call: Call) -> None:
    """Prepare *worker* to serve *call*, perhaps again."""
    if worker._cancelled_for is not None or worker._killed:
        raise asyncio.CancelledError  # a cancelled middleware calls its handler again
    if worker._serving:
        raise RuntimeError(
            f"{call}: a middleware called its handler while its earlier call still runs; "
            "await the earlier call first"
        )
    current.set(call.context)  # the middleware may have changed the context
    worker._serving = True
    worker._committed = False
    worker._result = _NOTHING


class _Guarded(msgspec.Struct, eq=False):
    """The *method* of *call*, for a guard."""

    worker: Worker
    call: Call
    method: Callable[..., Any]

    async def __call__(self) -> Returned:
        worker = self.worker
        run, waiting = worker._workshop.run, worker._stop_waiting
        result = await run(worker.entrypoint, self.call, self.method, waiting)
        if worker._cancelled_for in _NOBODY_WAITS:
            raise asyncio.CancelledError  # the method caught CancelledError
        worker._encoded = worker._encode(result) if worker._encode else result
        worker._result = result
        return Returned(result, worker._encoded)

    def secrets(self) -> tuple[str, ...]:
        entrypoint = self.worker.entrypoint
        if not entrypoint.sensitive_arguments:
            return ()
        return secrets_of(entrypoint, self.call, self.worker._workshop.service_cls)


def phase_of(worker: Worker) -> str:
    """Return ``waiting`` (for its start), ``running``, or ``closing`` (its dependencies)."""
    return {_WAITING: "waiting", _CLOSING: "closing"}.get(worker._state, "running")


def _cancelled(worker: Worker) -> Outcome:
    """Return the outcome of *worker*, which was cancelled."""
    if worker._cancelled_for is Ending.TIMED_OUT and worker._committed:
        return _timed_out(
            "the method returned in time, and its changes are committed; the middleware ran past "
            "the deadline and was cancelled"
        )
    if worker._cancelled_for is Ending.TIMED_OUT:
        return _timed_out("the method ran past its deadline and was cancelled")
    return Outcome(worker._cancelled_for or Ending.ABANDONED)


def _timed_out(why: str) -> Outcome:
    return Outcome(Ending.TIMED_OUT, error=RpcTimeout(why))


async def _exit(
    opened: list[AbstractAsyncContextManager[Any]], error: BaseException | None
) -> None:
    """Exit the dependencies *opened*, like nested ``async with`` blocks."""
    outermost = opened[0]
    if len(opened) > 1:  # most services have one dependency to close and need no stack
        outermost = stack = AsyncExitStack()
        for dependency in opened:
            stack.push_async_exit(dependency)
    if error is None:
        await outermost.__aexit__(None, None, None)
    else:
        await outermost.__aexit__(type(error), error, error.__traceback__)

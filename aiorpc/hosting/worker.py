"""
One worker: it runs one method, once, with its dependencies around it.

From the outside in: deadline, middleware, dependencies, method. The result is encoded while the
dependencies are open; they close before the outcome is settled: "ok" means committed.

A worker can be cancelled while it opens and runs. Once it closes (commit, roll back) it cannot, but
by a middleware with a timeout of its own: it is bounded by CLEANUP_TIMEOUT instead. Middleware then
goes on as before, under the deadline, and may begin anew; it hears then of what came meanwhile.
What a worker is cancelled for decides the outcome.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import inspect
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from time import monotonic
from typing import Any, Protocol

import msgspec

from ..call import Call, Handler
from ..context import FAR, current
from ..exceptions import ConfigurationError, RpcTimeout
from ..extensions import DependencyProvider, Ending, Entrypoint, Host, Outcome, WorkerContext
from ..from_thread import Bridge
from ..timers import Bucket, Timers

__all__ = ["Worker", "Workshop"]

log = logging.getLogger("aiorpc.worker")


class Workshop(Protocol):
    """What a worker needs of its container."""

    @property
    def host(self) -> Host: ...

    service_cls: type
    #: Whether there is middleware.
    wrapped: bool

    @property
    def ending(self) -> bool:
        """Whether it stops, or is cancelled, so that its tasks are cancelled by others than us."""
        ...

    #: Names of the methods that are coroutines; the others run in threads.
    coroutines: frozenset[str]
    values: list[DependencyProvider[Any]]
    lifetimes: list[DependencyProvider[Any]]
    cleanup_timeout: float
    timers: Timers

    def threads(self) -> Executor: ...
    def handler(self, worker: Worker) -> Handler: ...
    def finished(self, worker: Worker) -> None: ...


#: What no method returns.
_NOTHING = object()
#: Nobody takes the result of a worker that was cancelled for one of these.
_NOBODY_WAITS = (Ending.TIMED_OUT, Ending.WITHDRAWN)


class _State(enum.IntEnum):
    WAITING = 0
    #: It has a task, which has not taken its first step. A task cancelled then never takes it.
    STARTING = 1
    RUNNING = 2
    CLOSING = 3
    DONE = 4


# Looking up a member of an enumeration is no simple matter to Python 3.11.
_WAITING, _STARTING, _RUNNING, _CLOSING, _DONE = _State
_RETURNED = Ending.RETURNED


class Worker(msgspec.Struct, eq=False):
    """
    Runs ``entrypoint`` of a fresh service instance for ``call``; calls ``settle`` once.

    Attributes:
        seated: whether it has one of the container's ``max_workers`` places.
    """

    _workshop: Workshop
    entrypoint: Entrypoint
    call: Call
    _settle: Callable[[Outcome], None] | None
    _encode: Callable[[Any], Any] | None
    task: asyncio.Task[None] | None = None
    seated: bool = False
    _state: _State = _WAITING
    _cancelled_for: Ending | None = None
    #: What it would have been cancelled for while it closed; its middleware is.
    _owed: Ending | None = None
    _killed: bool = False
    #: Whether a handler of it runs: its dependencies open, are open, or close.
    _serving: bool = False
    #: Whether its method returned and its dependencies closed: what it did stands.
    _committed: bool = False
    #: Where its deadline stands until it has passed, or that of its closing.
    _deadlines: Bucket | None = None
    #: Whether its closing takes longer than CLEANUP_TIMEOUT.
    _overdue: bool = False
    _result: Any = _NOTHING
    _encoded: Any = None

    # Handles for the container and for who submitted the call

    def start(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Begin, in *context*. One whose deadline passed while it waited its turn does not run."""
        deadline = self.call.context.deadline
        if deadline is not None:
            if deadline.at <= monotonic():
                return self._finish(
                    self._timed_out("it waited for a free worker past its deadline")
                )
            self._deadlines = self._workshop.timers.add(deadline.at, self)
        self._state = _STARTING
        self.task = loop.create_task(self._run(), context=context)

    def withdraw(self) -> None:
        self.cancel(Ending.WITHDRAWN)

    def cancel(self, reason: Ending) -> None:
        """End it for *reason*, unless it is closing already: what is done then is done."""
        if self._state is _WAITING:
            self._finish(Outcome(reason))
        elif self._state in (_STARTING, _RUNNING) and self._cancelled_for is None:
            self._cancelled_for = reason
            if self._state is _RUNNING:
                assert self.task is not None
                self.task.cancel()
        elif self._state is _CLOSING and self._owed is None:
            self._owed = reason

    def kill(self) -> None:
        """End it whatever it does: the time for stopping is over."""
        self._killed = True
        if self._state is _CLOSING and self.task is not None:
            self.task.cancel()
        else:
            self.cancel(Ending.ABANDONED)
            if self.task is not None and self._state is _RUNNING:
                self.task.cancel()

    def expired(self) -> None:
        """Its deadline has passed, or the time that it has for closing."""
        self._deadlines = None
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
            self._finish(self._cancelled())
            return
        self._state = _RUNNING
        call = self.call
        current.set(call.context)
        foreign = False
        try:
            if self._workshop.wrapped:
                result = await self._workshop.handler(self)(call)
                if result is not self._result:  # a middleware answered, or changed the answer
                    self._encoded = self._encode(result) if self._encode else result
            elif self._workshop.lifetimes:
                await self.serve(call)
            else:  # what serve does, without its coroutine
                service = self._workshop.service_cls()
                if self._workshop.values:
                    self._provide(service, call)
                self._keep(await self._invoke(service, call))
            outcome = Outcome(_RETURNED, self._encoded)
        except asyncio.CancelledError as exc:
            task = self.task
            assert task is not None
            if self._cancelled_for is not None or self._killed:
                outcome = self._cancelled()
            elif task.cancelling() and self._workshop.ending:
                outcome, foreign = Outcome(Ending.ABANDONED), True
            else:  # the method raised it, or cancelled its own task: an error like others
                outcome = Outcome(Ending.RAISED, error=exc)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - a service's error ends its call only
            outcome = Outcome(Ending.RAISED, error=exc)
            if self._cancelled_for is not None:
                outcome = self._cancelled()
                log.warning("%s raised while it was cancelled: %r", call, exc)
        except BaseException as exc:
            self._finish(Outcome(Ending.RAISED, error=exc))
            raise
        self._finish(outcome)
        if foreign:
            raise asyncio.CancelledError

    async def serve(self, call: Call) -> Any:
        """The innermost handler: the dependencies, and the method inside them."""
        if self._cancelled_for is not None or self._killed:
            raise asyncio.CancelledError  # a middleware that was cancelled tries once more
        if self._serving:
            raise RuntimeError(
                f"{call}: a middleware called its handler while an earlier call of it still runs; "
                "await that first"
            )
        self._serving = True
        self._committed = False
        self._result = _NOTHING
        workshop = self._workshop
        opened: list[AbstractAsyncContextManager[Any]] = []
        error: BaseException | None = None
        result = None
        try:
            service = workshop.service_cls()
            worker_ctx = self._provide(service, call)
            attributes = service.__dict__
            for provider in workshop.lifetimes:
                dependency = provider.provide(worker_ctx)
                attributes[provider.attr_name] = await dependency.__aenter__()
                opened.append(dependency)
            result = self._keep(await self._invoke(service, call))
        except BaseException as exc:  # noqa: BLE001 - raised again below, whatever the dependencies do
            error = exc
        try:
            await self._close(opened, error)
            if error is not None:
                # A dependency that swallows the error does not turn it into a result.
                raise error
            self._committed = True
        finally:
            error = None  # no cycle of frame and traceback
            self._serving = False
            if workshop.wrapped:
                self._go_on()
        return result

    def _go_on(self) -> None:
        """The dependencies are closed, and middleware has the word again, until the deadline."""
        if self._state is _DONE:  # a handler that its middleware left behind
            return
        self._state = _RUNNING
        if self._owed is not None:
            self.cancel(self._owed)
        elif self._killed and self.task is not None:
            self.task.cancel()
        deadline = self.call.context.deadline
        if deadline is not None:
            self._deadlines = self._workshop.timers.add(deadline.at, self)

    def _provide(self, service: Any, call: Call) -> WorkerContext:
        """Give *service* what needs no closing."""
        worker_ctx = WorkerContext(self._workshop.host, self.entrypoint, service, call)
        attributes = service.__dict__
        for provider in self._workshop.values:
            attributes[provider.attr_name] = provider.value(worker_ctx)
        return worker_ctx

    def _keep(self, result: Any) -> Any:
        if self._cancelled_for in _NOBODY_WAITS:
            # It was cancelled and returned all the same. Nobody takes its result: roll back.
            raise asyncio.CancelledError
        self._result = result
        self._encoded = self._encode(result) if self._encode else result
        return result

    async def _close(
        self, opened: list[AbstractAsyncContextManager[Any]], error: BaseException | None
    ) -> None:
        """Commit or roll back: not to be cancelled, but bounded."""
        bound = self._workshop.cleanup_timeout
        if self._state is not _DONE:  # as it is where a middleware left its handler behind
            self._state = _CLOSING
        self._forget_deadline()
        if not opened:
            return
        # On the timer that all workers share; a scope of asyncio.timeout() has one of its own.
        self._overdue = False
        self._deadlines = self._workshop.timers.add(monotonic() + min(bound, FAR), self)
        try:
            await _leave(opened, error)
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
            self._forget_deadline()  # middleware around us may take its time
            if self._overdue and self.task is not None:
                self.task.uncancel()

    def _invoke(self, service: Any, call: Call) -> Awaitable[Any]:
        name = self.entrypoint.method_name
        method = getattr(service, name)
        if name in self._workshop.coroutines:
            result: Awaitable[Any] = method(*call.args, **call.kwargs)
            return result
        return self._invoke_in_thread(method, call)

    async def _invoke_in_thread(self, method: Callable[..., Any], call: Call) -> Any:
        """
        A thread cannot be cancelled. The caller is answered at once, but the dependencies stay open
        until the thread returns: closed before, they would be closed under its feet.
        """
        way_back = Bridge(asyncio.get_running_loop())
        job = self._workshop.threads().submit(
            way_back.for_thread(method, *call.args, **call.kwargs)
        )
        running = asyncio.wrap_future(job)
        cancelled: BaseException | None = None
        while not running.done():
            try:
                await asyncio.wait((running,))
            except asyncio.CancelledError as exc:
                cancelled = exc
                way_back.end()
                # Where no thread has begun it none will: nobody waits for it any more.
                if self._killed or job.cancel():
                    raise
                if self._cancelled_for is not None:
                    self._settle_now(self._cancelled())
        if cancelled is not None:
            running.exception()
            raise cancelled
        result = running.result()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigurationError(
                f"{call} is a sync method and returned an awaitable: make it `async def` and await"
            )
        return result

    # The end

    def _cancelled(self) -> Outcome:
        if self._cancelled_for is Ending.TIMED_OUT and self._committed:
            return self._timed_out(
                "the method returned in time, and what it did stands; the middleware around it ran "
                "past the deadline and was cancelled"
            )
        if self._cancelled_for is Ending.TIMED_OUT:
            return self._timed_out("the method ran past its deadline and was cancelled")
        return Outcome(self._cancelled_for or Ending.ABANDONED)

    def _timed_out(self, why: str) -> Outcome:
        return Outcome(Ending.TIMED_OUT, error=RpcTimeout(why))

    def _settle_now(self, outcome: Outcome) -> None:
        settle, self._settle = self._settle, None
        if settle is None:
            return
        try:
            settle(outcome)
        except Exception:
            log.exception("%s: its outcome could not be settled", self.call)

    def _finish(self, outcome: Outcome) -> None:
        self._state = _DONE
        if self._deadlines is not None:  # _forget_deadline, without the call
            self._deadlines.pop(self, None)
            self._deadlines = None
        self._settle_now(outcome)
        self._result = self._encoded = None
        self._encode = None  # whoever submitted it may hold it: no cycle of each call
        self._workshop.finished(self)
        if outcome.error is not None:
            self._log(outcome)  # last, since filters and handlers of the user's can fail

    def _forget_deadline(self) -> None:
        deadlines, self._deadlines = self._deadlines, None
        if deadlines is not None:
            deadlines.pop(self, None)

    def _log(self, outcome: Outcome) -> None:
        error = outcome.error
        call_id = self.call.context.call_id_stack[-1]
        if outcome.ending is Ending.TIMED_OUT:
            log.warning("%s: %s (call id %s)", self.call, error, call_id)
        elif isinstance(error, self.entrypoint.expected_exceptions):
            log.warning("%s raised an expected error: %r (call id %s)", self.call, error, call_id)
        else:
            log.error(
                "%s raised %s (call id %s)",
                self.call,
                type(error).__name__,
                call_id,
                exc_info=error,
            )


async def _leave(
    opened: list[AbstractAsyncContextManager[Any]], error: BaseException | None
) -> None:
    """Exit what was entered, as nested ``async with`` do."""
    outermost = opened[0]
    if len(opened) > 1:  # most services have one dependency that has to be closed
        outermost = stack = AsyncExitStack()
        for dependency in opened:
            stack.push_async_exit(dependency)
    if error is None:
        await outermost.__aexit__(None, None, None)
    else:
        await outermost.__aexit__(type(error), error, error.__traceback__)

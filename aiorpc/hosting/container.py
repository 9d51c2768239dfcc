"""
The container hosts one service class: it starts, runs and stops what the class declares.

All lifespans run in one task of its own, so entering and leaving the container works from any two
tasks (pytest fixtures, task groups). The order of stopping is the nesting, the innermost first:
request consumers, workers, reply consumers, lifespans, connection.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any, Self, TypeAlias, TypeVar

from ..call import Call, Handler, Middleware, compose
from ..config import Settings, resolve
from ..context import id_source
from ..exceptions import AioRpcError
from ..extensions import (
    Ending,
    Entrypoint,
    Host,
    Outcome,
    Submission,
    entrypoints_of,
    providers_of,
    service_name_of,
)
from ..timers import Timers
from ..transports import open_transport
from ..transports.base import Transport
from ..wire.protocol import Wire
from .discovery import Discoverable
from .health import Health, problems_of
from .worker import Worker

__all__ = ["ServiceContainer", "Submit"]

log = logging.getLogger("aiorpc.hosting")

T = TypeVar("T")
#: The shape of ``ServiceContainer.submit``.
Submit: TypeAlias = Callable[..., Submission]

#: Seconds between two warnings that a saturated service calls itself.
WARN_EVERY = 60.0


class ServiceContainer:
    """
    Hosts *service_cls*; it is the :class:`~aiorpc.extensions.Host` of what the class declares::

        async with ServiceContainer(ServiceX, config="amqp://localhost/"):
            ...

    Args:
        config: as for :class:`~aiorpc.ClusterRpcProxy`: a URL, a mapping, a path or Settings.
        transport: one that is connected already, and that the container does not close.
        middleware: wraps every call of every entrypoint; the first is the outermost.

    Raises:
        ConfigurationError: the class, what it declares or the configuration is wrong.
    """

    def __init__(
        self,
        service_cls: type,
        config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
        *,
        transport: Transport | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.service_cls = service_cls
        self.service_name = service_name_of(service_cls)
        self.settings = resolve(config)
        self.wire = Wire.of(self.settings)
        self.max_workers = self.settings.max_workers
        self.entrypoints = entrypoints_of(service_cls)
        self.providers = providers_of(service_cls)
        self.cleanup_timeout = self.settings.cleanup_timeout
        #: Set when the drain ran out of time and work was given back.
        self.overran = False
        self._given_transport = transport
        self._middleware = tuple(middleware)
        self.wrapped = bool(self._middleware)
        self._new_id = id_source()
        self._keep_ids = self.settings.parent_calls_tracked
        self._workers: set[Worker] = set()
        self._waiting: deque[Worker] = deque()
        self._running = 0
        self._seating = False
        self._idle: asyncio.Future[None] | None = None
        self._accepting = False
        #: Ready, and not told to stop yet.
        self._serving = False
        self._shared: dict[object, Any] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._executor: Executor | None = None
        self._life: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None]
        self._failure: BaseException | None = None
        self._warned_at = -WARN_EVERY
        self._sharing: dict[object, asyncio.Lock] = {}
        self._interceptors: list[Callable[[Submit], Submit]] = []

    # Life

    @property
    def started(self) -> bool:
        """Whether ``start`` was called: from then on what it hosts cannot be changed."""
        return self._life is not None

    async def start(self) -> None:
        """
        Return when every entrypoint is ready to fire.

        Raises:
            AioRpcError: it was stopped before.
            ConfigurationError: the broker, or an extension, will not have it so.
        """
        if self._life is not None:
            raise RuntimeError(f"{self!r} was started already; make another one")
        self._loop = loop = asyncio.get_running_loop()
        self.timers = Timers(loop)
        self._stopping = asyncio.Event()
        # Workers start in the context of who submits them, or frees a place for them: a call that
        # ends, say. What that has set in its context variables is not theirs to see.
        self._context = contextvars.copy_context()
        ready = self._ready = loop.create_future()
        self._life = loop.create_task(
            self._live(ready), name=f"aiorpc container {self.service_name}"
        )
        try:
            await asyncio.wait((self._life, ready), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._life.cancel()
            await asyncio.wait((self._life,))
            raise
        if not ready.done():
            # What fails right after it was ready is for ``wait`` to tell.
            ready.cancel()
            if self._life.cancelled():
                raise AioRpcError(f"{self.service_name} was stopped before it was ready")
            await self._life  # raises what went wrong

    async def stop(self) -> None:
        """Take no more work, finish that in hand (within SHUTDOWN_TIMEOUT), close. Idempotent."""
        if self._life is None or self._life.done():
            return
        self._check_loop()
        self._stopping.set()
        if not self._ready.done():  # it may wait for the broker, which may be away for long
            self._life.cancel()
        await asyncio.wait((self._life,))

    async def wait(self) -> None:
        """
        Return when the container has stopped.

        Raises:
            Exception: what made it fail, if it did.
        """
        assert self._life is not None, "start it first"
        if not self._life.done():
            self._check_loop()
            await asyncio.wait((self._life,))
        if not self._life.cancelled() and (error := self._life.exception()) is not None:
            raise error

    def _check_loop(self) -> None:
        """To wait for a task of another loop is to wait for ever."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                f"{self!r} was started in another event loop, and only there it can be waited for. "
                "With pytest-asyncio, give the fixture and the test the same loop scope"
            )

    def health(self) -> Health:
        """Whether it serves calls right now: red while it starts, stops, or cannot consume."""
        return Health.of(self._problems())

    def _problems(self) -> Iterator[str]:
        if not self._serving:
            yield f"{self.service_name} is not ready yet, or stops"
        else:
            yield from problems_of(self.transport)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, exc_type: object, exc: object, tb: object) -> None:
        await self.stop()
        if exc_type is None:
            await self.wait()

    async def _live(self, ready: asyncio.Future[None]) -> None:
        async with AsyncExitStack() as connection:
            connection.callback(self._say_stopped, ready)
            if self._given_transport is not None:
                self.transport = self._given_transport
            else:
                self.transport = open_transport(self.settings, name=self.service_name)
                connection.push_async_callback(self.transport.aclose)
                await self.transport.start()
            connection.callback(self._close_threads)
            connection.callback(self.timers.close)
            async with AsyncExitStack() as self._lifespans:
                self._bind()
                for provider in self.providers:
                    await self._lifespans.enter_async_context(provider.lifespan(self))
                try:
                    await self._listen(ready)
                finally:
                    await self._drain()
        if self._failure is not None:
            raise self._failure

    async def _listen(self, ready: asyncio.Future[None]) -> None:
        self._accepting = True
        async with AsyncExitStack() as listeners:
            listeners.push_async_callback(self._stop_background)
            discoverable = None
            if self.settings.discovery:
                # It begins first, so that the broker prepares for both at a time.
                discoverable = Discoverable(self, self.entrypoints)
                listeners.push_async_callback(discoverable.aclose)
            for kind, entrypoints in _in_turn(self.entrypoints):
                await listeners.enter_async_context(kind.listen_all(self, entrypoints))
            if discoverable is not None:
                await listeners.enter_async_context(discoverable.answering())
            log.info("%s", self._describe("ready"))
            if not ready.done():
                ready.set_result(None)
            self._serving = True
            try:
                await self._stopping.wait()
            finally:
                self._serving = False

    def _bind(self) -> None:
        self.coroutines = frozenset(
            entrypoint.method_name
            for entrypoint in self.entrypoints
            if inspect.iscoroutinefunction(getattr(self.service_cls, entrypoint.method_name))
        )
        self.values = [provider for provider in self.providers if not provider.has_lifetime]
        self.lifetimes = [provider for provider in self.providers if provider.has_lifetime]

    def _say_stopped(self, ready: asyncio.Future[None]) -> None:
        if ready.done() and not ready.cancelled():
            log.info("%s stopped", self.service_name)

    def _describe(self, state: str) -> str:
        methods = {entry.method_name for entry in self.entrypoints}
        queues = {name for entry in self.entrypoints if (name := entry.queue_name(self))}
        return (
            f"{self.service_name} {state}: methods {', '.join(sorted(methods)) or 'none'}; "
            f"queues {', '.join(sorted(queues)) or 'none'}; broker {self.transport.url}"
        )

    # What extensions ask of their host

    def submit(
        self,
        entrypoint: Entrypoint,
        call: Call,
        settle: Callable[[Outcome], None],
        encode: Callable[[Any], Any] | None = None,
    ) -> Worker:
        call_id = f"{self.service_name}.{entrypoint.method_name}.{self._new_id()}"
        context = call.context.entered(call_id, self._keep_ids)
        call = Call(
            call.service,
            call.method,
            call.args,
            call.kwargs,
            context,
            call.kind,
            call.redelivered,
        )
        worker = Worker(self, entrypoint, call, settle, encode)
        self._workers.add(worker)
        if not self._accepting:
            worker.cancel(Ending.ABANDONED)
        elif self._running < self.max_workers:
            self._running += 1
            worker.seated = True
            worker.start(self._loop, self._context.copy())
        else:
            self._waiting.append(worker)
            self._warn_of_deadlock(call)
        return worker

    async def work(self, entrypoint: Entrypoint, call: Call) -> Any:
        done: asyncio.Future[Outcome] = self._loop.create_future()
        worker = self.submit(entrypoint, call, done.set_result)
        try:
            outcome = await asyncio.shield(done)
        except asyncio.CancelledError:
            worker.withdraw()
            # Its dependencies close first: who cancels may rely on them.
            await asyncio.wait((done,), timeout=self.cleanup_timeout)
            raise
        if isinstance(outcome.error, Exception):
            raise outcome.error
        if outcome.error is not None:
            # A CancelledError or a SystemExit of the method's is not to cancel, or end, whom waits.
            error = outcome.error
            raise AioRpcError(f"{call} raised {type(error).__name__}({error})") from error
        if outcome.ending is not Ending.RETURNED:
            raise AioRpcError(f"{call} did not run to its end: {outcome.ending.value}")
        return outcome.value

    def intercept(self, interceptor: Callable[[Submit], Submit]) -> Callable[[], None]:
        """
        Put *interceptor* around ``submit``, the last one outermost; returns what takes it out
        again. For ``aiorpc.testing``. While there is none, ``submit`` is the plain method.
        """
        self._interceptors.append(interceptor)
        self._compose_submit()

        def remove() -> None:
            if interceptor in self._interceptors:
                self._interceptors.remove(interceptor)
                self._compose_submit()

        return remove

    def _compose_submit(self) -> None:
        vars(self).pop("submit", None)
        submit: Submit = self.submit
        for interceptor in self._interceptors:
            submit = interceptor(submit)
        if self._interceptors:
            vars(self)["submit"] = submit

    def spawn(self, background: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(background, name=name)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    async def share(self, key: object, opener: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        async with self._sharing.setdefault(key, asyncio.Lock()):
            if key not in self._shared:
                self._shared[key] = await self._lifespans.enter_async_context(opener())
        value: T = self._shared[key]
        return value

    # What workers ask of their container

    @property
    def host(self) -> Host:
        return self

    @property
    def ending(self) -> bool:
        return not self._accepting or (self._life is not None and self._life.cancelling() > 0)

    def handler(self, worker: Worker) -> Handler:
        return compose(self._middleware, worker.serve) if self._middleware else worker.serve

    def threads(self) -> Executor:
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor  # for sync methods alone

            self._executor = ThreadPoolExecutor(
                self.settings.sync_threads,
                thread_name_prefix=f"aiorpc-{self.service_name}",
            )
        return self._executor

    def finished(self, worker: Worker) -> None:
        self._workers.discard(worker)
        if not worker.seated:
            with suppress(ValueError):
                self._waiting.remove(worker)
            return
        self._running -= 1
        if self._waiting and not self._seating:
            self._seat_waiting()
        if not self._running and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _seat_waiting(self) -> None:
        # One that came too late finishes inside ``start``: no recursion for a row of those.
        self._seating = True
        try:
            while self._waiting and self._running < self.max_workers:
                worker = self._waiting.popleft()
                self._running += 1
                worker.seated = True
                worker.start(self._loop, self._context.copy())
        finally:
            self._seating = False

    # Stopping

    async def _drain(self) -> None:
        """Give back what has not begun, wait for what has; past the bound, cancel it."""
        self._accepting = False
        for worker in list(self._waiting):
            worker.cancel(Ending.ABANDONED)
        ends_at = self._loop.time() + self.settings.shutdown_timeout
        if not await self._wait_until_idle(self.settings.shutdown_timeout):
            left = [worker for worker in self._workers if worker.task is not None]
            self.overran = True
            log.error(
                "%s: %d call(s) still ran after %g s (SHUTDOWN_TIMEOUT); they are cancelled and go "
                "back to their queues: %s",
                self.service_name,
                len(left),
                self.settings.shutdown_timeout,
                ", ".join(sorted({str(worker.call) for worker in left})),
            )
            for worker in left:
                worker.kill()
            if not await self._wait_until_idle(self.cleanup_timeout):
                log.error("%s: %d call(s) resisted", self.service_name, self._running)
        await self._send_what_is_owed(max(0.0, ends_at - self._loop.time()))

    async def _send_what_is_owed(self, timeout: float) -> None:
        """While disconnected: the replies that wait are reason enough to connect once more."""
        if not await self.transport.caught_up(timeout):
            log.warning(
                "%s: %d message(s), such as replies, could not be sent to %s any more; the broker "
                "has the requests of such replies still, and gives them to others",
                self.service_name,
                self.transport.waiting,
                self.transport.url,
            )

    async def _wait_until_idle(self, timeout: float) -> bool:
        if not self._running:
            return True
        self._idle = self._loop.create_future()
        await asyncio.wait((self._idle,), timeout=timeout)
        return self._idle.done()

    async def _stop_background(self) -> None:
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self.cleanup_timeout)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %s failed: the service stops", self.service_name, task.get_name())
            self._failure = self._failure or error
            self._stopping.set()

    def _close_threads(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _warn_of_deadlock(self, call: Call) -> None:
        """All workers busy, and one of them may be waiting for this very call: rule 9."""
        now = self._loop.time()
        own = f"{self.service_name}."
        if now - self._warned_at >= WARN_EVERY and any(
            call_id.startswith(own) for call_id in call.context.call_id_stack[:-1]
        ):
            self._warned_at = now
            log.warning(
                "%s is saturated (%d workers, all busy) and calls itself: %s waits for a worker "
                "that may be waiting for it. Raise max_workers, or call the method directly",
                self.service_name,
                self.max_workers,
                call,
            )

    def __repr__(self) -> str:
        return f"<ServiceContainer [{self.service_name}]>"


def _in_turn(
    entrypoints: Sequence[Entrypoint],
) -> Iterator[tuple[type[Entrypoint], list[Entrypoint]]]:
    """
    Those that listen together, with the class that says how: a subclass of ``Rpc`` beside plain
    ones must not be a second consumer of the one queue, to which half of the methods are unknown.
    Those that fire unprompted come last: what they call, and whom they tell, may be this service.
    """
    for unprompted in (False, True):
        kinds: dict[type[Entrypoint], list[Entrypoint]] = {}
        for entrypoint in entrypoints:
            if entrypoint.unprompted is unprompted:
                kind = next(cls for cls in type(entrypoint).__mro__ if "listen_all" in vars(cls))
                kinds.setdefault(kind, []).append(entrypoint)
        yield from kinds.items()

"""
The container hosts one service class: it starts, runs and stops the entrypoints and dependencies of
the class. Awaits the transport and the extensions; no other I/O.

One task runs all lifespans, so one task may enter the container and another may leave it (pytest
fixtures, task groups). The container stops these parts in this order: request consumers, workers,
reply consumers, lifespans, connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

from ..call import Middleware
from ..checks import check_middleware
from ..config import Settings, resolve
from ..exceptions import AioRpcError, ConfigurationError
from ..extensions import Entrypoint, entrypoints_of, providers_of, service_name_of
from ..installed import middleware_of
from ..logs import logger
from ..timers import Timers
from ..transports import open_transport
from ..transports.base import State, Transport
from ..transports.health import Health, problems_of
from ..wire.message import name_fault
from ..wire.protocol import Wire
from .background import Background
from .counts import Ledger
from .discovery.answering import Discoverable
from .discovery.reporting import Reports
from .patience import Patience
from .pool import Pool, waiting_in
from .sharing import Shared
from .unawaited import reporting_unawaited
from .worker import Worker
from .workshop import Workshop

__all__ = ["ServiceContainer"]

log = logger("aiorpc.hosting")

T = TypeVar("T")


class ServiceContainer:
    """
    Hosts *service_cls*, and is the :class:`~aiorpc.extensions.Host` of the class's extensions::

        async with ServiceContainer(ServiceX, config="amqp://localhost/"):
            ...

    Args:
        config: a URL, a mapping, a path or Settings, as for :class:`~aiorpc.ClusterRpcProxy`.
        transport: a connected transport; the container does not close it.
        middleware: wraps every call of every entrypoint, inside the middleware of *config*; the
            first is the outermost.

    Raises:
        ConfigurationError: the class, one of its extensions or the configuration is wrong.
    """

    _connect_timeout: ClassVar[float | None] = None  # seconds; limited in aiorpc.testing

    def __init__(
        self,
        service_cls: type,
        config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
        *,
        transport: Transport | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.service_cls = service_cls
        self.service_name = _hosted_name(service_cls)
        self.settings = resolve(config)
        self.wire = Wire.of(self.settings)
        self.max_workers = self.settings.max_workers
        self.entrypoints = entrypoints_of(service_cls)
        self.providers = providers_of(service_cls)
        self._given_transport = transport
        check_middleware("ServiceContainer()", middleware)
        self._middleware = (*middleware_of(self.settings), *middleware)
        self._pool = pool = Pool(self.service_name, self.settings)
        self._ledger = ledger = Ledger(lambda: pool.workers, lambda: waiting_in(pool))
        self.activity, self.reset_counts = ledger.activity, ledger.reset
        self.new_call, self.submit = pool.new_call, pool.submit
        self.refuse, self.work = pool.refuse, pool.work
        #: For ``aiorpc.testing``.
        self.intercept, self.interceptors = pool.intercept, pool.interceptors
        #: The runner makes it patient.
        self.patience = Patience(self.service_name)
        self._background = Background(self.settings.cleanup_timeout, self._background_failed)
        self.spawn = self._background.spawn
        self._failure: BaseException | None = None
        self._grace = self.settings.shutdown_timeout  # seconds, for the running calls
        self._life: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None]
        #: Whether the container is ready and has not begun to stop.
        self._serving = False

    # Life

    @property
    def started(self) -> bool:
        """Whether ``start`` was called. Then tests can no longer replace its extensions."""
        return self._life is not None

    @property
    def overran(self) -> bool:
        """Whether running calls exceeded SHUTDOWN_TIMEOUT and were abandoned."""
        return self._pool.overran

    @property
    def queues(self) -> list[str]:
        """The sorted names of the queues that the entrypoints consume."""
        return sorted({name for entry in self.entrypoints if (name := entry.queue_name(self))})

    @property
    def running(self) -> int:
        """The number of running workers."""
        return len(self._pool.workers)

    @property
    def workers(self) -> list[Worker]:
        """The running workers. Any thread may ask."""
        return self._pool.workers

    async def start(self) -> None:
        """
        Return when every entrypoint is ready.

        Raises:
            AioRpcError: the container was stopped before it was ready.
            ConfigurationError: the broker or an extension refuses the configuration.
        """
        if self._life is not None:
            raise RuntimeError(f"{self!r} was started already; make a new container")
        self._loop = loop = asyncio.get_running_loop()
        self._timers = Timers(loop)
        self._workshop = Workshop(
            *(self, self.entrypoints, self.providers, self._middleware, self._timers, self._ledger),
            self._stops,
        )
        self._pool.open(self._workshop, self.entrypoints)
        self._stopping = asyncio.Event()
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
            ready.cancel()
            if self._life.cancelled():
                raise AioRpcError(f"{self.service_name} was stopped before it was ready")
            await self._life  # raises the error of the start
        # If the service fails later, `wait` raises the error.

    async def stop(self) -> None:
        """Finish the running calls within SHUTDOWN_TIMEOUT, and close. Idempotent."""
        if self._life is None or self._life.done():
            return
        self._check_loop()
        self._stopping.set()
        if not self._ready.done():  # it may wait long for an unreachable broker
            self._life.cancel()
        await asyncio.wait((self._life,))

    async def kill(self) -> None:
        """Cancel the running calls, requeue their messages, and close. Idempotent."""
        if self.started and not self.overran:
            self._grace = 0.0
            self._pool.end_drain()
        await self.stop()

    async def wait(self) -> None:
        """
        Return when the container has stopped.

        Raises:
            Exception: the error that made the container fail.
        """
        assert self._life is not None, "start it first"
        if not self._life.done():
            self._check_loop()
            await asyncio.wait((self._life,))
        if not self._life.cancelled() and (error := self._life.exception()) is not None:
            raise error

    def _check_loop(self) -> None:
        """Refuse a wait in another event loop, which would never end."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                f"{self!r} was started in another event loop; stop it and wait for it only there. "
                "With pytest-asyncio, give the fixture and the test the same loop scope"
            )

    def health(self) -> Health:
        """Whether the container serves calls: red while it starts, stops, or cannot consume."""
        return Health.of(problems_of(self.transport) if self._serving else _not_serving(self))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, exc_type: object, exc: object, tb: object) -> None:
        await self.stop()
        if exc_type is None:
            await self.wait()

    async def _live(self, ready: asyncio.Future[None]) -> None:
        async with AsyncExitStack() as connection:
            connection.callback(self._log_stopped, ready)
            connection.enter_context(reporting_unawaited())
            if self._given_transport is not None:
                self.transport = self._given_transport
            else:
                self.transport = open_transport(self.settings, name=self.service_name)
                connection.push_async_callback(self.transport.aclose)
                await self.transport.start(self._connect_timeout, patient=self.patience.patient)
            connection.callback(self._workshop.threads.close)
            connection.callback(self._timers.close)
            async with AsyncExitStack() as lifespans:
                self._shared = Shared(lifespans)
                for provider in self.providers:
                    open_ = partial(self._shared.open, partial(provider.lifespan, self))
                    await self.patience.wait_out(open_)
                try:
                    await self._listen(ready)
                finally:
                    await self._drain()
        if self._failure is not None:
            raise self._failure

    async def _listen(self, ready: asyncio.Future[None]) -> None:
        self._pool.accepting = True
        async with AsyncExitStack() as listeners:
            listeners.push_async_callback(self._background.stop)
            discoverable = None
            if self.settings.discovery:
                # First, so that the broker makes its queue and the entrypoints' queues at once.
                reports = Reports(self, self.entrypoints, self._pool, self._workshop)
                discoverable = Discoverable(self, reports)
                listeners.push_async_callback(discoverable.aclose)
            for kind, entrypoints in _in_turn(self.entrypoints):
                listen = partial(kind.listen_all, self, entrypoints)
                await self.patience.wait_out(partial(self._shared.open, listen, listeners))
            if discoverable is not None:
                await listeners.enter_async_context(discoverable.answering())
            self._log_ready()
            if not ready.done():
                ready.set_result(None)
            self._serving = True
            try:
                await self._stopping.wait()
            finally:
                self._serving = False

    async def _drain(self) -> None:
        ends_at = self._loop.time() + self._grace
        await self._pool.drain(self._grace)
        await self._background.settle(max(0.0, ends_at - self._loop.time()))
        await _send_the_rest(self, max(0.0, ends_at - self._loop.time()))
        await self._background.close()  # such as answers that the broker refuses

    def _stops(self) -> bool:
        return not self._pool.accepting or (self._life is not None and self._life.cancelling() > 0)

    def _log_stopped(self, ready: asyncio.Future[None]) -> None:
        if ready.done() and not ready.cancelled():
            log.info("%s stopped", self.service_name)

    def _log_ready(self) -> None:
        methods = ", ".join(sorted({_named(entry, self) for entry in self.entrypoints})) or "none"
        queues = ", ".join(self.queues) or "none"
        text = "%s ready: methods %s; queues %s; broker %s"
        log.info(text, self.service_name, methods, queues, self.transport.url)

    # The methods of Host

    def _background_failed(self, name: str, error: BaseException) -> None:
        log.error("%s: %s failed: the service stops", self.service_name, name)
        self._failure = self._failure or error
        self._stopping.set()

    async def share(self, key: object, opener: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        return await self._shared.share(key, opener)

    def __repr__(self) -> str:
        return f"<ServiceContainer [{self.service_name}]>"


def _named(entrypoint: Entrypoint, host: ServiceContainer) -> str:
    route = entrypoint.route(host)
    return f"{entrypoint.method_name} ({route})" if route else entrypoint.method_name


def _not_serving(container: ServiceContainer) -> Iterator[str]:
    yield f"{container.service_name} is not ready yet, or is stopping"
    if container.patience.trouble:
        yield container.patience.trouble
    transport = getattr(container, "transport", container._given_transport)
    if transport is not None and transport.state is State.CONNECTING:
        yield transport.condition()


async def _send_the_rest(container: ServiceContainer, timeout: float) -> None:
    """Send waiting replies. If the connection is lost, connect once more to send them."""
    transport = container.transport
    if not await transport.caught_up(timeout):
        log.warning(
            "%s: %d message(s), such as replies, could not be sent to %s before the stop; the "
            "broker still has the requests of these replies, and delivers them again",
            container.service_name,
            transport.waiting,
            transport.url,
        )


def _in_turn(
    entrypoints: Sequence[Entrypoint],
) -> Iterator[tuple[type[Entrypoint], list[Entrypoint]]]:
    """
    Yield the entrypoints that listen together, with the class whose ``listen_all`` starts them.

    ``Rpc`` and its subclasses share one consumer: with two consumers on the queue, each would get
    requests for methods of the other. Timers and other unprompted entrypoints start last, because
    they may call this service.
    """
    for unprompted in (False, True):
        kinds: dict[type[Entrypoint], list[Entrypoint]] = {}
        for entrypoint in entrypoints:
            if entrypoint.unprompted is unprompted:
                kind = next(cls for cls in type(entrypoint).__mro__ if "listen_all" in vars(cls))
                kinds.setdefault(kind, []).append(entrypoint)
        for kind, together in kinds.items():
            if kind is Entrypoint:  # each listens by itself, and waits by itself for permissions
                yield from ((kind, [each]) for each in together)
            else:
                yield kind, together


def _hosted_name(service_cls: type) -> str:
    """
    Return the name of *service_cls*.

    Raises:
        ConfigurationError: the class has no name, or AMQP cannot carry the name, or its queue would
            take the requests of other services.
    """
    name = service_name_of(service_cls)
    fault = name_fault(name)
    if {"*", "#"} & set(name.split(".")):
        fault = "would take the requests of other services, because * and # match any word"
    if fault:
        raise ConfigurationError(
            f"the name {name[:60]!r} of {service_cls.__qualname__} {fault}: give the service "
            "another name"
        )
    return name

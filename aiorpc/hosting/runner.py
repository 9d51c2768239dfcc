"""
The runner hosts several services in one process, on one connection, until a signal stops it. Awaits
containers and the transport; installs signal handlers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any, ClassVar, Protocol, Self, cast

from ..call import Middleware
from ..checks import check_middleware
from ..config import Settings, resolve
from ..exceptions import ConfigurationError
from ..extensions import hosted_class, service_name_of
from ..logs import logger
from ..transports import open_transport
from ..transports.health import Health
from .container import ServiceContainer
from .vitals import Vitals

__all__ = ["ServiceRunner", "run_until_signal", "serve"]

log = logger("aiorpc.hosting")

#: Seconds to wait for the broker with ``fail_fast``.
FAIL_WITHIN = 5.0
#: Seconds to wait for the last log line before a second signal ends the process.
LAST_WORDS = 1.0


class Hosted(Protocol):
    """An object that a runner hosts, such as ``aiorpc.http.Gateway``."""

    def __aiorpc_service__(self) -> type:
        """Return the service class to host."""
        ...


class ServiceRunner:
    """
    Hosts *services*, classes or gateways, on one connection::

        async with ServiceRunner(ServiceX, ServiceY, config=config):
            ...

    At the start, the runner waits for the broker, and for everything that the broker may permit
    later: the vhost, a permission of the user, a queue that others declare. With *fail_fast*, it
    raises the error.

    If one service fails, the runner stops all services. The end of the block raises the error;
    inside the block, ``wait`` raises it.

    Attributes:
        vitals: the report for probes; :func:`serve` and ``aiorpc run`` also let it watch the loop.
    """

    _container: ClassVar[type[ServiceContainer]] = ServiceContainer
    #: Seconds; ``aiorpc.testing`` limits it.
    _connect_timeout: ClassVar[float | None] = None

    def __init__(
        self,
        *services: type | Hosted,
        config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
        middleware: Sequence[Middleware] = (),
        fail_fast: bool = False,
    ) -> None:
        # A class that occurs twice is hosted once.
        classes = [hosted_class(each) or cast("type", each) for each in dict.fromkeys(services)]
        if not classes:
            raise ConfigurationError("a ServiceRunner needs at least one service class")
        self.settings = settings = resolve(config)
        for service in classes:
            service_name_of(service)
        check_middleware("ServiceRunner()", middleware)
        name = classes[0].__name__ if len(classes) == 1 else f"{len(classes)} services"
        self._transport = open_transport(settings, name=f"aiorpc {name}")
        self.containers: list[ServiceContainer] = [
            self._container(service, settings, transport=self._transport, middleware=middleware)
            for service in classes
        ]
        self._fail_fast = fail_fast
        for container in self.containers:
            container.patience.patient = not fail_fast
        # Two gateways get no calls. The web server refuses them on one address.
        called = (c for c in self.containers if any(e.starts_calls for e in c.entrypoints))
        names = [container.service_name for container in called]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigurationError(
                f"two services of one runner are named {', '.join(map(repr, doubled))}: they would "
                "get each other's calls; rename one"
            )
        self.vitals = Vitals(settings, self.containers, lambda: self.health().problems)
        self._stack = AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
        self._closing_since = 0.0
        self._started = False

    @property
    def overran(self) -> bool:
        """Whether running calls exceeded SHUTDOWN_TIMEOUT and were abandoned."""
        return any(container.overran for container in self.containers)

    @property
    def stopping_for(self) -> float:
        """Seconds since the runner began to stop; 0 if it is not stopping."""
        return 0.0 if self._closing is None else time.monotonic() - self._closing_since

    async def start(self) -> None:
        """
        Connect and return when every service is ready.

        Raises:
            ConfigurationError: a service is wrong, or the broker refuses the configuration.
            ConnectionLost: with ``fail_fast``, no broker answers within 5 s.
        """
        if self._started:
            raise RuntimeError("this ServiceRunner was started already; make a new one")
        self._started = True
        self._stack.push_async_callback(self._transport.aclose)
        try:
            timeout = self._connect_timeout
            if timeout is None and self._fail_fast:
                timeout = FAIL_WITHIN
            await self._transport.start(timeout, patient=not self._fail_fast)
            self._stack.push_async_callback(self._stop_containers)
            waiting_for = set(self.containers)
            all_ready = asyncio.Event()
            async with asyncio.TaskGroup() as starting:
                for container in self.containers:
                    starting.create_task(_start(container, waiting_for, all_ready))
            watching = asyncio.create_task(self._watch(), name="aiorpc: watch services")
            self._stack.push_async_callback(_cancelled, watching)
        except BaseExceptionGroup as group:
            await self.stop()
            raise group.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """
        Stop all containers, then close the connection.

        Idempotent: every caller waits until all containers have stopped. If one caller is
        cancelled, the stop continues. Before ``start``, this method does nothing.
        """
        if self._started:
            await asyncio.shield(self._begin_to_stop())

    async def kill(self) -> None:
        """Stop like :meth:`stop`, but cancel the running calls and requeue their messages."""
        await asyncio.gather(*(container.kill() for container in self.containers))
        await self.stop()

    def _begin_to_stop(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing_since = time.monotonic()
            self._closing = asyncio.create_task(self._stack.aclose(), name="aiorpc: stop services")
        return self._closing

    async def wait(self) -> None:
        """Return when a service has stopped. If the service failed, raise its error."""
        await self._wait(asyncio.FIRST_COMPLETED)

    async def _watch(self) -> None:
        """Stop all services when one fails, but not when one is stopped without an error."""
        try:
            await self._wait(asyncio.FIRST_EXCEPTION)
        except Exception:  # noqa: BLE001 - wait() and the end of the block raise it
            self._begin_to_stop()

    async def _wait(self, return_when: str) -> None:
        waiting = [asyncio.ensure_future(container.wait()) for container in self.containers]
        try:
            await asyncio.wait(waiting, return_when=return_when)
            for task in waiting:
                if task.done():
                    task.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def health(self) -> Health:
        """Whether all services serve calls."""
        return Health.of(
            problem for container in self.containers for problem in container.health().problems
        )

    async def _stop_containers(self) -> None:
        await asyncio.gather(*(container.stop() for container in self.containers))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, exc_type: object, exc: object, tb: object) -> None:
        await self.stop()
        if exc_type is None:
            for container in self.containers:
                await container.wait()


async def _start(
    container: ServiceContainer, waiting_for: set[ServiceContainer], all_ready: asyncio.Event
) -> None:
    """
    Start *container*, which leaves *waiting_for*, and wait until all are ready: the others may wait
    for long. Raise the error of *container* if it fails meanwhile.
    """
    await container.start()
    waiting_for.discard(container)
    if not waiting_for:
        all_ready.set()
    either = [asyncio.ensure_future(each) for each in (container.wait(), all_ready.wait())]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if either[0].done():
            either[0].result()
    finally:
        for each in either:
            each.cancel()
        await asyncio.gather(*either, return_exceptions=True)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


async def serve(
    *services: type,
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
    middleware: Sequence[Middleware] = (),
    fail_fast: bool = False,
) -> int:
    """
    Host *services* until SIGTERM or SIGINT, then finish their calls (within SHUTDOWN_TIMEOUT). A
    second signal ends the process at once; other instances get its unacked messages.

    At the start, wait for everything that the broker may permit later, unless *fail_fast*; see
    :class:`ServiceRunner`.

    Returns:
        the exit status: 0, or 1 if calls exceeded SHUTDOWN_TIMEOUT and were abandoned.

    Raises:
        ConfigurationError: a service or the configuration is wrong, or the broker refuses one.
        Exception: the error of a service that failed.
    """
    runner = ServiceRunner(*services, config=config, middleware=middleware, fail_fast=fail_fast)
    return await run_until_signal(runner)


async def run_until_signal(runner: ServiceRunner) -> int:
    """Like :func:`serve`, for a *runner* that has not started."""
    with _signals_heard(runner) as stop, runner.vitals.watching():
        starting = asyncio.ensure_future(runner.start())
        try:
            await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                with suppress(asyncio.CancelledError):
                    await starting
                return 1 if runner.overran else 0
            await starting
            failing = asyncio.ensure_future(runner.wait())
            await asyncio.wait((failing, stop), return_when=asyncio.FIRST_COMPLETED)
            await runner.stop()
            if not failing.done():
                await asyncio.wait((failing,))
            failing.result()
        finally:
            if not starting.done():  # this coroutine was cancelled, for example by wait_for()
                starting.cancel()
                await asyncio.wait((starting,))
            await runner.stop()
        return 1 if runner.overran else 0


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def _signals_heard(runner: ServiceRunner) -> Iterator[asyncio.Future[None]]:
    """
    Handle signals inside the block: the first signal completes the future, which stops *runner*;
    the second signal ends the process. The end of the block restores the earlier handlers.

    We use Python's signal handlers, because the loop's handlers do not run while the loop is
    blocked. Then users send the second signal.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()
    heard: list[int] = []

    def tell(name: str) -> None:
        log.info(
            "%s: finishing the running calls (%d) within %g s; "
            "a second signal ends the process at once",
            name,
            sum(container.running for container in runner.containers),
            runner.settings.shutdown_timeout,
        )
        if not stop.done():
            stop.set_result(None)

    def on_signal(signum: int, frame: object) -> None:
        heard.append(signum)
        if len(heard) > 1:
            _end_at_once(signum)
            return
        loop.call_soon_threadsafe(tell, signal.Signals(signum).name)

    before = {}
    with suppress(ValueError):  # only the main thread can handle signals
        for signum in _SIGNALS:
            before[signum] = signal.signal(signum, on_signal)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            if handler is not None:  # None: code outside Python installed it
                signal.signal(signum, handler)


def _end_at_once(signum: int) -> None:
    """
    End the process in at most LAST_WORDS, from another thread. The main thread goes on until then,
    because it may hold a lock that logging needs.
    """

    def tell() -> None:
        log.warning("%s again: ending at once", signal.Signals(signum).name)
        logging.shutdown()

    def end() -> None:
        try:
            telling = threading.Thread(target=tell, daemon=True)
            telling.start()
            telling.join(LAST_WORDS)
        finally:
            os._exit(128 + signum)

    try:
        threading.Thread(target=end, daemon=True).start()
    except RuntimeError:  # no thread can start any more
        os._exit(128 + signum)

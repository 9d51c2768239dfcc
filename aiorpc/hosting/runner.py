"""One process: a runner hosts several services on one connection, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

from ..call import Middleware
from ..config import Settings, resolve
from ..exceptions import ConfigurationError
from ..transports import open_transport
from .container import ServiceContainer
from .health import Health

__all__ = ["ServiceRunner", "serve"]

log = logging.getLogger("aiorpc.hosting")


class ServiceRunner:
    """
    Hosts *services* on one connection::

        async with ServiceRunner(ServiceX, ServiceY, config=config):
            ...

    The failure of one service stops all of them, and is raised where the block ends.
    """

    def __init__(
        self,
        *services: type,
        config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        if not services:
            raise ConfigurationError("a ServiceRunner needs at least one service class")
        self.settings = settings = resolve(config)
        name = services[0].__name__ if len(services) == 1 else f"{len(services)} services"
        self._transport = open_transport(settings, name=f"aiorpc {name}")
        self.containers = [
            ServiceContainer(service, settings, transport=self._transport, middleware=middleware)
            for service in services
        ]
        names = [container.service_name for container in self.containers]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigurationError(
                f"two services of one runner are named {', '.join(map(repr, doubled))}: they would "
                "take one another's calls"
            )
        self._stack = AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
        self._started = False

    @property
    def overran(self) -> bool:
        """Whether a drain ran out of time, and work was given back."""
        return any(container.overran for container in self.containers)

    async def start(self) -> None:
        """Connect, waiting for the broker if need be, and return when every service is ready."""
        if self._started:
            raise RuntimeError("this ServiceRunner was started already; make another one")
        self._started = True
        self._stack.push_async_callback(self._transport.aclose)
        try:
            await self._transport.start()
            self._stack.push_async_callback(self._stop_containers)
            async with asyncio.TaskGroup() as starting:
                for container in self.containers:
                    starting.create_task(container.start())
        except BaseExceptionGroup as group:
            await self.stop()
            raise group.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """
        Stop all services, each as its container does, then hang up. Idempotent: whoever calls it
        waits for the end, and who stops waiting does not stop it.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._stack.aclose(), name="aiorpc: stop services")
        await asyncio.shield(self._closing)

    async def wait(self) -> None:
        """Return when a service has stopped; raise what made it fail."""
        waiting = [asyncio.ensure_future(container.wait()) for container in self.containers]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                if task.done():
                    task.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def health(self) -> Health:
        """Whether all of its services serve calls right now."""
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


async def serve(
    *services: type,
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
    middleware: Sequence[Middleware] = (),
) -> int:
    """
    Host *services* until SIGTERM or SIGINT; then drain (SHUTDOWN_TIMEOUT bounds it). A second
    signal ends the process at once; the broker gives its calls to others.

    Returns:
        0 for the exit status, or 1 if the drain ran out of time and work was given back.

    Raises:
        ConfigurationError: a service or the configuration is wrong, or the broker refuses us.
        Exception: what made a service fail.
    """
    runner = ServiceRunner(*services, config=config, middleware=middleware)
    stop = _stop_on_signals()
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
        if not starting.done():  # we were cancelled, by wait_for() say
            starting.cancel()
            await asyncio.wait((starting,))
        await runner.stop()
        _forget_signals()
    return 1 if runner.overran else 0


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _stop_on_signals() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def on_signal(signum: signal.Signals) -> None:
        if stop.done():
            log.warning("%s again: ending at once", signum.name)
            logging.shutdown()
            os._exit(128 + signum)
        log.info("%s: finishing the calls in hand", signum.name)
        stop.set_result(None)

    for signum in _SIGNALS:
        with suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(signum, on_signal, signum)
    return stop


def _forget_signals() -> None:
    loop = asyncio.get_running_loop()
    for signum in _SIGNALS:
        with suppress(NotImplementedError, ValueError, RuntimeError):
            loop.remove_signal_handler(signum)

"""
What is behind the fixtures ``container_factory`` and ``runner_factory``: the containers and runners
of one test, the broker they are on, and what they leave there.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from ..calling.standalone import CONNECT_TIMEOUT
from ..config import Settings, parse_broker_urls, resolve
from ..exceptions import ConfigurationError
from ..hosting.container import ServiceContainer
from ..hosting.runner import ServiceRunner
from ..transports import open_transport

__all__ = ["Config", "Hosts"]

Config: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Settings | None"


class Hosts:
    """
    Containers and runners of one test.

    Args:
        config: what they have for a configuration unless told otherwise.
        amqp_uri: the broker for tests, on which nothing of theirs is kept. There may be services at
            work on any other, so there no queue is deleted.
    """

    def __init__(self, config: Mapping[str, Any], amqp_uri: str) -> None:
        self._config = config
        self._amqp_uri = amqp_uri
        self._made: list[_Container | _Runner] = []

    def container(
        self, service_cls: type, config: Config = None, **options: Any
    ) -> ServiceContainer:
        container = _Container(service_cls, self._resolved(config), **options)
        self._made.append(container)
        return container

    def runner(self, *services: type, config: Config = None, **options: Any) -> ServiceRunner:
        if others := [service for service in services if not isinstance(service, type)]:
            raise ConfigurationError(
                f"runner_factory takes service classes, got {type(others[0]).__name__}; the "
                "configuration is that of the test, and one of its own goes in config="
            )
        runner = _Runner(*services, config=self._resolved(config), **options)
        self._made.append(runner)
        return runner

    def _resolved(self, config: Config) -> Config:
        """
        What a test writes down itself, a mapping or a URL, wins over the configuration of the
        fixtures. Over a file, or what was read from one, that configuration wins: a file is what
        production has too, and a test must not consume there because it wanted the other keys.
        """
        match config:
            case None:
                return self._config
            case Mapping():
                return {**self._config, **config}
            case str() if "://" in config:
                return {**self._config, "AMQP_URI": config}
        # How its broker is spoken to goes with its broker.
        ours = {"AMQP_SSL": None, "LOGIN_METHOD": None, **self._config}
        return resolve(config).with_defines(ours, "aiorpc_config")

    async def stop(self) -> None:
        """
        Stop what still runs, and leave no messages to the next test.

        Raises:
            Exception: what made a service fail, if no test was told; an ``ExceptionGroup`` of
                several. All are stopped by then, and their queues deleted.
        """
        failures: list[Exception] = []
        steps = [host.stop for host in reversed(self._made)]
        steps += [container.tell for container in self._containers()]
        for step in (*steps, self._delete_queues):
            try:
                await step()
            except Exception as exc:  # noqa: BLE001 - raised below
                failures.append(exc)
        if len(failures) > 1:
            raise ExceptionGroup("services failed during the test", failures)
        if failures:
            raise failures[0]

    async def _delete_queues(self) -> None:
        left = [
            container
            for container in self._containers()
            if container.started and self._is_for_tests(container.settings)
        ]
        if left:
            transport = open_transport(left[0].settings, name="aiorpc tests")
            try:
                await transport.start(CONNECT_TIMEOUT)  # no broker is no reason to hang
                for queue in {queue for container in left for queue in _queues_of(container)}:
                    await transport.delete(queue)
            finally:
                await transport.aclose()

    def _containers(self) -> Iterator[_Container]:
        for host in self._made:
            containers = host.containers if isinstance(host, ServiceRunner) else [host]
            yield from (each for each in containers if isinstance(each, _Container))

    def _is_for_tests(self, settings: Settings) -> bool:
        """Whether it is a server, which keeps queues, and the one that is there for tests."""
        ours = parse_broker_urls(self._amqp_uri, tls=bool(settings.amqp_ssl))
        return ours[0].scheme != "memory" and settings.broker_urls == ours


def _queues_of(container: ServiceContainer) -> Iterator[str]:
    for entrypoint in container.entrypoints:
        if name := entrypoint.queue_name(container):
            yield name


class _Container(ServiceContainer):
    """Knows whether its failure, if there was one, was raised where somebody awaited it."""

    _told = False

    async def start(self) -> None:
        with self._telling():
            await super().start()

    async def wait(self) -> None:
        with self._telling():
            await super().wait()

    @contextmanager
    def _telling(self) -> Generator[None]:
        try:
            yield
        except Exception:
            self._told = True
            raise

    async def tell(self) -> None:
        """
        To be called when it has stopped.

        Raises:
            Exception: what made it fail, unless that has been raised already.
        """
        if self.started and not self._told:
            await self.wait()


class _Runner(ServiceRunner):
    """The same of several services."""

    _container = _Container

"""
Makes and stops the containers and runners of one test, and deletes their queues from the broker for
tests. The fixtures ``container_factory`` and ``runner_factory`` use this module.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

from ..calling.publishing import CONNECT_TIMEOUT
from ..config import Settings, parse_broker_urls, resolve
from ..exceptions import ConfigurationError, ConnectionLost
from ..hosting.container import ServiceContainer
from ..hosting.runner import ServiceRunner
from ..transports import open_transport

__all__ = ["Config", "Containers", "naming_the_option"]

Config: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Settings | None"


class Containers:
    """
    The containers and runners of one test.

    Args:
        config: the default configuration of the containers and runners.
        amqp_uri: the broker for tests. Queues are deleted only on this broker, because another
            broker may serve a running service.
    """

    def __init__(self, config: Mapping[str, Any], amqp_uri: str) -> None:
        # Any free port: tests run beside each other, and beside services.
        self._config = {"WEB_SERVER_ADDRESS": "127.0.0.1:0", **config}
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
                f"runner_factory takes service classes, got {type(others[0]).__name__}; pass a "
                "configuration as config="
            )
        options = {"fail_fast": True, **options}
        runner = _Runner(*services, config=self._resolved(config), **options)
        self._made.append(runner)
        return runner

    def _resolved(self, config: Config) -> Config:
        """
        Combine *config* with the configuration of the fixtures.

        A mapping or a URL overrides the configuration of the fixtures, because it is part of the
        test. A file, or ``Settings``, does not override it: production may use the same file, and a
        test must not consume from production's broker.
        """
        match config:
            case None:
                return self._config
            case Mapping():
                return {**self._config, **config}
            case str() if "://" in config:
                return {**self._config, "AMQP_URI": config}
        # These keys belong to the file's broker, which the test does not use.
        ours = {"AMQP_SSL": None, "LOGIN_METHOD": None, **self._config}
        return resolve(config).with_defines(ours, "aiorpc_config")

    async def stop(self) -> None:
        """
        Stop the running hosts, and delete the queues, so that the next test gets no message.

        Raises:
            Exception: the error of a failed service, if the test did not see the error; an
                ``ExceptionGroup`` of several errors. Raised after all hosts stopped and the queues
                are deleted.
        """
        failures: list[Exception] = []
        steps = [host.stop for host in reversed(self._made)]
        steps += [container.raise_failure for container in self._containers()]
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
            if container.started and container.reached and self._is_for_tests(container.settings)
        ]
        if left:
            transport = open_transport(left[0].settings, name="aiorpc tests")
            try:
                await transport.start(CONNECT_TIMEOUT)  # bounded: the broker may be down
                for queue in {queue for container in left for queue in container.queues}:
                    await transport.delete(queue)
            finally:
                await transport.aclose()

    def _containers(self) -> Iterator[_Container]:
        for host in self._made:
            containers = host.containers if isinstance(host, ServiceRunner) else [host]
            yield from (each for each in containers if isinstance(each, _Container))

    def _is_for_tests(self, settings: Settings) -> bool:
        """Return whether *settings* name the broker for tests, and this broker is a server."""
        ours = parse_broker_urls(self._amqp_uri, tls=bool(settings.amqp_ssl))
        return ours[0].scheme != "memory" and settings.broker_urls == ours


@contextmanager
def naming_the_option() -> Generator[None]:
    """Add the source of the broker's URL to the error about an unreachable broker."""
    try:
        yield
    except ConnectionLost as error:
        raise ConnectionLost(
            f"{error}. The fixtures use the broker of --aiorpc-amqp-uri, or of the fixtures "
            "amqp_uri and aiorpc_config: start that broker, or change the URL"
        ) from None


class _Container(ServiceContainer):
    """A container that remembers whether the test has already seen its failure."""

    _noticed = False
    #: False: the container could not reach the broker, so it has no queues.
    reached = True
    _connect_timeout = CONNECT_TIMEOUT

    async def start(self) -> None:
        naming = (
            naming_the_option if self._given_transport is None else nullcontext
        )  # a runner does
        try:
            with self._noticing(), naming():
                await super().start()
        except ConnectionLost:
            self.reached = self._given_transport is not None
            raise

    async def wait(self) -> None:
        with self._noticing():
            await super().wait()

    @contextmanager
    def _noticing(self) -> Generator[None]:
        try:
            yield
        except Exception:
            self._noticed = True
            raise

    async def raise_failure(self) -> None:
        """
        Raise the error that made the container fail, if the test did not see the error. Stop the
        container first.
        """
        if self.started and not self._noticed:
            await self.wait()


class _Runner(ServiceRunner):
    """A runner that hosts ``_Container`` objects."""

    _container = _Container
    _connect_timeout = CONNECT_TIMEOUT

    async def start(self) -> None:
        with naming_the_option():
            await super().start()

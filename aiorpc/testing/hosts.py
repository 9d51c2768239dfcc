"""
What is behind the fixtures ``container_factory`` and ``runner_factory``: the containers and runners
of one test, the broker they are on, and what they leave there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from ..config import Settings, parse_broker_urls, resolve
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
        self._made: list[ServiceContainer | ServiceRunner] = []

    def container(
        self, service_cls: type, config: Config = None, **options: Any
    ) -> ServiceContainer:
        container = ServiceContainer(service_cls, self._resolved(config), **options)
        self._made.append(container)
        return container

    def runner(self, *services: type, config: Config = None, **options: Any) -> ServiceRunner:
        runner = ServiceRunner(*services, config=self._resolved(config), **options)
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
        """Stop what still runs, and leave no messages to the next test."""
        queues: set[str] = set()
        settings: Settings | None = None
        for host in reversed(self._made):
            await host.stop()
            for container in host.containers if isinstance(host, ServiceRunner) else [host]:
                if container.started and self._is_for_tests(container.settings):
                    settings = container.settings
                    queues |= _queues_of(container)
        if settings is not None:
            async with open_transport(settings, name="aiorpc tests") as transport:
                for queue in queues:
                    await transport.delete(queue)

    def _is_for_tests(self, settings: Settings) -> bool:
        """Whether it is a server, which keeps queues, and the one that is there for tests."""
        ours = parse_broker_urls(self._amqp_uri, tls=bool(settings.amqp_ssl))
        return ours[0].scheme != "memory" and settings.broker_urls == ours


def _queues_of(container: ServiceContainer) -> set[str]:
    names = (entrypoint.queue_name(container) for entrypoint in container.entrypoints)
    return {name for name in names if name}

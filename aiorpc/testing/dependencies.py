"""
Replaces dependencies by mocks: ``worker_factory`` in a service without a container, and
``replace_dependencies`` in a container that has not started. Nothing here awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from ..exceptions import ConfigurationError
from ..extensions import DependencyProvider, WorkerContext, providers_of
from ..hosting.container import ServiceContainer
from .mocks import mock_of

__all__ = ["StandIn", "replace_dependencies", "worker_factory"]

S = TypeVar("S")


class StandIn:
    """A replacement that takes its options from the provider that it replaces."""

    def value_for(self, provider: DependencyProvider[Any]) -> Any:
        """Return the dependency of a service without a container."""
        raise NotImplementedError

    def provider_for(self, provider: DependencyProvider[Any]) -> DependencyProvider[Any]:
        """Return a provider that gives each worker its dependency."""
        raise NotImplementedError


def worker_factory(service_cls: type[S], /, **dependencies: Any) -> S:
    """
    Make an instance of *service_cls* for a unit test. Each dependency is the value in
    *dependencies*, or a mock from :func:`aiorpc.testing.mocks.mock_of`::

        service = worker_factory(ServiceX)
        service.y.append_identifier.return_value = "hello-y"
        assert await service.remote_method("hello") == "hello-y"

    Raises:
        ConfigurationError: the class has no dependency of that name; the text lists the names.
    """
    providers = {provider.attr_name: provider for provider in providers_of(service_cls)}
    _require(dependencies, providers, service_cls)
    service = service_cls()
    for name, provider in providers.items():
        value = dependencies[name] if name in dependencies else mock_of(provider)
        vars(service)[name] = value.value_for(provider) if isinstance(value, StandIn) else value
    return service


def replace_dependencies(container: ServiceContainer, *names: str, **replacements: Any) -> Any:
    """
    Replace dependencies of *container* before it starts. All workers share the replacements. The
    container does not open a replaced dependency: a replaced ``DatabaseSession`` does not connect
    to its database.

    Args:
        names: dependencies to replace by mocks.
        replacements: dependencies to replace by these values.

    Returns:
        The mock if *names* has one name, else a tuple of mocks in the order of *names*.

    Raises:
        ConfigurationError: the class has no dependency of that name; the text lists the names.
        RuntimeError: the container has started already, or a name appears twice.
    """
    if container.started:
        raise RuntimeError(f"replace dependencies of {container!r} before it starts")
    doubled = set(names) & set(replacements) | {name for name in names if names.count(name) > 1}
    if doubled:
        raise RuntimeError(f"cannot replace a dependency twice: {', '.join(sorted(doubled))}")
    providers = {provider.attr_name: provider for provider in container.providers}
    _require([*names, *replacements], providers, container.service_cls)
    mocks = {name: mock_of(providers[name]) for name in names}
    for name, value in {**mocks, **replacements}.items():
        if isinstance(value, StandIn):
            providers[name] = value.provider_for(providers[name]).bound_to(name)
        else:
            providers[name] = _Replacement(value).bound_to(name)
    container.providers = list(providers.values())
    return next(iter(mocks.values())) if len(mocks) == 1 else tuple(mocks.values())


class _Replacement(DependencyProvider[Any]):
    def __init__(self, replacement: Any) -> None:
        self._replacement = replacement

    def value(self, worker_ctx: WorkerContext) -> Any:
        return self._replacement


def _require(asked: Iterable[str], there: Iterable[str], service_cls: type) -> None:
    missing = sorted(set(asked) - set(there))
    if missing:
        raise ConfigurationError(
            f"{service_cls.__name__} has no dependency {', '.join(map(repr, missing))}; it has: "
            f"{', '.join(sorted(there)) or 'none'}"
        )

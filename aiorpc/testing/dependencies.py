"""
Services with mocks for dependencies: ``worker_factory`` without a container, and
``replace_dependencies`` within one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from ..exceptions import ConfigurationError
from ..extensions import DependencyProvider, WorkerContext, providers_of
from ..hosting.container import ServiceContainer
from .mocks import mock_of

__all__ = ["replace_dependencies", "worker_factory"]

S = TypeVar("S")


def worker_factory(service_cls: type[S], /, **dependencies: Any) -> S:
    """
    An instance of *service_cls* for unit tests, with a mock for each dependency that is not among
    *dependencies*; which mock for which is told by :func:`aiorpc.testing.mocks.mock_of`::

        service = worker_factory(ServiceX)
        service.y.append_identifier.return_value = "hello-y"
        assert await service.remote_method("hello") == "hello-y"

    Raises:
        ConfigurationError: the class has no dependency of that name; the text lists those it has.
    """
    providers = {provider.attr_name: provider for provider in providers_of(service_cls)}
    _require(dependencies, providers, service_cls)
    service = service_cls()
    for name, provider in providers.items():
        vars(service)[name] = dependencies[name] if name in dependencies else mock_of(provider)
    return service


def replace_dependencies(container: ServiceContainer, *names: str, **replacements: Any) -> Any:
    """
    Replace dependencies of *container* before it starts: those in *names* by mocks, those in
    *replacements* by the value given, which all workers share. What is replaced is not opened
    either: a replaced ``DatabaseSession`` connects to no database.

    Returns:
        The mock for a single name, a tuple of them for several, in the order of the names.

    Raises:
        ConfigurationError: there is no such dependency; the text lists those there are.
        RuntimeError: the container runs already, or a name is given twice.
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

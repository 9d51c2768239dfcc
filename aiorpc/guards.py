"""
What a dependency and its host may ask of each other, if methods run through the dependency. No I/O.
``SqlIdempotency`` and ``Inbox`` are guards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from .exceptions import ConfigurationError, RemoteError
from .extensions import DependencyProvider, Entrypoint, WorkerContext, providers_of

__all__ = ["Guard", "GuardedMethod", "Returned", "StoredError", "guards_of"]

T_co = TypeVar("T_co", covariant=True)


class Returned(msgspec.Struct, frozen=True):
    """
    What a method returned.

    Attributes:
        encoded: the result after the *encode* function of ``submit``: for a call, the reply.
    """

    result: Any
    encoded: Any


class GuardedMethod(Protocol):
    """The method of a call."""

    def __call__(self) -> Awaitable[Returned]:
        """Run the method, and encode its result."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Return the values of its sensitive arguments, which no stored error may show."""
        ...


class StoredError(RemoteError):
    """The expected error with which a method ended when it ran, as a guard stored it."""


class Guard(DependencyProvider[T_co]):
    """
    A dependency that decides whether a method runs, and sees its encoded result before the
    dependencies close. So a record of a call and the effects of the call can be one transaction.
    ``provide`` of a guard opens before all other dependencies, and closes after them.
    """

    def guards(self, entrypoint: Entrypoint) -> bool:
        """Return whether calls of *entrypoint* run through :meth:`run`. The host asks at start."""
        raise NotImplementedError

    async def run(self, worker_ctx: WorkerContext, method: GuardedMethod) -> Any:
        """
        Return the result of a call. All dependencies are open.

        Args:
            method: may be called once, or not at all: then the host encodes the result that
                ``run`` returns.
        """
        raise NotImplementedError


def guards_of(
    service_cls: type,
    entrypoints: Sequence[Entrypoint],
    providers: Sequence[DependencyProvider[Any]],
) -> dict[Entrypoint, Guard[Any]]:
    """
    Return the guard of each of the *entrypoints* that has one.

    Args:
        providers: those of *service_cls*, or what a test put in their place.

    Raises:
        ConfigurationError: an entrypoint has two guards, or needs one.
    """
    declared = [each for each in providers_of(service_cls) if isinstance(each, Guard)]
    found: dict[Entrypoint, Guard[Any]] = {}
    for entrypoint in entrypoints:
        name = f"{service_cls.__qualname__}.{entrypoint.method_name}"
        names = [each.attr_name for each in declared if each.guards(entrypoint)]
        if len(names) > 1:
            raise ConfigurationError(
                f"{name} runs through {' and '.join(names)}: declare one of these dependencies"
            )
        if entrypoint.idempotent and not names:
            raise ConfigurationError(
                f"{name} is idempotent, but {service_cls.__qualname__} has no store for the keys: "
                "declare idempotency = SqlIdempotency(Base) of aiorpc.sqlalchemy in the class, or "
                "idempotency = InMemoryIdempotency() of aiorpc"
            )
        for provider in providers:
            if provider.attr_name in names and isinstance(provider, Guard):
                found[entrypoint] = provider
    return found

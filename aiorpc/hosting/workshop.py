"""
The objects that the workers of one service share: dependencies, middleware, timers and threads.
Awaits only the method; no other I/O.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any

from ..call import Call, Middleware
from ..exceptions import ConfigurationError
from ..extensions import DependencyProvider, Entrypoint, Host
from ..guards import Guard, guards_of
from ..timers import Timers
from .counts import Ledger
from .threads import Threads

__all__ = ["Workshop"]


class Workshop:
    """
    The objects that the workers of one service share.

    Args:
        host: the host for dependencies and middleware.
        stopping: returns whether the service stops or is cancelled. Then other code may cancel the
            tasks of its workers, for example ``asyncio.run`` at its end.

    Attributes:
        coroutines: the names of the coroutine methods that need only an ``await``.
        values: providers without anything to close after a call.
        lifetimes: providers that open and close around each call.
        guards: the dependencies through which the methods of some entrypoints run.
        ledger: the counts of each entrypoint.
        cleanup_timeout: seconds that the dependencies of one worker may take to close.
    """

    def __init__(
        self,
        host: Host,
        entrypoints: Sequence[Entrypoint],
        providers: Sequence[DependencyProvider[Any]],
        middleware: Sequence[Middleware],
        timers: Timers,
        ledger: Ledger,
        stopping: Callable[[], bool],
    ) -> None:
        _require_instances(host.service_cls, providers)
        self.host = host
        self.service_cls = host.service_cls
        methods = {each: getattr(host.service_cls, each.method_name) for each in entrypoints}
        self._generators = frozenset(
            each.method_name for each, method in methods.items() if isasyncgenfunction(method)
        )
        self._awaitable = frozenset(
            each.method_name for each, method in methods.items() if iscoroutinefunction(method)
        )
        finished = {each.method_name for each in entrypoints if each.finishes}
        self.guards = guards_of(host.service_cls, entrypoints, providers)
        guarded = {each.method_name for each in self.guards}
        self.coroutines = self._awaitable - finished - guarded
        self.ledger = ledger
        ledger.open(entrypoints)
        self.values = [provider for provider in providers if not provider.has_lifetime]
        lifetimes = [provider for provider in providers if provider.has_lifetime]
        self.lifetimes = sorted(lifetimes, key=lambda provider: not isinstance(provider, Guard))
        self.middleware = tuple(middleware)
        self.cleanup_timeout = host.settings.cleanup_timeout
        self.timers = timers
        self.stopping = stopping
        self.threads = Threads(host.service_name, host.settings.sync_threads)

    async def run(
        self,
        entrypoint: Entrypoint,
        call: Call,
        method: Callable[..., Any],
        cancelled: Callable[[], bool],
    ) -> Any:
        """
        Run *method*, which is not one of ``coroutines``, for *call*.

        Args:
            cancelled: see :meth:`Threads.run`.
        """
        if entrypoint.method_name in self._generators:
            return await entrypoint.finish(call, method(*call.args, **call.kwargs))
        if entrypoint.method_name in self._awaitable:
            result = await method(*call.args, **call.kwargs)
        else:
            result = await self.threads.run(call, method, cancelled)
        return await entrypoint.finish(call, result) if entrypoint.finishes else result


def _require_instances(service_cls: type, providers: Sequence[DependencyProvider[Any]]) -> None:
    """
    Check that workers can make instances of *service_cls*, and set dependencies on them.

    Raises:
        ConfigurationError: they cannot.
    """
    name = service_cls.__qualname__
    if abstract := getattr(service_cls, "__abstractmethods__", None):
        missing = ", ".join(sorted(abstract))
        raise ConfigurationError(f"{name} is abstract: host a subclass that defines {missing}")
    if providers and not service_cls.__dictoffset__:
        raise ConfigurationError(f"{name} has no __dict__ for its dependencies: remove __slots__")
    if _is_made_by_object(service_cls):
        return  # inspect would parse a signature, which takes some ms of the start
    try:
        inspect.signature(service_cls).bind()
    except TypeError as exc:
        raise ConfigurationError(
            f"each worker makes an instance of {name} without arguments, and that fails: {exc}. "
            "Give the arguments of __init__ defaults, or declare dependencies instead"
        ) from None
    except (ValueError, NameError):  # no signature, or Python 3.14 cannot read its annotations
        pass


def _is_made_by_object(cls: Any) -> bool:
    """Return whether *cls* has no ``__init__``, ``__new__`` or metaclass that takes arguments."""
    makers = type(cls).__call__, cls.__new__, cls.__init__
    return makers == (type.__call__, object.__new__, object.__init__)

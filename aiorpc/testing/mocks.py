"""
Mocks of dependencies. A mock is awaited like the real dependency, and checks arguments like it.

Imports ``unittest.mock``, the dependencies and the proxies. Starts no service.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Unpack, get_args
from unittest.mock import DEFAULT, AsyncMock, MagicMock, create_autospec

from ..calling.message_options import MessageOptions
from ..calling.options import DEFAULTS, Options
from ..calling.proxies import RpcReply
from ..declarations import remote_names
from ..dependencies.config import Config, ContextData
from ..dependencies.dispatcher import EventDispatcher
from ..dependencies.proxies import ClusterRpc, RpcProxy
from ..dependencies.publisher import Publisher
from ..extensions import DependencyProvider, service_name_of
from ..wire.signatures import is_stream
from .mocks_by_type import mock_of_type, provided_type

__all__ = ["ClusterMock", "ServiceMock", "mock_of"]


def mock_of(provider: DependencyProvider[Any]) -> Any:
    """
    Make a mock of the dependency of *provider*. The mock raises ``TypeError`` for arguments that
    the real dispatcher, publisher, method or ``with_options`` would refuse.

    Returns:
        A :class:`ServiceMock` for a proxy, a :class:`ClusterMock` for a cluster, an ``AsyncMock``
        for an async callable (a dispatcher, a publisher), an empty dict for a mapping, an autospec
        of ``T`` for a ``DependencyProvider[T]``, and a ``MagicMock`` otherwise. The mock of an
        idempotency store is None, as in a call without a key.
    """
    match provider:
        case RpcProxy():
            return ServiceMock(*_called_by(provider))
        case ClusterRpc():
            return ClusterMock()
        case Config():
            return {}
        case ContextData():
            return {} if provider._key is None else None
        case EventDispatcher():
            return create_autospec(_dispatch, side_effect=_check("dispatch()"))
        case Publisher():
            return create_autospec(_publish, side_effect=_check("publish()"))
    declared = getattr(provider, "__orig_class__", type(provider))
    return mock_of_type(provided_type(declared), provider.attr_name)


class ServiceMock:
    """
    Replaces the proxy of a service. Every name is a method: an ``AsyncMock``, made at the first use
    of the name. All ways to call a method use the same mock::

        service.y.append_identifier.return_value = "hello-y"
        await service.y.append_identifier("hello")
        await service.y.append_identifier.with_options(timeout=1)("hello")
        await service.y.append_identifier.call_async("hello").result()
        service.y.append_identifier.assert_awaited_with("hello")

    For a proxy that knows the class or Protocol of its service, such as ``RpcProxy(ServiceY)``, the
    mock has only that class's methods, with their signatures.
    """

    def __init__(self, name: str, interface: type | None = None) -> None:
        self._name = name
        self._interface = interface

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        methods = vars(self)
        if name not in methods:
            methods[name] = self._method(name)
        return methods[name]

    def _method(self, name: str) -> Any:
        if self._interface is None:
            return _method_mock(f"{self._name}.{name}", None)
        callable_names = remote_names(self._interface)
        if name not in callable_names:
            raise AttributeError(
                f"{self._interface.__name__} has no remote method {name!r}; it has: "
                f"{', '.join(sorted(callable_names)) or 'none'}"
            )
        return _method_mock(f"{self._name}.{name}", getattr(self._interface, name))

    def __repr__(self) -> str:
        return f"<ServiceMock {self._name}>"


class ClusterMock:
    """Replaces a cluster: every item, and every name except ``typed``, is a ServiceMock."""

    def typed(self, service: Any, name: str | None = None, /) -> Any:
        """Return the mock of *service*: a class, or a Protocol with the service's *name*."""
        name = name or service_name_of(service)
        services = vars(self)
        if name not in services or services[name]._interface is None:
            services[name] = ServiceMock(name, service)
        return services[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        return vars(self).setdefault(name, ServiceMock(name))

    def __repr__(self) -> str:
        return "<ClusterMock>"


def _called_by(proxy: RpcProxy[Any]) -> tuple[str, type | None]:
    """Return the name of the service that *proxy* calls, and its class or Protocol if known."""
    service = proxy._service
    if not isinstance(service, str):
        return service_name_of(service), service
    return service, next(iter(get_args(getattr(proxy, "__orig_class__", None))), None)


def _method_mock(name: str, method: Callable[..., Any] | None) -> Any:
    """
    Make an async mock of a remote method. The mock has the arguments of *method* without ``self``,
    and the attributes of a :class:`~aiorpc.MethodProxy`. A test gives the items of a stream as
    ``mock.return_value.__aiter__.return_value``.
    """
    mock: Any = (
        AsyncMock(name=name, spec=["call_async", "stream", "with_options"])
        if method is None
        else create_autospec(_shape_of(method))
    )

    def call_async(*args: Any, **kwargs: Any) -> RpcReply[Any]:
        task = asyncio.get_running_loop().create_task(mock(*args, **kwargs))
        return RpcReply(task, task.cancel)

    def with_options(**options: Unpack[Options]) -> Any:
        DEFAULTS.replaced("with_options()", options)  # checks the names and the timeout
        return mock

    if method is not None and is_stream(method):
        mock.stream = mock
    else:
        mock.stream = MagicMock(name=f"{name}.stream")
    mock.call_async = MagicMock(name=f"{name}.call_async", side_effect=call_async)
    mock.with_options = MagicMock(name=f"{name}.with_options", side_effect=with_options)
    return mock


def _shape_of(method: Callable[..., Any]) -> Callable[..., Any]:
    """
    Make a function with the signature of *method*, without ``self``: a coroutine function, unless
    *method* is a stream.
    """

    async def awaited(*args: Any, **kwargs: Any) -> None: ...
    def iterated(*args: Any, **kwargs: Any) -> None: ...

    remote: Callable[..., Any] = iterated if is_stream(method) else awaited
    signature = inspect.signature(method)
    parameters = list(signature.parameters.values())
    remote.__signature__ = signature.replace(parameters=parameters[1:])  # type: ignore[attr-defined]
    remote.__name__ = method.__name__
    return remote


async def _dispatch(event_type: str, payload: Any = None, **options: Any) -> None:
    """The signature of the function that an :class:`EventDispatcher` provides."""


async def _publish(payload: Any, *, routing_key: str = "", **options: Any) -> None:
    """The signature of the function that a :class:`Publisher` provides."""


def _check(owner: str) -> Callable[..., Any]:
    """
    Return a side effect that checks options as a dispatcher and a publisher do.

    Raises:
        TypeError: an option does not exist; most likely a keyword is misspelt.
    """

    def check(*args: Any, **given: Any) -> Any:
        named = {"event_type", "payload", "routing_key"}
        MessageOptions().replaced(owner, {n: v for n, v in given.items() if n not in named})
        return DEFAULT

    return check

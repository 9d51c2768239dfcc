"""
What stands in for a dependency in a test: a mock that is awaited where the real one is awaited.

Imports ``unittest.mock`` and what dependencies are made of; starts nothing.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, get_args
from unittest.mock import DEFAULT, AsyncMock, MagicMock, create_autospec

import msgspec

from ..calling.options import UNSET, CallOptions
from ..calling.proxies import MethodProxy, RpcReply
from ..dependencies.config import Config, ContextData
from ..dependencies.dispatcher import EventDispatcher
from ..dependencies.proxies import ClusterRpc, RpcProxy
from ..dependencies.publisher import Publish, Publisher
from ..entrypoints.rpc import Rpc
from ..extensions import DependencyProvider, entrypoints_of, service_name_of
from ..wire.message import Message
from .specs import mock_of_type, provided_type

__all__ = ["ClusterMock", "ServiceMock", "mock_of"]


def mock_of(provider: DependencyProvider[Any]) -> Any:
    """
    What a test can use in place of what *provider* provides: a :class:`ServiceMock` for a proxy, a
    :class:`ClusterMock` for a cluster, an ``AsyncMock`` for what is called and awaited (a
    dispatcher, a publisher), an empty dict for a mapping, an autospec of the class ``T`` for a
    ``DependencyProvider[T]``, and a ``MagicMock`` where nothing is known. Arguments that the real
    dispatcher, publisher, or method with its options would refuse are a ``TypeError`` here too.
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
            return create_autospec(_dispatch)
        case Publisher():
            return create_autospec(_publish, side_effect=_check_properties)
    declared = getattr(provider, "__orig_class__", type(provider))
    return mock_of_type(provided_type(declared), provider.attr_name)


class ServiceMock:
    """
    Stands in for the proxy of a service: every name is a method, an ``AsyncMock`` made when it is
    first asked for, and the same one however it is called::

        service.y.append_identifier.return_value = "hello-y"
        await service.y.append_identifier("hello")
        await service.y.append_identifier.with_options(timeout=1)("hello")
        await service.y.append_identifier.call_async("hello").result()
        service.y.append_identifier.assert_awaited_with("hello")

    Of a proxy that knows the class or Protocol it calls (``RpcProxy(ServiceY)``) it has that
    class's methods only, with their signatures.
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
        callable_names = _remote_names(self._interface)
        if name not in callable_names:
            raise AttributeError(
                f"{self._interface.__name__} has no remote method {name!r}; it has: "
                f"{', '.join(sorted(callable_names)) or 'none'}"
            )
        return _method_mock(f"{self._name}.{name}", getattr(self._interface, name))

    def __repr__(self) -> str:
        return f"<ServiceMock {self._name}>"


class ClusterMock:
    """Stands in for a cluster: every name but ``typed``, and every item, is a ServiceMock."""

    def typed(self, service: Any, name: str | None = None, /) -> Any:
        """The mock of *service* (a class, or a Protocol and the service's *name*)."""
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
    """The name of the service that *proxy* calls, and its class or Protocol if it knows one."""
    service = proxy._service
    if not isinstance(service, str):
        return service_name_of(service), service
    return service, next(iter(get_args(getattr(proxy, "__orig_class__", None))), None)


def _remote_names(interface: type) -> set[str]:
    """The ``@rpc`` methods of a service class; all methods of a Protocol."""
    if fired := entrypoints_of(interface):
        return {entrypoint.method_name for entrypoint in fired if isinstance(entrypoint, Rpc)}
    return {
        name
        for name in dir(interface)
        if not name.startswith("_") and callable(getattr(interface, name))
    }


def _method_mock(name: str, method: Callable[..., Any] | None) -> Any:
    """
    An async mock of a remote method, which takes what *method* takes after ``self``, and has what a
    :class:`~aiorpc.MethodProxy` has.
    """
    mock: Any = (
        AsyncMock(name=name, spec=["call_async", "with_options"])
        if method is None
        else create_autospec(_shape_of(method))
    )

    def call_async(*args: Any, **kwargs: Any) -> RpcReply[Any]:
        task = asyncio.get_running_loop().create_task(mock(*args, **kwargs))
        return RpcReply(task, task.cancel)

    def with_options(*args: Any, **options: Any) -> Any:
        _OPTIONS.bind(None, *args, **options)
        given = {option: value for option, value in options.items() if value is not UNSET}
        CallOptions(**given)  # it checks their values
        return mock

    mock.call_async = MagicMock(name=f"{name}.call_async", side_effect=call_async)
    mock.with_options = MagicMock(name=f"{name}.with_options", side_effect=with_options)
    return mock


_OPTIONS = inspect.signature(MethodProxy.with_options)


def _shape_of(method: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A coroutine function that takes what callers of the remote *method* give."""

    async def remote(*args: Any, **kwargs: Any) -> None: ...

    signature = inspect.signature(method)
    parameters = list(signature.parameters.values())
    remote.__signature__ = signature.replace(parameters=parameters[1:])  # type: ignore[attr-defined]
    remote.__name__ = method.__name__
    return remote


async def _dispatch(event_type: str, payload: Any = None) -> None:
    """What the dispatcher of an :class:`EventDispatcher` takes."""


_publish = _shape_of(Publish.__call__)
_publish.__name__ = "publish"
_OF_PUBLISH = frozenset(inspect.signature(Publish.__call__).parameters)


def _check_properties(payload: Any, **options: Any) -> Any:
    """
    Refuse AMQP properties that there are not, as a publisher does.

    Raises:
        TypeError: there is one; most likely a misspelt keyword.
    """
    properties = {name: value for name, value in options.items() if name not in _OF_PUBLISH}
    msgspec.structs.replace(Message(body=b""), **properties)
    return DEFAULT

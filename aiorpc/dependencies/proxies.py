"""
``RpcProxy`` and ``ClusterRpc`` let a service call one other service, or any. They stand on
``extensions`` and ``calling``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, get_args

import msgspec

from ..calling.client import Client
from ..calling.options import UNSET, CallOptions
from ..calling.proxies import ClusterProxy, ServiceProxy
from ..extensions import DependencyProvider, Host, WorkerContext, service_name_of

__all__ = ["ClusterRpc", "RpcProxy"]

if TYPE_CHECKING:
    # To a type checker, RpcProxy("name") is RpcProxy[ServiceProxy]. Defaults of type variables
    # (PEP 696) are in typing from Python 3.13.
    import typing_extensions

    T = typing_extensions.TypeVar("T", default=ServiceProxy)
else:
    T = TypeVar("T")


async def _client_of(host: Host) -> Client:
    """The one client of a container: one reply queue for all its proxies, as in Nameko."""
    return await host.share(
        Client,
        lambda: Client(host.transport, host.wire, host.settings, owner=host.service_name),
    )


class RpcProxy(DependencyProvider[T]):
    """
    Calls one other service: ``y = RpcProxy("service_y")`` gives ``await self.y.method()``.

    ``RpcProxy(ServiceY)`` and ``RpcProxy[YProtocol]("service_y")`` are the same, typed.

    Args:
        service: the class, or the name, of the service to call.
        timeout: seconds that a call may take, where it has no timeout of its own. The deadline of
            the call that runs is never exceeded.
        fail_fast: raise ``ServiceUnavailable`` at once when nobody consumes the service's queue.
    """

    def __init__(
        self,
        service: type[T] | str,
        *,
        timeout: float | None | msgspec.UnsetType = UNSET,
        fail_fast: bool = False,
    ) -> None:
        self._service = service
        self._options = CallOptions(timeout=timeout, fail_fast=fail_fast)

    @property
    def interface(self) -> type | None:
        """The class or Protocol that declares the methods, if one was given."""
        if not isinstance(self._service, str):
            return self._service
        return next(iter(get_args(getattr(self, "__orig_class__", None))), None)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        service = self._service
        name = service if isinstance(service, str) else service_name_of(service)
        client = await _client_of(host)
        self._proxy = ServiceProxy(client, name, self._options, self.interface)
        yield

    def value(self, worker_ctx: WorkerContext) -> T:
        return self._proxy  # type: ignore[return-value]  # a proxy stands in for the service


class ClusterRpc(DependencyProvider[ClusterProxy]):
    """Calls any service: ``cluster = ClusterRpc()`` gives ``await self.cluster.service.f()``."""

    def __init__(
        self,
        *,
        timeout: float | None | msgspec.UnsetType = UNSET,
        fail_fast: bool = False,
    ) -> None:
        self._options = CallOptions(timeout=timeout, fail_fast=fail_fast)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        self._proxy = ClusterProxy(await _client_of(host), self._options)
        yield

    def value(self, worker_ctx: WorkerContext) -> ClusterProxy:
        return self._proxy

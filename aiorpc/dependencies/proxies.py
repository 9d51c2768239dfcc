"""
With ``RpcProxy`` a service calls one other service; with ``ClusterRpc`` it calls any service. This
file imports ``extensions`` and ``calling``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, Unpack, get_args

from ..calling.client import Client
from ..calling.options import DEFAULTS, Options
from ..calling.proxies import ClusterProxy, ServiceProxy
from ..checks import NAME, Kind, check
from ..extensions import DependencyProvider, Host, WorkerContext, service_name_of

__all__ = ["ClusterRpc", "RpcProxy", "client_of"]

if TYPE_CHECKING:
    # Type checkers read RpcProxy("name") as RpcProxy[ServiceProxy]. The typing module has defaults
    # of type variables (PEP 696) only from Python 3.13.
    import typing_extensions

    T = typing_extensions.TypeVar("T", default=ServiceProxy)
else:
    T = TypeVar("T")


_SERVICE = Kind(NAME.fits, f"the class of a service, or {NAME.text}")


async def client_of(host: Host) -> Client:
    """Return the client of the container. All its proxies share one reply queue, as in Nameko."""
    return await host.share(
        Client,
        lambda: Client(host.transport, host.wire, host.settings, owner=host.service_name),
    )


class RpcProxy(DependencyProvider[T]):
    """
    Calls one other service. After ``y = RpcProxy("service_y")``, write ``await self.y.method()``.

    Type checkers check calls of ``RpcProxy(ServiceY)`` and ``RpcProxy[YProtocol]("service_y")``.

    Args:
        service: the class or the name of the service to call.
        options: options of all calls; ``with_options`` changes them for one method. See
            :class:`~aiorpc.calling.options.CallOptions`: ``timeout``, ``headers``, ``priority``,
            ``fail_fast`` and others. A call also ends at the deadline of the worker that makes it.
    """

    def __init__(self, service: type[T] | str, **options: Unpack[Options]) -> None:
        if not isinstance(service, type):
            check("RpcProxy()", {"service": service}, {"service": _SERVICE})
        self._service = service
        self._options = DEFAULTS.replaced("RpcProxy()", options)

    @property
    def interface(self) -> type | None:
        """The class or Protocol that declares the remote methods; ``None`` for a mere name."""
        if not isinstance(self._service, str):
            return self._service
        return next(iter(get_args(getattr(self, "__orig_class__", None))), None)

    @property
    def service_name(self) -> str:
        """The name of the service that is called."""
        service = self._service
        return service if isinstance(service, str) else service_name_of(service)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        name = self.service_name
        client = await client_of(host)
        client.route(name, "", self._options)  # an unknown serializer fails the start
        self._proxy = ServiceProxy(client, name, self._options, self.interface)
        yield

    def value(self, worker_ctx: WorkerContext) -> T:
        return self._proxy  # type: ignore[return-value]  # a proxy stands in for the service


class ClusterRpc(DependencyProvider[ClusterProxy]):
    """
    Calls any service. For ``cluster = ClusterRpc()``: ``await self.cluster.service.f()``.

    Args:
        options: options of all calls, as for :class:`RpcProxy`.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self._options = DEFAULTS.replaced("ClusterRpc()", options)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        client = await client_of(host)
        client.route("", "", self._options)  # an unknown serializer fails the start
        self._proxy = ClusterProxy(client, self._options)
        yield

    def value(self, worker_ctx: WorkerContext) -> ClusterProxy:
        return self._proxy

"""
Calling services, and dispatching events, from outside any service: the asyncio programs of the rest
of the world. Each of these owns its connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from ..call import Middleware
from ..config import Settings, resolve
from ..context import Context, new_id
from ..exceptions import ConnectionLost, Unroutable
from ..transports import open_transport
from ..transports.base import Outgoing, Transport
from ..wire.message import Exchange
from ..wire.names import event_exchange
from ..wire.protocol import Wire
from .client import UNSET, Client
from .options import checked_timeout
from .proxies import ClusterProxy, ServiceProxy

__all__ = ["ClusterRpcProxy", "ServiceRpcProxy", "event_dispatcher"]

P = TypeVar("P")

Config: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Settings | None"
#: Seconds to wait for the broker, at the start or to declare, where calls have no timeout.
CONNECT_TIMEOUT = 30.0


class _Standalone(Generic[P]):
    """A connection, a client on it, and the proxy that it gives."""

    def __init__(
        self,
        config: Config = None,
        *,
        timeout: float | None | msgspec.UnsetType = UNSET,
        context_data: Mapping[str, Any] | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._settings = resolve(config)
        self._timeout = self._settings.rpc_timeout if timeout is UNSET else checked_timeout(timeout)
        self._context_data = dict(context_data or {})
        self._middleware = middleware
        self._transport: Transport | None = None
        self._client: Client | None = None

    def _proxy(self, client: Client) -> P:
        raise NotImplementedError

    async def start(self) -> P:
        """
        Connect, and return what to call. For programs whose life is no ``async with`` block (a
        FastAPI lifespan, a bot); close with ``aclose``.

        Raises:
            ConnectionLost: the broker was not there within the timeout (30 s without one).
            ConfigurationError: it refuses the user, the password or the vhost.
        """
        if self._transport is not None:
            raise RuntimeError(f"this {type(self).__name__} was started already; make another one")
        self._transport = transport = open_transport(self._settings, name="standalone_rpc_proxy")
        bound = CONNECT_TIMEOUT if self._timeout is None else self._timeout
        until = asyncio.timeout_at(asyncio.get_running_loop().time() + bound)
        try:
            await transport.start(bound)
            self._client = client = Client(
                transport,
                Wire.of(self._settings),
                self._settings,
                owner="standalone_rpc_proxy",
                timeout=self._timeout,
                context=Context((f"standalone_rpc_proxy.call.{new_id()}",), self._context_data),
                middleware=self._middleware,
            )
            async with until:
                await client.open()
        except BaseException as error:
            await self.aclose()
            self._transport = None  # it may be tried again
            if isinstance(error, TimeoutError) and until.expired():
                raise ConnectionLost(
                    f"no queue for replies on {transport.url} within {bound:g} s: the broker took "
                    "the connection, and then said nothing in time"
                ) from None
            raise
        return self._proxy(client)

    async def aclose(self) -> None:
        """Fail the calls that still wait, and hang up. Bounded; idempotent."""
        client, self._client = self._client, None
        transport = self._transport
        try:
            if client is not None:
                await client.close()
        finally:
            if transport is not None:
                await transport.aclose()

    async def __aenter__(self) -> P:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class ClusterRpcProxy(_Standalone[ClusterProxy]):
    """
    Calls any service of a broker::

        async with ClusterRpcProxy("amqp://guest:guest@localhost/", timeout=3) as cluster:
            await cluster.service_x.remote_method("hello")

    One of these is one connection and one reply queue, for any number of calls in flight and any
    number of tasks of its event loop. Make one per process and keep it.

    Args:
        config: a URL, a mapping as in Nameko (``{"AMQP_URI": ...}``), a path of a YAML file, or
            Settings.
        timeout: seconds that a call may take, unless it says otherwise; ``None`` for no limit. By
            default ``RPC_TIMEOUT`` of the configuration, which is 30.
        context_data: carried by every call.
    """

    def _proxy(self, client: Client) -> ClusterProxy:
        return ClusterProxy(client)


class ServiceRpcProxy(_Standalone[ServiceProxy]):
    """
    Calls one service: ``async with ServiceRpcProxy("service_x", url) as x: await x.f()``. Its other
    arguments are those of :class:`ClusterRpcProxy`.
    """

    def __init__(self, service: str, config: Config = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._service = service

    def _proxy(self, client: Client) -> ServiceProxy:
        return ServiceProxy(client, self._service)


Dispatch: TypeAlias = Callable[[str, str, Any], Coroutine[Any, Any, None]]


@asynccontextmanager
async def event_dispatcher(
    config: Config = None, *, context_data: Mapping[str, Any] | None = None
) -> AsyncGenerator[Dispatch]:
    """
    Dispatches events in the name of services::

        async with event_dispatcher(url) as dispatch:
            await dispatch("service_x", "something_happened", {"id": 1})

    An event that nobody handles is dropped, as in Nameko. The exchange is declared, so a service
    that never ran is no error (it is one in Nameko).

    Raises:
        ConnectionLost: the broker was not there, or did not confirm an event, within RPC_TIMEOUT.
        ConfigurationError: it refuses the user, the password or the vhost.
        UnserializableValueError: a payload cannot be put on the wire.
    """
    settings = resolve(config)
    wire = Wire.of(settings)
    transport = open_transport(settings, name="standalone_event_dispatcher")
    context = Context((), dict(context_data or {}))
    bound = CONNECT_TIMEOUT if settings.rpc_timeout is None else settings.rpc_timeout
    declared: set[str] = set()
    lock = asyncio.Lock()

    async def declare(exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(bound), lock:
                if exchange.name not in declared:
                    await transport.declare([exchange])
                    declared.add(exchange.name)
        except TimeoutError:
            raise ConnectionLost(
                f"exchange {exchange.name} could not be declared on {transport.url} within "
                f"{bound:g} s: {transport.state.value}; the event was not sent"
            ) from None

    async def dispatch(service: str, event_type: str, payload: Any = None) -> None:
        message = wire.payloads.encode(payload, context)
        exchange = event_exchange(service, auto_delete=settings.auto_delete_event_exchanges)
        if exchange.name not in declared and settings.declare_event_exchanges:
            await declare(exchange)
        event = Outgoing(
            exchange=exchange.name,
            routing_key=event_type,
            message=message,
            again=lambda message: message,
        )
        try:
            await transport.publish(event, settings.rpc_timeout)
        except Unroutable:
            if not exchange.auto_delete:  # else it went with its last handler
                raise

    try:
        await transport.start(bound)
        yield dispatch
    finally:
        await transport.aclose()

"""
Calls services and dispatches events from programs that are not services: web applications, bots,
scripts. Each proxy opens and closes its own connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Never,
    NoReturn,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
)

import msgspec

from .. import from_thread
from ..call import Middleware
from ..checks import MAPPING, NAME, TIMEOUT, check, check_middleware, optional
from ..config import Settings, resolve
from ..context import Context, new_id
from ..exceptions import ConnectionLost
from ..installed import middleware_of
from ..transports import open_transport
from ..transports.base import Transport
from ..transports.health import Health, problems_of
from ..wire.protocol import Wire
from .client import Client
from .message_options import MessageKeywords, MessageOptions
from .options import UNSET, check_options
from .proxies import ClusterProxy, ServiceProxy
from .publishing import CONNECT_TIMEOUT, Events

__all__ = [
    "ClusterRpcProxy",
    "ProxyOptions",
    "ServiceRpcProxy",
    "StandaloneDispatch",
    "event_dispatcher",
]

P = TypeVar("P")

Config: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Settings | None"


class ProxyOptions(TypedDict, total=False):
    """The keywords of proxies, for type checkers; see :class:`ClusterRpcProxy`."""

    timeout: float | None | msgspec.UnsetType
    context_data: Mapping[str, Any] | None
    middleware: Sequence[Middleware]


_KINDS = {"timeout": TIMEOUT, "context_data": optional(MAPPING), "service": NAME}


class _Standalone(Generic[P]):
    """A connection, a client that uses this connection, and a proxy for the user."""

    def __init__(
        self, config: Config = None, *more: Never, **options: Unpack[ProxyOptions]
    ) -> None:
        owner = f"{type(self).__name__}()"
        if more:
            raise TypeError(f"{owner} takes context_data= and timeout= by name, not by position")
        check_options(owner, options, ProxyOptions.__annotations__)
        timeout, context_data = options.get("timeout", UNSET), options.get("context_data")
        check(owner, {"context_data": context_data}, _KINDS)
        if timeout is not UNSET:
            check(owner, {"timeout": timeout}, _KINDS)
        self._settings = resolve(config)
        self._timeout = self._settings.rpc_timeout if timeout is UNSET else timeout
        self._context_data = dict(context_data or {})
        self._middleware = options.get("middleware", ())
        check_middleware(owner, self._middleware)
        middleware_of(self._settings)  # an error of the configuration should not wait for a broker
        self._transport: Transport | None = None
        self._client: Client | None = None
        #: What ``start`` returned, until ``aclose``.
        self._started: P | None = None

    def _proxy(self, client: Client) -> P:
        raise NotImplementedError

    async def start(self) -> P:
        """
        Connect, and return the proxy to call. Use ``start`` and ``aclose`` where ``async with``
        does not fit, for example in a bot. A proxy that was closed may start again.

        Raises:
            ConnectionLost: no broker answered within the timeout (30 s if there is no timeout).
            ConfigurationError: the broker refuses the user, the password or the vhost.
        """
        if self._transport is not None:
            raise RuntimeError(
                f"this {type(self).__name__} is open already: use the proxy that `async with` or "
                "start() gave, from any number of tasks; aclose() comes before another start()"
            )
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
            if isinstance(error, TimeoutError) and until.expired():
                raise ConnectionLost(
                    f"no queue for replies on {transport.url} within {bound:g} s: the broker "
                    "accepted the connection, but did not declare the queue in time"
                ) from None
            raise
        self._started = proxy = self._proxy(client)
        return proxy

    if not TYPE_CHECKING:  # type checkers report these mistakes themselves

        def __getattr__(self, name: str) -> NoReturn:
            kind = type(self).__name__
            raise AttributeError(
                f"{kind} has no attribute {name!r}: calls are made on the proxy that `async with "
                f"{kind}(...) as proxy` or `await {kind}(...).start()` gives"
            )

        def __enter__(self) -> NoReturn:
            raise TypeError(
                f"{type(self).__name__} needs `async with`, or await start() and aclose(); a "
                "program without an event loop uses aiorpc.sync.ClusterRpcProxy"
            )

        def __exit__(self, *exc_info: object) -> None: ...

    async def aclose(self) -> None:
        """Fail the pending calls, and disconnect. Bounded; idempotent."""
        client, self._client, self._started = self._client, None, None
        transport = self._transport
        try:
            if client is not None:
                await client.close()
        finally:
            if transport is not None:
                await transport.aclose()
                if self._transport is transport:
                    self._transport = None  # the user may start this proxy again

    async def stop(self) -> None:
        """Do the same as :meth:`aclose`. Nameko's name."""
        await self.aclose()

    def health(self) -> Health:
        """Return whether calls can be made now: not ok before ``start`` or without a connection."""
        if self._client is None or self._transport is None:
            url = self._settings.broker_urls[0].redacted()
            return Health((f"{type(self).__name__} is not connected to {url}",))
        return Health.of(problems_of(self._transport))

    async def __aenter__(self) -> P:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class ClusterRpcProxy(_Standalone[ClusterProxy]):
    """
    Calls any service of a broker::

        async with ClusterRpcProxy("amqp://guest:guest@localhost/", timeout=3) as cluster:
            await cluster.service_x.remote_method("hello")

    A proxy has one connection and one reply queue, for any number of simultaneous calls from any
    number of tasks of its event loop. Make one proxy per process, and keep it.

    Args:
        config: a URL, a mapping as in Nameko (``{"AMQP_URI": ...}``), the path of a YAML file, or
            Settings.
        timeout: seconds that a call may take, if the call sets no timeout; ``None`` for no limit.
            The default is ``RPC_TIMEOUT`` of the configuration (30 if not set).
        context_data: context data that the proxy sends with every call.
        middleware: functions that wrap every call, inside the middleware of the configuration; the
            first is the outermost.
    """

    def _proxy(self, client: Client) -> ClusterProxy:
        return ClusterProxy(client)


class ServiceRpcProxy(_Standalone[ServiceProxy]):
    """
    Calls one service: ``async with ServiceRpcProxy("service_x", url) as x: await x.f()``. The other
    arguments are the same as for :class:`ClusterRpcProxy`.
    """

    def __init__(
        self, service: str, config: Config = None, *more: Never, **options: Unpack[ProxyOptions]
    ) -> None:
        super().__init__(config, *more, **options)
        check("ServiceRpcProxy()", {"service": service}, _KINDS)
        self._service = service

    def _proxy(self, client: Client) -> ServiceProxy:
        return ServiceProxy(client, self._service)


class StandaloneDispatch(Protocol):
    """The function that :func:`event_dispatcher` yields."""

    async def __call__(
        self,
        service: str,
        event_type: str,
        payload: Any = None,
        **options: Unpack[MessageKeywords],
    ) -> None: ...


@asynccontextmanager
async def event_dispatcher(
    config: Config = None,
    *,
    context_data: Mapping[str, Any] | None = None,
    middleware: Sequence[Middleware] = (),
    **options: Unpack[MessageKeywords],
) -> AsyncGenerator[StandaloneDispatch]:
    """
    Dispatch events in the name of services::

        async with event_dispatcher(url) as dispatch:
            await dispatch("service_x", "something_happened", {"id": 1})

    As in Nameko, the broker discards an event that no service handles. ``dispatch`` declares the
    exchange first, so an event of a service that never ran is not an error (in Nameko it is).

    *options* are :class:`~aiorpc.calling.message_options.MessageKeywords` of all events.
    *middleware* wraps each dispatch, inside the middleware of the configuration.

    Raises:
        ConnectionLost: no broker answered, or confirmed an event, within RPC_TIMEOUT.
        ConfigurationError: the broker refuses the user, the password or the vhost.
        Overloaded: the broker refused an event, because the queue of a handler is full.
        UnserializableValueError: a payload cannot be encoded.
    """
    settings = resolve(config)
    check("event_dispatcher()", {"context_data": context_data}, _KINDS)
    check_middleware("event_dispatcher()", middleware)
    transport = open_transport(settings, name="standalone_event_dispatcher")
    given = MessageOptions.declared("event_dispatcher()", options)
    events = Events(transport, Wire.of(settings), settings, given, middleware)
    context = Context((), dict(context_data or {}))

    timeout = settings.rpc_timeout
    try:
        await transport.start(CONNECT_TIMEOUT if timeout is None else timeout)
        yield _dispatch_of(events, context)
    finally:
        await transport.aclose()


def _dispatch_of(events: Events, context: Context) -> StandaloneDispatch:
    def dispatch(service: str, event_type: str, payload: Any = None, **changes: Any) -> Any:
        # Any, because type checkers differ about the type of a coroutine.
        from_thread.require_loop(f"dispatch({service!r}, {event_type!r})")
        return send(service, event_type, payload, changes)

    async def send(service: str, event_type: str, payload: Any, changes: dict[str, Any]) -> None:
        await events.dispatch(service, event_type, payload, context, changes)

    send.__qualname__ = "dispatch"  # Python names a coroutine that nobody awaits
    return dispatch

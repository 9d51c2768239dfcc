"""
What a caller holds: a cluster, a service in it, a method of that, and a reply to come.

Every name on a service is a method, so none of these classes has public attributes of its own where
names are looked up; what would clash is reached as ``cluster["typed"]["with_options"]``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from typing import Any, Generic, TypeVar, overload

import msgspec

from ..extensions import service_name_of
from ..wire.arguments import Result
from .client import DEFAULTS, UNSET, CallOptions, Client

__all__ = ["ClusterProxy", "MethodProxy", "RpcReply", "ServiceProxy"]

#: The most names that a proxy remembers. They may come from outside, in a gateway.
MOST_REMEMBERED = 1000

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class RpcReply(Generic[T_co]):
    """
    The answer to a call that has been sent. Await it, or its ``result()``, as often as you like and
    from as many tasks: each gets the result, or has the error raised.

    Cancelling one that awaits it does not cancel the call; ``cancel()`` does.
    """

    __slots__ = ("_abandon", "_convert", "_future")

    def __init__(
        self,
        future: asyncio.Future[Any],
        abandon: Callable[[], object],
        convert: Callable[[Any], Any] | None = None,
    ) -> None:
        self._future = future
        self._abandon = abandon
        self._convert = convert
        # Nobody has to await a reply: an error that nobody asks for is no warning of asyncio's.
        future.add_done_callback(_mark_retrieved)

    async def result(self) -> T_co:
        """The result; what it raises is what calling the method raises."""
        future = self._future
        if not future.done():
            await asyncio.wait((future,))
        value = future.result()
        return value if self._convert is None else self._convert(value)  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.result().__await__()

    def done(self) -> bool:
        """Whether the answer, or an error, is here."""
        return self._future.done()

    def cancel(self) -> None:
        """Take the call back; who awaits the reply gets ``CancelledError``."""
        self._abandon()

    def __repr__(self) -> str:
        return f"<RpcReply {'done' if self.done() else 'pending'}>"


def _mark_retrieved(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class MethodProxy:
    """
    A remote method::

        await cluster.service_x.remote_method("hello")
        reply = cluster.service_x.remote_method.call_async("hello")
        await cluster.service_x.remote_method.with_options(timeout=0.5)("hello")
    """

    __slots__ = ("_client", "_convert", "_route")

    def __init__(
        self,
        client: Client,
        service: str,
        method: str,
        options: CallOptions = DEFAULTS,
        convert: Callable[[Any], Any] | None = None,
    ) -> None:
        self._client = client
        self._route = client.route(service, method, options)
        self._convert = convert

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """
        Call the method and wait for its answer. Cancelling this cancels the call.

        Raises:
            RpcTimeout: no answer within the timeout; the text says why.
            UnknownService: no queue takes calls of that service.
            ConnectionLost: the broker went away, and the answer cannot come any more.
            UnserializableValueError: an argument cannot be sent.
            MethodNotFound, IncorrectSignature, BadArguments: the service refused the call.
            RemoteError: the method raised; or the error itself, if its class is registered with
                ``deserialize_to_instance``.
        """
        client, route = self._client, self._route
        call = client.new_call(route, args, kwargs)
        if not route.direct or client.transport.congested:
            result = await client.call(call, route)
        else:  # what client.call does, without its coroutine
            pending = client.start(call, route)
            try:
                result = await pending.future
            except asyncio.CancelledError:
                client.abandon(pending)
                raise
        return result if self._convert is None else self._convert(result)

    def call_async(self, /, *args: Any, **kwargs: Any) -> RpcReply[Any]:
        """Send the call now, and return the reply that will come."""
        client, route = self._client, self._route
        call = client.new_call(route, args, kwargs)
        if route.direct:
            pending = client.start(call, route)
            return RpcReply(pending.future, lambda: client.abandon(pending), self._convert)
        task = asyncio.ensure_future(client.call(call, route))
        return RpcReply(task, task.cancel, self._convert)

    def with_options(
        self,
        *,
        timeout: float | None | msgspec.UnsetType = UNSET,
        headers: Mapping[str, Any] | msgspec.UnsetType = UNSET,
        context_data: Mapping[str, Any] | msgspec.UnsetType = UNSET,
        persistent: bool | msgspec.UnsetType = UNSET,
        confirm: bool | msgspec.UnsetType = UNSET,
        resend: bool | msgspec.UnsetType = UNSET,
        fail_fast: bool | msgspec.UnsetType = UNSET,
    ) -> MethodProxy:
        """The same method, called otherwise; see :class:`aiorpc.calling.options.CallOptions`."""
        given = {
            name: value
            for name, value in (
                ("timeout", timeout),
                ("headers", headers),
                ("context_data", context_data),
                ("persistent", persistent),
                ("confirm", confirm),
                ("resend", resend),
                ("fail_fast", fail_fast),
            )
            if value is not UNSET
        }
        route = self._route
        options = msgspec.structs.replace(route.options, **given)
        return MethodProxy(self._client, route.service, route.method, options, self._convert)

    def __repr__(self) -> str:
        return f"<MethodProxy {self._route.routing_key}>"


class ServiceProxy:
    """A remote service: each attribute, or item, is a method of it."""

    # Methods live in __dict__ once they have been asked for, so the second look is a plain one.
    __slots__ = ("__dict__", "_client", "_interface", "_options", "_service")

    def __init__(
        self,
        client: Client,
        service: str,
        options: CallOptions = DEFAULTS,
        interface: type | None = None,
    ) -> None:
        self._client = client
        self._service = service
        self._options = options
        self._interface = interface

    def __getattr__(self, name: str) -> MethodProxy:
        if name.startswith("_"):
            raise AttributeError(
                f"{name!r}: names with a leading underscore are no remote methods; if this one is, "
                f'write proxy["{name}"]'
            )
        return self[name]

    def __getitem__(self, name: str) -> MethodProxy:
        methods: dict[str, MethodProxy] = self.__dict__
        method = methods.get(name)
        if method is None:
            declared = getattr(self._interface, name, None)
            convert = Result.of(declared).convert if callable(declared) else None
            method = MethodProxy(self._client, self._service, name, self._options, convert)
            # A name with a leading underscore is reached as an item only.
            if not name.startswith("_") and len(methods) < MOST_REMEMBERED:
                methods[name] = method
        return method

    def __repr__(self) -> str:
        return f"<ServiceProxy {self._service}>"


class ClusterProxy:
    """
    All services of a broker: each attribute but ``typed``, and each item, is a service.

    ``cluster.service_x``, ``cluster["service-x"]``, ``cluster.typed(ServiceX)``.
    """

    __slots__ = ("__dict__", "_client", "_options")

    def __init__(self, client: Client, options: CallOptions = DEFAULTS) -> None:
        self._client = client
        self._options = options

    @overload
    def typed(self, service: type[T], /) -> T: ...
    @overload
    def typed(self, service: Callable[..., T], name: str, /) -> T: ...

    def typed(self, service: Any, name: str | None = None, /) -> Any:
        """
        A service proxy that mypy and pyright check calls of: of a service class, or of a Protocol
        and the service's name. Results come back as the annotated type.
        """
        return ServiceProxy(
            self._client, name or service_name_of(service), self._options, interface=service
        )

    def __getattr__(self, name: str) -> ServiceProxy:
        if name.startswith("_"):
            raise AttributeError(
                f"{name!r}: names with a leading underscore are no services; if this one is, "
                f'write cluster["{name}"]'
            )
        return self[name]

    def __getitem__(self, name: str) -> ServiceProxy:
        services: dict[str, ServiceProxy] = self.__dict__
        service = services.get(name)
        if service is None:
            service = ServiceProxy(self._client, name, self._options)
            # As an attribute it would hide what has that name already: ``typed``.
            hides = name.startswith("_") or hasattr(ClusterProxy, name)
            if not hides and len(services) < MOST_REMEMBERED:
                services[name] = service
        return service

    def __repr__(self) -> str:
        return "<ClusterProxy>"

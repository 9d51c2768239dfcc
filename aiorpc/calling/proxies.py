"""
The objects of a caller: a cluster, a service, a method, and the reply to a call. This file awaits
the client and does no other I/O.

Every name on a service proxy is a remote method, so the proxy has no other public attributes. For a
name that is also an attribute of Python or aiorpc, use an item: ``cluster["typed"]["method"]``.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from .. import from_thread
from ..declarations import remote_names
from ..extensions import service_name_of
from ..wire.arguments import result_converter
from ..wire.signatures import is_stream
from .client import Client
from .options import DEFAULTS, CallOptions, Options
from .streams import RpcStream

__all__ = ["ClusterProxy", "MethodProxy", "Names", "RpcReply", "RpcStream", "ServiceProxy"]

#: A proxy keeps at most this many names. In a gateway, clients choose the names.
MOST_NAMES = 1000

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class RpcReply(Generic[T_co]):
    """
    The answer to a call that was sent. Any number of tasks may await the reply, or its
    ``result()``, any number of times. Each task gets the result or the error.

    Cancelling a task that awaits the reply does not cancel the call; ``cancel()`` does.
    """

    __slots__ = ("_cancel", "_convert", "_future")

    def __init__(
        self,
        future: asyncio.Future[Any],
        cancel: Callable[[], object],
        convert: Callable[[Any], Any] | None = None,
    ) -> None:
        self._future = future
        self._cancel = cancel
        self._convert = convert
        # A caller may ignore a reply, so asyncio must not warn about an error in the future.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def result(self) -> T_co:
        """Wait for the result. Raises the same errors as a call of the method."""
        future = self._future
        if not future.done():
            await asyncio.wait((future,))  # a cancelled wait() does not cancel the future
        value = future.result()
        return value if self._convert is None else self._convert(value)  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.result().__await__()

    def done(self) -> bool:
        """Whether the answer, or an error, has arrived."""
        return self._future.done()

    def cancel(self) -> None:
        """Cancel the call. Every task that awaits the reply gets ``CancelledError``."""
        self._cancel()

    def __repr__(self) -> str:
        return f"<RpcReply {'done' if self.done() else 'pending'}>"


class MethodProxy:
    """A remote method. Await ``method(...)``, or send a call by ``method.call_async(...)``."""

    __slots__ = ("_call", "_client", "_convert", "_route")

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
        self._call = client.caller(self._route, convert)
        self._convert = convert

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """
        Call the method and wait for its answer. A cancelled task cancels the call.

        Raises:
            RpcTimeout: no answer came within the timeout; the text says why.
            UnknownService: the broker has no queue for this service.
            ServiceUnavailable: the service's queue has no consumers (only with ``fail_fast=True``).
            Overloaded: the broker refused the request, because the service's queue is full.
            ConnectionLost: the connection was lost, and the answer cannot arrive any more.
            UnserializableValueError: an argument cannot be encoded.
            MethodNotFound, IncorrectSignature, BadArguments: the service refused the call.
            DeliveryUncertain: an at-most-once method may have run already.
            MalformedReply: the reply is malformed, or does not fit the declared return type.
            RemoteError: the method raised an error. If ``deserialize_to_instance`` has registered
                the error's class, the caller gets this class instead.
            RuntimeError: a sync method made the call in its thread; raised before any await.
        """
        if _get_running_loop() is None:
            from_thread.require_loop(self._route.routing_key)
        return self._call(args, kwargs)

    def call_async(self, /, *args: Any, **kwargs: Any) -> RpcReply[Any]:
        """
        Send the call now, and return its reply. With middleware or ``fail_fast``, a task runs these
        first and then sends the call.
        """
        client, route = self._client, self._route
        future, cancel = client.call_async(client.new_call(route, args, kwargs), route)
        return RpcReply(future, cancel, self._convert)

    def stream(self, /, *args: Any, **kwargs: Any) -> RpcStream[Any]:
        """
        Call a method that is an async generator, and return its items:
        ``async for item in method.stream(...)``. The errors are those of a call.

        Raises:
            IncorrectSignature: the method returns one result; nothing ran.
            MalformedReply: the service does not know streams (Nameko); the method ran.
        """
        return self._client.streams.open(self._route, self._convert, args, kwargs)

    def with_options(self, **options: Unpack[Options]) -> Self:
        """Return the method with other options (:class:`aiorpc.calling.options.CallOptions`)."""
        route = self._route
        changed = route.options.replaced("with_options()", options)
        return type(self)(self._client, route.service, route.method, changed, self._convert)

    def __repr__(self) -> str:
        return f"<MethodProxy {self._route.routing_key}>"


class StreamProxy(MethodProxy):
    """A remote method that is an async generator: ``async for item in method(...)``."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Do the same as :meth:`MethodProxy.stream`."""
        return self.stream(*args, **kwargs)


class Names(Generic[T]):
    """Makes an attribute or item at its first use, and keeps it."""

    # Python looks into __dict__ before it calls __getattr__, so a kept name costs no call.
    __slots__ = ("__dict__", "_make")

    def __init__(self, make: Callable[[str], T]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> T:
        if name.startswith("_"):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}: a remote name with a leading "
                f'underscore is written as an item, ["{name}"]'
            )
        return self[name]

    def __getitem__(self, name: str) -> T:
        kept: dict[str, T] = self.__dict__
        made = kept.get(name)
        if made is None:
            if not isinstance(name, str):
                raise TypeError(f"a remote name is a str, not a {type(name).__name__}")
            made = self._make(name)
            # In __dict__, such a name would hide an attribute of this class.
            hides = name.startswith("_") or hasattr(type(self), name)
            if not hides and len(kept) < MOST_NAMES:
                kept[name] = made
        return made


class ServiceProxy(Names[MethodProxy]):
    """A remote service. Each attribute and each item is a method of the service."""

    __slots__ = ("_client", "_interface", "_service")

    def __init__(
        self,
        client: Client,
        service: str,
        options: CallOptions = DEFAULTS,
        interface: type | None = None,
    ) -> None:
        def method(name: str) -> MethodProxy:
            declared = getattr(interface, name, None)
            if not callable(declared):
                return MethodProxy(client, service, name, options)
            kind = StreamProxy if is_stream(declared) else MethodProxy
            return kind(client, service, name, options, result_converter(declared))

        super().__init__(method)
        self._client = client
        self._service = service
        self._interface = interface

    def __dir__(self) -> Iterable[str]:
        """The names that a shell completes; for a typed proxy only what a caller can call."""
        return super().__dir__() if self._interface is None else remote_names(self._interface)

    def __repr__(self) -> str:
        return f"<ServiceProxy {self._service}>"


class ClusterProxy(Names[ServiceProxy]):
    """
    All services of a broker. Each attribute except ``typed``, and each item, is a service.

    ``cluster.service_x``, ``cluster["service-x"]``, ``cluster.typed(ServiceX)``.
    """

    __slots__ = ("_client", "_options")

    def __init__(self, client: Client, options: CallOptions = DEFAULTS) -> None:
        super().__init__(lambda name: ServiceProxy(client, name, options))
        self._client = client
        self._options = options

    @overload
    def typed(self, service: type[T], /) -> T: ...
    @overload
    def typed(self, service: Callable[..., T], name: str, /) -> T: ...

    def typed(self, service: Any, name: str | None = None, /) -> Any:
        """
        Return a service proxy whose calls mypy and pyright check. *service* is the service's class,
        or a Protocol; a Protocol needs the service's *name*. Results have the annotated type.
        """
        return ServiceProxy(
            self._client, name or service_name_of(service), self._options, interface=service
        )

    def __repr__(self) -> str:
        return "<ClusterProxy>"

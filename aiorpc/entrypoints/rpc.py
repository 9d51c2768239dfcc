"""
``@rpc`` for remote procedure calls, and its types. Awaits only the subscription.

One consumer serves all ``@rpc`` methods of a service, on the queue ``rpc-<service>``.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

import msgspec

from ..call import Call
from ..exceptions import ConfigurationError
from ..extensions import Entrypoint, Host
from ..guards import StoredError
from .answers import Answers
from .arguments import arguments_of
from .cancellations import Cancellations
from .requests import Method, Server
from .streams import StreamCall

if TYPE_CHECKING:  # a service that calls nobody starts without the caller's modules
    from ..calling import proxies, streams
    from ..calling.options import Options

__all__ = ["BoundRpcMethod", "BoundStreamMethod", "Rpc", "RpcMethod", "rpc"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


@dataclass(eq=False, repr=False)
class Rpc(Entrypoint):
    """Starts a method for each remote call, and answers with the result or the error."""

    remote = True
    streams = True
    answers = (StoredError,)

    # These two have positions, as in Nameko: @rpc(ValueError, "password").
    expected_exceptions: type[Exception] | tuple[type[Exception], ...] = ()
    sensitive_arguments: str | Sequence[str] = ()
    validate: bool = field(default=True, kw_only=True)
    delivery: Literal["at_least_once", "at_most_once"] = field(
        default="at_least_once", kw_only=True
    )
    idempotent: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.idempotent and self.delivery == "at_most_once":
            raise ConfigurationError(
                "@rpc(idempotent=True) runs a call with a key once, also if it is delivered again: "
                'leave out delivery="at_most_once"'
            )
        if self.delivery not in ("at_least_once", "at_most_once"):
            raise ConfigurationError(
                f"delivery of @rpc is at_least_once or at_most_once, got {self.delivery!r}"
            )

    async def finish(self, call: Call, result: Any) -> Any:
        if not isinstance(call, StreamCall):  # a test runs the method without a caller
            call = StreamCall(**msgspec.structs.asdict(call))
        return await call.finish(result)

    def queue_name(self, host: Host) -> str:
        return host.wire.rpc_queue(host.service_name).name

    @classmethod
    @asynccontextmanager
    async def listen_all(cls, host: Host, entrypoints: Sequence[Rpc]) -> AsyncGenerator[None]:
        server = Server(host, {entry.method_name: entry._method(host) for entry in entrypoints})
        # Shared, so that both end after the workers: callers cancel calls during a drain too.
        await host.share(Cancellations, lambda: server.cancellations.listening(host))
        await host.share(Answers, server.answers.finished)
        queue = host.wire.rpc_queue(host.service_name)
        prefetch = host.settings.prefetch_with(sum(entry.max_waiting or 0 for entry in entrypoints))
        async with await host.transport.subscribe(
            queue, server.received, prefetch=prefetch, requeue=server.requeue
        ):
            await server.cancellations.ensure(host)
            yield

    def _method(self, host: Host) -> Method:
        arguments = arguments_of(self, host, validate=self.validate)
        stream = inspect.isasyncgenfunction(getattr(host.service_cls, self.method_name))
        if stream and self.idempotent:
            raise ConfigurationError(
                f"{host.service_cls.__qualname__}.{self.method_name} is a stream, and no store "
                "keeps its items: leave out idempotent=True, or return a list"
            )
        return Method(self, arguments, self.delivery == "at_most_once", stream)


# The types of ``@rpc``, for type checkers. At run time, the method stays a plain function.


class BoundRpcMethod(Protocol[P, T_co]):
    """The type of an ``@rpc`` method of a proxy, or of a service instance."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]: ...
    def call_async(self, *args: P.args, **kwargs: P.kwargs) -> proxies.RpcReply[T_co]: ...
    def with_options(self, **options: Unpack[Options]) -> BoundRpcMethod[P, T_co]: ...


class BoundStreamMethod(Protocol[P, T_co]):
    """The type of an ``@rpc`` async generator of a proxy, or of a service instance."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> streams.RpcStream[T_co]: ...
    def stream(self, *args: P.args, **kwargs: P.kwargs) -> streams.RpcStream[T_co]: ...
    def with_options(self, **options: Unpack[Options]) -> BoundStreamMethod[P, T_co]: ...


class RpcMethod(Protocol[P, R_co]):
    """The type of an ``@rpc`` method on its class; *R_co* is the function's return type."""

    # Overloads of `rpc` itself would be ambiguous to mypy for each coroutine with an Any in its
    # result: mypy would then forget the arguments.
    @overload
    def __get__(self, instance: None, owner: type) -> RpcMethod[P, R_co]: ...
    @overload
    def __get__(
        self: RpcMethod[P, Awaitable[T]], instance: object, owner: type
    ) -> BoundRpcMethod[P, T]: ...
    @overload
    def __get__(
        self: RpcMethod[P, AsyncIterator[T]], instance: object, owner: type
    ) -> BoundStreamMethod[P, T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundRpcMethod[P, R_co]: ...

    def __call__(self, service: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any: ...


class _Decorate(Protocol):
    def __call__(self, method: Callable[Concatenate[Any, P], R], /) -> RpcMethod[P, R]: ...


# An exception class is callable too, but it is not a method.
@overload
def rpc(  # type: ignore[overload-overlap]
    expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    sensitive_arguments: str | Sequence[str] = (),
    *,
    validate: bool = True,
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once",
    max_concurrency: int | None = None,
    max_waiting: int | None = None,
    idempotent: bool = False,
) -> _Decorate: ...
@overload
def rpc(method: Callable[Concatenate[Any, P], R], /) -> RpcMethod[P, R]: ...


def rpc(*args: Any, **kwargs: Any) -> Any:
    """
    Make a method callable by clients: ``@rpc`` or ``@rpc(...)``.

    Args:
        expected_exceptions: errors that are logged as warnings, because they are normal answers.
        sensitive_arguments: names of arguments whose values no log shows, and no error in a reply;
            ``user.password`` is a part of an argument.
        validate: check and convert arguments by their annotations (``VALIDATE_ARGUMENTS``).
        delivery: for a request that is delivered or sent again, ``at_most_once`` answers with
            ``DeliveryUncertain``, and ``at_least_once`` runs the method again.
        max_concurrency: calls of the method that run at a time, in each process. Other calls wait
            in the process, and take no worker of ``max_workers``.
        max_waiting: calls that wait at most. The service refuses others with ``Overloaded``. 0: no
            call waits. None: no limit.
        idempotent: calls with the same ``idempotency_key`` run the method once, and get the same
            answer. The service needs a store, such as ``SqlIdempotency(Base)``.
    """
    return Rpc.decorator(*args, **kwargs)

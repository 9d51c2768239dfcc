"""
The interface between extensions and their host. No I/O; only the default context managers await.
Entrypoints, dependencies and hosting import this file, but not one another.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

import msgspec

from . import former_hooks
from .call import Call, Ending, Outcome
from .config import Settings
from .context import EMPTY, NO_CONTEXT, Context
from .declarations import (
    check_options,
    declared_on,
    decorate,
    hosted_class,
    service_name_of,
)
from .exceptions import ConfigurationError
from .transports.base import Transport
from .wire.message import Message
from .wire.protocol import Wire

__all__ = [
    "DependencyProvider",
    "Ending",
    "Entrypoint",
    "Host",
    "Outcome",
    "Submission",
    "WorkerContext",
    "entrypoints_of",
    "hosted_class",
    "providers_of",
    "service_name_of",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Submission(Protocol):
    """A call that an entrypoint submitted to the host."""

    def cancel(self) -> None:
        """Cancel the worker after its caller cancelled the call. The host sends no reply."""


class Host(Protocol):
    """The part of a container that an extension may use."""

    #: The ``name`` of the service class.
    service_name: str
    #: The service class. Each worker makes an instance of it.
    service_cls: type
    #: The decoded configuration; ``settings.raw`` is the mapping that the user wrote.
    settings: Settings
    #: The connection to the broker. The transport reconnects by itself.
    transport: Transport
    #: Encodes and decodes messages with the serializers of the configuration.
    wire: Wire
    #: The largest number of workers that run at a time.
    max_workers: int

    def new_call(
        self,
        entrypoint: Entrypoint,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = EMPTY,
        context: Context = NO_CONTEXT,
        kind: str = "rpc",
        redelivered: bool = False,
        exchange: str = "",
        routing_key: str = "",
        message: Message | None = None,
    ) -> Call:
        """
        Make a call of the method of *entrypoint*, with a new call id.

        The call inherits *context*, the context of the message, if there is a message. For the
        other arguments see :class:`aiorpc.Call`.
        """
        ...

    def submit(
        self,
        entrypoint: Entrypoint,
        call: Call,
        settle: Callable[[Outcome], None],
        encode: Callable[[Any], Any] | None = None,
    ) -> Submission:
        """
        Run a worker for *call*, now or as soon as fewer than ``max_workers`` run. A call that
        :meth:`new_call` did not make gets its call id here.

        The worker calls *encode* with the result while the dependencies are open. If *encode*
        raises, the dependencies roll back. The host always calls *settle* once, after the
        dependencies have closed; *settle* must not block.
        """
        ...

    def refuse(
        self,
        call: Call,
        outcome: Outcome,
        settle: Callable[[Outcome], None],
        encode: Callable[[Any], Any] | None = None,
    ) -> None:
        """
        End *call*, which cannot run, for example because its request is wrong. The middleware sees
        the error of *outcome* as if the method had raised it, and has CLEANUP_TIMEOUT. *settle*
        gets *outcome*, or the middleware's answer or error. Without middleware, it gets it now.
        """

    async def work(self, entrypoint: Entrypoint, call: Call) -> Any:
        """
        ``submit`` *call*, and return its result or raise its error. If the waiting task is
        cancelled, the host cancels *call*.

        Raises:
            AioRpcError: the host ended *call*, or *call* raised a non-``Exception``.
        """

    def spawn(
        self, background: Coroutine[Any, Any, None], name: str, *, settles: bool = False
    ) -> None:
        """
        Run *background* in a task called *name*. The container cancels it when it stops accepting
        calls, or later if it *settles* a message: then it gets CLEANUP_TIMEOUT. If *background*
        raises an error, the container fails with this error.
        """

    async def share(self, key: object, opener: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """
        Return the object that *opener* opens. Only the first call with a *key* opens an object. The
        container closes the object when the lifespans of the dependencies end.
        """
        ...


@dataclass(kw_only=True, eq=False, repr=False)
class Entrypoint:
    """
    Starts a method of a service. A decorator on the method declares it. A container has a copy.

    A subclass overrides ``listen``, or ``listen_all`` if all its entrypoints on a service listen
    together: for example, all ``rpc`` methods share one queue.
    """

    method_name: str = field(init=False)
    service_cls: type = field(init=False)
    #: Whether the entrypoint starts calls by itself, as a timer does. It then listens last.
    unprompted: ClassVar[bool] = False
    #: Whether the entrypoint starts calls of the method, which the host counts.
    starts_calls: ClassVar[bool] = True
    #: Whether callers call the method by its name, as with ``rpc``.
    remote: ClassVar[bool] = False
    #: Whether the method may be an async generator. Then ``finish`` reads it.
    streams: ClassVar[bool] = False
    #: Whether ``finish`` gets the results of all methods.
    finishes: ClassVar[bool] = False
    #: Whether a call with an idempotency key runs once. The host requires a guard for it.
    idempotent = False
    #: Errors that are answers of this kind of entrypoint. The host logs them like expected ones.
    answers: ClassVar[tuple[type[Exception], ...]] = ()

    #: Errors that are not failures of the service. The host logs a warning without a traceback.
    expected_exceptions: type[Exception] | tuple[type[Exception], ...] = ()
    #: Names of arguments that no log may show.
    sensitive_arguments: str | Sequence[str] = ()
    #: Calls that run at a time, in this process; the others wait. None: no limit.
    max_concurrency: int | None = None
    #: Calls that wait; the host refuses the others with ``Overloaded``. None: no limit.
    max_waiting: int | None = None

    def __post_init__(self) -> None:
        check_options(self)

    def queue_name(self, host: Host) -> str | None:
        """Return the queue that the entrypoint consumes, if any; for logs and ``aiorpc ls``."""
        return None

    def route(self, host: Host) -> str | None:
        """Return the HTTP route that starts the method, if any; for logs and ``aiorpc ls``."""
        return None

    async def finish(self, call: Call, result: Any) -> Any:
        """
        Return the result of *call* for the middleware, with the dependencies still open. *result*
        is what the method returned. Called only for async generators, and with ``finishes``.
        """
        return result

    def listen(self, host: Host) -> AbstractAsyncContextManager[None]:
        """
        Start calls of the method from entry to exit of the context manager. After the exit, the
        host finishes the calls that were started.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither listen nor listen_all")

    @classmethod
    @asynccontextmanager
    async def listen_all(cls, host: Host, entrypoints: Sequence[Any]) -> AsyncGenerator[None]:
        """Listen for all *entrypoints* of this class on one service; see :meth:`listen`."""
        async with AsyncExitStack() as stack:
            for entrypoint in entrypoints:
                await stack.enter_async_context(entrypoint.listen(host))
            yield

    def bound_to(self, method_name: str) -> Self:
        bound = copy.copy(self)
        bound.method_name = method_name
        return bound

    @classmethod
    def decorator(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a decorator: after ``once = Once.decorator``, ``@once`` and ``@once(...)`` work."""
        return decorate(cls, args, kwargs)


def entrypoints_of(service_cls: type) -> list[Entrypoint]:
    """Return the entrypoints of *service_cls* and its bases, bound to their methods' names."""
    bound = [entrypoint.bound_to(name) for name, entrypoint in declared_on(service_cls)]
    for entrypoint in bound:
        entrypoint.service_cls = service_cls
    return bound


def providers_of(service_cls: type) -> list[DependencyProvider[Any]]:
    """
    Return copies of the dependencies of *service_cls* and its bases, in declaration order.

    Raises:
        ConfigurationError: an attribute is a class of dependencies, and not an instance.
    """
    found: dict[str, DependencyProvider[Any]] = {}
    for cls in reversed(service_cls.__mro__):
        for name, value in vars(cls).items():
            if isinstance(value, DependencyProvider):
                found[name] = value
            elif isinstance(value, type) and issubclass(value, DependencyProvider):
                if value.__qualname__ != f"{cls.__qualname__}.{name}":  # defined in the class
                    raise ConfigurationError(
                        f"{cls.__qualname__}.{name} is the class {value.__name__}: make an "
                        f"instance, {name} = {value.__name__}(...)"
                    )
            else:
                found.pop(name, None)
    return [provider.bound_to(name) for name, provider in found.items()]


class WorkerContext(msgspec.Struct, eq=False):
    """
    A worker's call, entrypoint, service instance and host, for extensions.

    Attributes:
        service: the instance of the service class for this call.
    """

    host: Host
    entrypoint: Entrypoint
    service: Any
    call: Call

    @property
    def context(self) -> Context:
        """The call ids, the context data and the deadline of the call."""
        return self.call.context

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments of the call."""
        return self.call.args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """The keyword arguments of the call."""
        return self.call.kwargs

    @property
    def service_name(self) -> str:
        """The name of the service."""
        return self.call.service

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration as the user wrote it; ``host.settings`` has the decoded values."""
        return self.host.settings.raw

    @property
    def context_data(self) -> Mapping[str, Any]:
        """The context data of the call. Calls that the method makes inherit this data."""
        return self.call.context.data

    @property
    def call_id(self) -> str:
        """The id of the call, ``service.method.unique``, which logs show."""
        return self.call.context.call_id_stack[-1]

    @property
    def call_id_stack(self) -> tuple[str, ...]:
        """The ids of the calls that led to this call, and the id of this call last."""
        return self.call.context.call_id_stack

    @property
    def origin_call_id(self) -> str | None:
        """The first call id in the message; ``None`` if the message has no call ids."""
        stack = self.call.context.call_id_stack
        return stack[0] if len(stack) > 1 else None

    @property
    def immediate_parent_call_id(self) -> str | None:
        """The id of the call that made this call; ``None`` if the message has no call ids."""
        stack = self.call.context.call_id_stack
        return stack[-2] if len(stack) > 1 else None

    def __repr__(self) -> str:
        return f"<WorkerContext [{self.call}] {self.call_id}>"


class DependencyProvider(Generic[T_co]):
    """
    Gives a service an attribute. Each worker gets its own value. The container enters ``lifespan``
    once, and each worker enters ``provide``. An error of the method is raised at the ``yield`` of
    ``provide``. A dependency that opens and closes nothing per call overrides ``value`` instead,
    which costs only a function call.
    """

    attr_name: str = "?"
    #: Whether ``provide`` (and not ``value``) makes the value. ``__init_subclass__`` sets it.
    has_lifetime: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.isasyncgenfunction(vars(cls).get("provide")):
            raise ConfigurationError(
                f"{cls.__qualname__}.provide is an async generator: put @asynccontextmanager above "
                "it (from contextlib)"
            )
        opens = any(
            getattr(cls, opener) is not getattr(DependencyProvider, opener)
            for opener in ("lifespan", "provide")
        )
        # aiorpc has checked the base classes that are providers already.
        own = [
            base for base in cls.__mro__ if base is cls or DependencyProvider not in base.__mro__
        ]
        former_hooks.check(cls, {name for base in own for name in vars(base)}, opens=opens)
        for base in cls.__mro__:
            if "provide" in vars(base) or "value" in vars(base):
                cls.has_lifetime = "provide" in vars(base) and base is not DependencyProvider
                break

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        """Open the resources that all workers share; close them after the last worker."""
        yield

    def provide(self, worker_ctx: WorkerContext) -> AbstractAsyncContextManager[T_co]:
        """
        Yield the dependency of one worker; after the ``yield``, commit or roll back, and close.

        Use ``@asynccontextmanager``. A class with ``__aenter__`` and ``__aexit__`` is faster.
        """
        return nullcontext(self.value(worker_ctx))

    def value(self, worker_ctx: WorkerContext) -> T_co:
        """Return the dependency for one worker, if there is nothing to close."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither provide nor value")

    def bound_to(self, attr_name: str) -> Self:
        bound = copy.copy(self)
        bound.attr_name = attr_name
        return bound

    def __set_name__(self, owner: type, name: str) -> None:
        self.attr_name = name

    @overload
    def __get__(self, service: None, owner: type) -> Self: ...
    @overload
    def __get__(self, service: object, owner: type) -> T_co: ...

    def __get__(self, service: object | None, owner: type) -> Self | T_co:
        if service is None:
            return self
        raise AttributeError(
            f"{owner.__name__}.{self.attr_name} exists only inside a worker, while a call runs "
            f"the method; in a unit test make the service with aiorpc.testing.worker_factory("
            f"{owner.__name__}, {self.attr_name}=...)"
        )

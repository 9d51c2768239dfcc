"""
The waist: what a feature may ask of its host, and what a host asks of a feature.

Entrypoints, dependencies and hosting all stand on this file, and none of them imports another.
"""

from __future__ import annotations

import copy
import enum
import functools
import inspect
from abc import ABC
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

import msgspec

from .call import Call
from .config import Settings
from .context import EMPTY, NO_CONTEXT, Context
from .exceptions import ConfigurationError
from .transports.base import Transport
from .wire.protocol import Wire

__all__ = [
    "DependencyProvider",
    "Ending",
    "Entrypoint",
    "Host",
    "Outcome",
    "Submission",
    "WorkerContext",
    "declare",
    "entrypoints_of",
    "providers_of",
    "service_name_of",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])

_ENTRYPOINTS = "__aiorpc_entrypoints__"


class Ending(enum.Enum):
    """How a worker ended, and so what is to be done with the message that asked for it."""

    #: The method returned, and its dependencies closed well.
    RETURNED = "returned"
    #: The method, a dependency or a middleware raised.
    RAISED = "raised"
    #: The deadline passed first; the error is an ``RpcTimeout``.
    TIMED_OUT = "timed out"
    #: Its caller cancelled the call, so nobody waits for an answer.
    CANCELLED = "cancelled"
    #: The container stopped before the worker ended or began, so its message is to be requeued.
    ABANDONED = "abandoned"


class Outcome(msgspec.Struct, eq=False):
    """What became of one call. ``value`` is what the *encode* of ``submit`` made of the result."""

    ending: Ending
    value: Any = None
    error: BaseException | None = None


class Submission(Protocol):
    """A call in the hands of its host."""

    def cancel(self) -> None:
        """Cancel the worker, because the caller cancelled the call: roll back, send no reply."""


class Host(Protocol):
    """The little that an extension may ask of the container it lives in."""

    @property
    def service_name(self) -> str:
        """The ``name`` of the service class."""
        ...

    @property
    def service_cls(self) -> type:
        """The class whose methods are fired; an instance is made for each worker."""
        ...

    @property
    def settings(self) -> Settings:
        """The configuration, decoded; ``settings.raw`` is as it was written."""
        ...

    @property
    def transport(self) -> Transport:
        """The connection to the broker. It is connected, and heals itself."""
        ...

    @property
    def wire(self) -> Wire:
        """Encodes and decodes messages as the configuration has them."""
        ...

    @property
    def max_workers(self) -> int:
        """How many workers run at a time."""
        ...

    def new_call(
        self,
        entrypoint: Entrypoint,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = EMPTY,
        context: Context = NO_CONTEXT,
        kind: str = "rpc",
        redelivered: bool = False,
    ) -> Call:
        """
        Make the call that fires *entrypoint*, with a call id of its own.

        Args:
            context: the context that came with the message, if one did. The call is its child.
            kind, redelivered: see :class:`aiorpc.Call`.
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
        Run one worker for *call*, now or as soon as one of ``max_workers`` is free. A call that
        :meth:`new_call` did not make gets its call id here.

        Args:
            encode: is applied to the result while the dependencies are open, so that a result that
                cannot be sent rolls them back.
            settle: is called once when the dependencies have closed, whatever happens. It must not
                block.
        """
        ...

    async def work(self, entrypoint: Entrypoint, call: Call) -> Any:
        """``submit`` and wait: the result, or the error raised."""
        ...

    def spawn(self, background: Coroutine[Any, Any, None], name: str) -> None:
        """
        Run *background* for as long as the container; it is cancelled when the container stops
        taking work. If it raises, the container fails and says so.
        """
        ...

    async def share(self, key: object, opener: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Open once per container, whoever asks first; close with the dependencies."""
        ...


class Entrypoint(ABC):
    """
    Fires a method of a service. Declared by a decorator on the method; the container binds a copy
    to each service class it hosts.

    A kind of entrypoint overrides ``listen`` (each by itself) or ``listen_all`` (all of the kind
    on one service together, as ``rpc`` does, which has one queue for all its methods).
    """

    method_name: str
    #: Whether it fires by itself, as a timer does. It listens when all others of its service do.
    unprompted: ClassVar[bool] = False

    def __init__(
        self,
        *,
        expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
        sensitive_arguments: str | Sequence[str] = (),
    ) -> None:
        #: Errors that are no failure of the service: logged as warnings, without a traceback.
        self.expected_exceptions = (
            (expected_exceptions,)
            if isinstance(expected_exceptions, type)
            else tuple(expected_exceptions)
        )
        #: Names of arguments that no log may show.
        self.sensitive_arguments = (
            (sensitive_arguments,)
            if isinstance(sensitive_arguments, str)
            else tuple(sensitive_arguments)
        )

    def queue_name(self, host: Host) -> str | None:
        """The queue whose messages fire it, if messages do: for logs and for ``aiorpc ls``."""
        return None

    def listen(self, host: Host) -> AbstractAsyncContextManager[None]:
        """
        Fire from entry to exit. On entry we are ready to fire; on exit nothing new is fired. What
        has been fired is the host's to finish.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither listen nor listen_all")

    @classmethod
    @asynccontextmanager
    async def listen_all(cls, host: Host, entrypoints: Sequence[Any]) -> AsyncGenerator[None]:
        """Fire all *entrypoints* of this kind on one service, from entry to exit."""
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
        """
        ``timer = Timer.decorator`` serves both ``@once`` and ``@timer(interval=5)``, as in Nameko.
        """
        if len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], type):
            return declare(cls(), args[0])
        return functools.partial(declare, cls(*args, **kwargs))


def declare(entrypoint: Entrypoint, method: F) -> F:
    """Mark *method* as fired by *entrypoint*; it stays the function it was."""
    if not callable(method):
        raise ConfigurationError(
            f"{type(entrypoint).__name__} decorates methods, not a {type(method).__name__}; "
            "put it nearest to the `def`, below staticmethod, classmethod or property"
        )
    vars(method).setdefault(_ENTRYPOINTS, []).append(entrypoint)
    return method


def entrypoints_of(service_cls: type) -> list[Entrypoint]:
    """The entrypoints declared on *service_cls* and its bases, bound to their methods' names."""
    return [
        declared.bound_to(name)
        for name in dir(service_cls)
        for declared in getattr(getattr(service_cls, name, None), _ENTRYPOINTS, ())
    ]


def providers_of(service_cls: type) -> list[DependencyProvider[Any]]:
    """Copies of the dependencies declared on *service_cls* and its bases, in their order."""
    found: dict[str, DependencyProvider[Any]] = {}
    for cls in reversed(service_cls.__mro__):
        for name, value in vars(cls).items():
            if isinstance(value, DependencyProvider):
                found[name] = value
            else:
                found.pop(name, None)
    return [provider.bound_to(name) for name, provider in found.items()]


def service_name_of(service_cls: type) -> str:
    """
    The ``name`` of a service class.

    Raises:
        ConfigurationError: it has none, or one that cannot be a name on the wire.
    """
    name = getattr(service_cls, "name", None)
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"{service_cls.__module__}.{service_cls.__qualname__} is no service: give it a class "
            f'attribute `name`, a string, for example name = "{service_cls.__name__.lower()}"'
        )
    return name


class WorkerContext(msgspec.Struct, eq=False):
    """
    One call that a worker runs.

    Attributes:
        service: the instance of the service class that was made for this call.
    """

    host: Host
    entrypoint: Entrypoint
    service: Any
    call: Call

    @property
    def context(self) -> Context:
        """Ids, context data and deadline."""
        return self.call.context

    @property
    def context_data(self) -> Mapping[str, Any]:
        """What came with the call and goes on with every call made in it."""
        return self.call.context.data

    @property
    def call_id(self) -> str:
        """``service.method.unique``; logs name it."""
        return self.call.context.call_id_stack[-1]

    @property
    def call_id_stack(self) -> tuple[str, ...]:
        """Own id last."""
        return self.call.context.call_id_stack

    @property
    def origin_call_id(self) -> str | None:
        """The first id of the stack that came with the call; ``None`` if none came."""
        stack = self.call.context.call_id_stack
        return stack[0] if len(stack) > 1 else None

    @property
    def immediate_parent_call_id(self) -> str | None:
        """The id of the call that made this one; ``None`` if none came."""
        stack = self.call.context.call_id_stack
        return stack[-2] if len(stack) > 1 else None

    def __repr__(self) -> str:
        return f"<WorkerContext [{self.call}] {self.call_id}>"


class DependencyProvider(Generic[T_co]):
    """
    Gives a service an attribute, anew for every worker.

    Two lifetimes, two context managers: ``lifespan`` is as long as the container, ``provide`` as
    long as one worker. What the method raises is raised at the ``yield`` of ``provide``. A
    dependency that has nothing to open or close per call overrides ``value`` instead of
    ``provide``: it costs a plain function call.
    """

    attr_name: str = "?"
    #: Set by ``__init_subclass__``: whether ``provide`` is what makes the value.
    has_lifetime: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.isasyncgenfunction(vars(cls).get("provide")):
            raise ConfigurationError(
                f"{cls.__qualname__}.provide is an async generator: put @asynccontextmanager above "
                "it (from contextlib)"
            )
        for base in cls.__mro__:
            if "provide" in vars(base) or "value" in vars(base):
                cls.has_lifetime = "provide" in vars(base) and base is not DependencyProvider
                break

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        """Open what all workers share; close it after the last of them."""
        yield

    def provide(self, worker_ctx: WorkerContext) -> AbstractAsyncContextManager[T_co]:
        """
        Yield the dependency of one worker; after the ``yield`` commit, roll back, close.

        ``@asynccontextmanager`` makes one; a class with ``__aenter__`` and ``__aexit__`` costs
        each call less.
        """
        return nullcontext(self.value(worker_ctx))

    def value(self, worker_ctx: WorkerContext) -> T_co:
        """The dependency of one worker, where there is nothing to close."""
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
            f"{owner.__name__}.{self.attr_name} is there inside a worker only, when a call runs "
            f"the method; in a unit test make the service with aiorpc.testing.worker_factory("
            f"{owner.__name__}, {self.attr_name}=...)"
        )

"""
What an extension may ask of its host, and a host of an extension. No I/O; only the default
context managers await. Entrypoints, dependencies and hosting import this file, not one another.
"""

from __future__ import annotations

import copy
import enum
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, ParamSpec, Protocol, Self, TypeVar, overload

import msgspec

from . import former_hooks
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
    "decorator_of",
    "entrypoints_of",
    "providers_of",
    "service_name_of",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")

_ENTRYPOINTS = "__aiorpc_entrypoints__"


class Ending(enum.Enum):
    """How a worker ended. It decides what happens to the message that fired it."""

    #: The method returned, and its dependencies closed without an error.
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
    """How one call ended. ``value`` is the result, encoded by the *encode* of ``submit``."""

    ending: Ending
    value: Any = None
    error: BaseException | None = None


class Submission(Protocol):
    """A call that was submitted to its host."""

    def cancel(self) -> None:
        """Cancel the worker, because the caller cancelled the call: roll back, send no reply."""


class Host(Protocol):
    """What an extension may ask of its container."""

    #: The ``name`` of the service class.
    service_name: str
    #: The service class. Each worker makes an instance of it.
    service_cls: type
    #: The decoded configuration; ``settings.raw`` is the mapping as it was written.
    settings: Settings
    #: The connection to the broker. It reconnects by itself.
    transport: Transport
    #: Encodes and decodes messages as the configuration sets it.
    wire: Wire
    #: How many workers run at a time.
    max_workers: int

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

        *context* is the one that came with the message, if any; the call is its child. For *kind*
        and *redelivered* see :class:`aiorpc.Call`.
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

        *encode* is applied to the result while the dependencies are open, so that a result that
        cannot be sent rolls them back. *settle* is called once when they have closed, whatever
        happens; it must not block.
        """
        ...

    async def work(self, entrypoint: Entrypoint, call: Call) -> Any:
        """
        ``submit`` *call*, and return its result or raise its error. Cancelling this cancels it.

        Raises:
            AioRpcError: it did not run to its end, or raised something that is no ``Exception``.
        """

    def spawn(self, background: Coroutine[Any, Any, None], name: str) -> None:
        """
        Run *background* in a task of that *name* until the container stops to take work; then it is
        cancelled. If it raises, the container fails with its error.
        """

    async def share(self, key: object, opener: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """
        Return what *opener* opens. The first caller with that *key* opens it, and it closes with
        the lifespans of the dependencies.
        """
        ...


@dataclass(kw_only=True, eq=False, repr=False)
class Entrypoint:
    """
    Fires a method of a service. A decorator on the method declares it; the container binds a copy
    to each service class that it hosts.

    A kind of entrypoint overrides ``listen``, or ``listen_all`` if all of the kind on one service
    listen together: the methods of ``rpc`` share one queue.
    """

    method_name: str = field(init=False)
    #: Whether it fires by itself, as a timer does. It starts after the others of its service.
    unprompted: ClassVar[bool] = False

    #: Errors that are not failures of the service: logged as warnings without a traceback.
    expected_exceptions: type[Exception] | tuple[type[Exception], ...] = ()
    #: Names of arguments that no log may show.
    sensitive_arguments: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        self.expected_exceptions = _tuple(self.expected_exceptions)
        self.sensitive_arguments = _tuple(self.sensitive_arguments)

    def queue_name(self, host: Host) -> str | None:
        """The queue whose messages fire it, if any; for logs and for ``aiorpc ls``."""
        return None

    def listen(self, host: Host) -> AbstractAsyncContextManager[None]:
        """
        Fire the method from entry to exit of the context manager. The host finishes the calls that
        were fired before the exit.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither listen nor listen_all")

    @classmethod
    @asynccontextmanager
    async def listen_all(cls, host: Host, entrypoints: Sequence[Any]) -> AsyncGenerator[None]:
        """Do as :meth:`listen` for all *entrypoints* of this kind on one service."""
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
        """``once = Once.decorator`` serves both ``@once`` and ``@once("with")``, as in Nameko."""
        if len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], type):
            return declare(cls(), args[0])
        return functools.partial(declare, cls(*args, **kwargs))


def _tuple(given: Any) -> tuple[Any, ...]:
    return (given,) if isinstance(given, (type, str)) else tuple(given)


class Decorator(Protocol):
    """Marks a method as fired by an entrypoint, and returns it unchanged."""

    def __call__(self, method: F, /) -> F: ...


def decorator_of(kind: Callable[P, Entrypoint]) -> Callable[P, Decorator]:
    """Return a function with the arguments of *kind*: the decorator of its methods."""

    @functools.wraps(kind, updated=())
    def decorator(*args: P.args, **kwargs: P.kwargs) -> Decorator:
        return functools.partial(declare, kind(*args, **kwargs))

    signature = inspect.signature(kind)
    vars(decorator)["__signature__"] = signature.replace(return_annotation=signature.empty)
    return decorator


def declare(entrypoint: Entrypoint, method: F) -> F:
    """Mark *method* as fired by *entrypoint*, and return it unchanged."""
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
        ConfigurationError: it has no name, or an empty one.
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
        """The context data that came with the call. Calls that its method makes carry it too."""
        return self.call.context.data

    @property
    def call_id(self) -> str:
        """``service.method.unique``; logs show it."""
        return self.call.context.call_id_stack[-1]

    @property
    def call_id_stack(self) -> tuple[str, ...]:
        """The ids of the calls that led here; the id of this call is the last."""
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
    Gives a service an attribute. Each worker gets its own value.

    ``lifespan`` is entered once per container, ``provide`` once per worker. An error of the method
    is raised at the ``yield`` of ``provide``. A dependency with nothing to open or close per call
    overrides ``value`` instead, which costs only a function call.
    """

    attr_name: str = "?"
    #: Whether ``provide`` makes the value, and not ``value``. Set by ``__init_subclass__``.
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
        # A provider that it inherits from was checked already.
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
        """Open what all workers share; close it after the last worker."""
        yield

    def provide(self, worker_ctx: WorkerContext) -> AbstractAsyncContextManager[T_co]:
        """
        Yield the dependency of one worker; after the ``yield``, commit or roll back, and close.

        Use ``@asynccontextmanager``. A class with ``__aenter__`` and ``__aexit__`` is faster.
        """
        return nullcontext(self.value(worker_ctx))

    def value(self, worker_ctx: WorkerContext) -> T_co:
        """The dependency of one worker, if there is nothing to close."""
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

"""
The errors of aiorpc, in one tree. Values only: nothing here awaits, logs or does I/O.

::

    AioRpcError
    ├── ConfigurationError            a service, an extension or a setting is wrong
    ├── UnserializableValueError      a value cannot be encoded
    ├── ConnectionLost                the connection failed, or was lost before the answer
    ├── Unroutable                    no queue takes a mandatory message
    ├── RpcError                      a call got no result
    │   ├── RpcTimeout                (also a TimeoutError) no answer came before the deadline
    │   ├── UnknownService            the broker has no queue for the service
    │   ├── ServiceUnavailable        the service's queue has no consumers (fail_fast)
    │   │   └── CircuitOpen           the service does not answer; the call was not sent (breaker)
    │   ├── Overloaded                too many calls wait, or a queue is full or failed
    │   ├── DeliveryUncertain         an at-most-once call may have run already
    │   ├── InProgress                the first call with the same idempotency key still runs
    │   ├── MalformedReply            the answer does not follow the protocol, or the return type
    │   └── RemoteError               the method raised: exc_type, exc_args, value
    └── BadRequest                    the call is wrong, so a repeated call fails again
        ├── MalformedRequest          the message is not a call
        ├── MethodNotFound            the service has no such method
        └── IncorrectSignature        the method does not take these arguments
            └── BadArguments          (also a ValueError) an argument has the wrong type or value

A caller gets ``MalformedRequest``, ``MethodNotFound``, ``IncorrectSignature``, ``BadArguments`` and
classes registered with :func:`deserialize_to_instance` as themselves. Every other error of a remote
method arrives as a :class:`RemoteError`. So a caller can distinguish its own errors from errors of
the service.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar, overload

__all__ = [
    "AioRpcError",
    "BadArguments",
    "BadRequest",
    "CircuitOpen",
    "ConfigurationError",
    "ConnectionLost",
    "DeliveryUncertain",
    "InProgress",
    "IncorrectSignature",
    "MalformedReply",
    "MalformedRequest",
    "MethodNotFound",
    "Overloaded",
    "RemoteError",
    "RpcError",
    "RpcTimeout",
    "ServiceUnavailable",
    "UnknownService",
    "Unroutable",
    "UnserializableValueError",
    "deserialize_to_instance",
    "exception_path",
    "likely",
    "path_on_the_wire",
    "registry",
]

E = TypeVar("E", bound=type[Exception])


class AioRpcError(Exception):
    """Base class of every error of aiorpc."""


class ConfigurationError(AioRpcError):
    """
    A service, an extension or a setting is wrong, so nothing was started.

    Attributes:
        may_pass: whether the broker may accept the same configuration later, such as after an
            operator gave the user a permission. ``aiorpc run`` then tries again.
    """

    def __init__(self, *args: object, may_pass: bool = False) -> None:
        super().__init__(*args)
        self.may_pass = may_pass


class UnserializableValueError(AioRpcError):
    """A value cannot be encoded. The text names the place, the type and the remedy."""


class ConnectionLost(AioRpcError):
    """No broker answers, or the connection was lost before a confirm or an answer arrived."""


class Unroutable(AioRpcError):
    """No queue takes a mandatory message, or the message's exchange does not exist."""


class RpcError(AioRpcError):
    """Base class of the errors that a caller gets instead of a result."""


class RpcTimeout(RpcError, TimeoutError):
    """No answer came before the deadline. The text names the method, the seconds and the reason."""


class UnknownService(RpcError):
    """The broker has no queue for the service: it never ran there, or the name is wrong."""

    def __init__(self, service: str, message: str | None = None) -> None:
        # The service's name is the only argument, as in Nameko's UnknownService.
        super().__init__(service)
        self.service = service
        self.message = message or service

    def __str__(self) -> str:
        return self.message


class ServiceUnavailable(RpcError):
    """The service's queue exists but has no consumers. Raised only with ``fail_fast=True``."""


class CircuitOpen(ServiceUnavailable):
    """
    The middleware ``breaker`` did not send the call, because the service does not answer.

    Attributes:
        retry_after: seconds after which the breaker sends a call again.
    """

    def __init__(self, message: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(RpcError):
    """
    The service refused a call, because too many calls of the method wait (``max_waiting``). Or the
    broker refused a message (``basic.nack``), because a queue is full or has failed.

    Attributes:
        retry_after: seconds after which another attempt may succeed, as the service guesses;
            ``None`` if the broker refused the message.
    """

    def __init__(self, message: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeliveryUncertain(RpcError):
    """An at-most-once method may have run already, so the service did not run it again."""


class InProgress(RpcError):
    """
    The first call with the same idempotency key still runs, or the database could not say in time
    whether it does. The method did not run for this call. Call again later, with the key.
    """

    #: Whether the store of keys of the called method raised the error, so the method did not run.
    refuses_call = False


class MalformedReply(RpcError):
    """The answer does not follow the protocol, or does not fit the declared return type."""


class RemoteError(RpcError):
    """
    The remote method raised an exception whose class is not registered at the caller.

    Attributes:
        exc_type: the name of the exception's class, ``"ValueError"``.
        exc_args: the exception's arguments as strings, as in Nameko.
        value: the exception's text.
        exc_path: the class's import path, ``"builtins.ValueError"``; empty if the peer sent none.
    """

    def __init__(
        self,
        exc_type: str = "",
        value: str = "",
        exc_args: Sequence[Any] = (),
        exc_path: str = "",
    ) -> None:
        super().__init__(f"{exc_type} {value}")
        self.exc_type = exc_type
        self.exc_args = tuple(exc_args)
        self.value = value
        self.exc_path = exc_path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.exc_type, self.value, self.exc_args, self.exc_path)


class BadRequest(AioRpcError):
    """Base class of the errors for wrong calls. A repeated call fails again."""


class MalformedRequest(BadRequest):
    """The message is not a call: its body, its content type or its headers are wrong."""


class MethodNotFound(BadRequest):
    """The service has no method of this name with ``@rpc``."""


class IncorrectSignature(BadRequest):
    """The method does not accept these arguments. The text is Python's own."""


class BadArguments(IncorrectSignature, ValueError):
    """An argument has the wrong type or value. The text names the argument and both types."""

    #: Whether a check of the called method raised the error, such as ``@accepts``. Then the log has
    #: one line, without a traceback: the caller is wrong, not the service.
    refuses_call = False

    @property
    def messages(self) -> Any:
        """Messages of an ``aiorpc.sqlalchemy`` schema, by argument and field; empty without one."""
        return self.args[1] if len(self.args) > 1 else {}

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def exception_path(exc_type: type[BaseException]) -> str:
    """Return ``module.ClassName``, like Nameko, without the outer class of a nested class."""
    return f"{exc_type.__module__}.{exc_type.__name__}"


@overload
def deserialize_to_instance(exc_type: E, /) -> E: ...
@overload
def deserialize_to_instance(path: str, /) -> Callable[[E], E]: ...


def deserialize_to_instance(given: Any, /) -> Any:
    """
    Class decorator: callers get the class itself, and not a :class:`RemoteError`.

    The caller and the service import the class from the same path. Or the caller has a class of its
    own, and names the service's: ``@deserialize_to_instance("orders.exceptions.NotFound")``. The
    caller makes the exception from its arguments, which services send as strings, as in Nameko.

    Raises:
        ConfigurationError: a call cannot raise the class.
    """
    if isinstance(given, str):
        return partial(_register, given)
    path = exception_path(given) if isinstance(given, type) else type(given).__name__
    return _register(path, given)


def _register(path: str, exc_type: E) -> E:
    kind = exc_type if isinstance(exc_type, type) else type(exc_type)
    if kind is not exc_type or not issubclass(kind, Exception) or issubclass(kind, StopIteration):
        what = exception_path(kind) if kind is exc_type else f"a value of type {kind.__name__}"
        raise ConfigurationError(
            f"{what} cannot be raised by a call: register a subclass of Exception, but not of "
            "StopIteration (no coroutine can raise one)"
        )
    if "." not in path.strip("."):
        raise ConfigurationError(
            f"{path!r} is not the import path of a class: write the service's module and class, "
            '"orders.exceptions.NotFound"'
        )
    registry[path_on_the_wire(path)] = exc_type
    return exc_type


def path_on_the_wire(path: str) -> str:
    """Return the import path that replies have for *path*: Nameko's, if both have the error."""
    return _NAMEKO_PATHS.get(path, path)


#: Nameko has classes with the same names and the same meaning.
_NAMEKO_PATHS = {
    exception_path(exc_type): f"nameko.exceptions.{exc_type.__name__}"
    for exc_type in (
        *(MalformedRequest, MethodNotFound, IncorrectSignature),
        *(RpcTimeout, UnknownService, UnserializableValueError, ConfigurationError),
    )
}
#: The classes of remote errors that the caller raises as themselves, by path on the wire.
registry: dict[str, type[Exception]] = {}
for _type in (MalformedRequest, MethodNotFound, IncorrectSignature, BadArguments):
    deserialize_to_instance(_type)


def likely(word: str, known: Collection[str]) -> str:
    """Return `` (did you mean ...?)`` if *word* resembles a *known* word, else an empty text."""
    from difflib import get_close_matches  # few programs need it

    matches = get_close_matches(word, known, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""

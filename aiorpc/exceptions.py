"""
The errors of aiorpc, in one tree. Values only: nothing here awaits, logs or does I/O.

::

    AioRpcError
    ├── ConfigurationError            a service, an extension or a setting is wrong
    ├── UnserializableValueError      a value cannot be put on the wire
    ├── ConnectionLost                the broker is not there, or went away before the answer
    ├── Unroutable                    no queue takes a mandatory message
    ├── RpcError                      a call got no result
    │   ├── RpcTimeout                (also a TimeoutError) no answer came before the deadline
    │   ├── UnknownService            no queue takes calls of that service
    │   ├── ServiceUnavailable        the queue exists, and nobody consumes it (fail_fast)
    │   ├── Overloaded                the broker refused the message: a queue is full, or failed
    │   ├── DeliveryUncertain         an at-most-once call may have run already
    │   ├── MalformedReply            the answer does not follow the protocol, or the return type
    │   └── RemoteError               the method raised: exc_type, exc_args, value
    └── BadRequest                    the call is wrong: repeating it does not help
        ├── MalformedRequest          the message is not a call
        ├── MethodNotFound            the service has no such method
        └── IncorrectSignature        the method does not take these arguments
            └── BadArguments          (also a ValueError) an argument has the wrong type or value

Four errors, and those that you register with :func:`deserialize_to_instance`, are raised at the
caller as themselves: ``MalformedRequest``, ``MethodNotFound``, ``IncorrectSignature`` and
``BadArguments``. Every other error that a remote method raises arrives as :class:`RemoteError`. So
a caller can distinguish its own failures from those of the service that it calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

__all__ = [
    "NAMEKO_ERRORS",
    "AioRpcError",
    "BadArguments",
    "BadRequest",
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
    "registry",
]

E = TypeVar("E", bound=type[Exception])


class AioRpcError(Exception):
    """Base class of every error of aiorpc."""


class ConfigurationError(AioRpcError):
    """A service, an extension or a setting is wrong; nothing was started."""


class UnserializableValueError(AioRpcError):
    """A value cannot be put on the wire. The text says where, of which type, and the remedy."""


class ConnectionLost(AioRpcError):
    """The broker cannot be reached, or went away before it confirmed or answered a message."""


class Unroutable(AioRpcError):
    """No queue takes a mandatory message, or its exchange does not exist."""


class RpcError(AioRpcError):
    """Base class of the errors that a caller gets instead of a result."""


class RpcTimeout(RpcError, TimeoutError):
    """No answer came before the deadline. The text names the method, the seconds and the reason."""


class UnknownService(RpcError):
    """No queue takes calls of that service: it never ran on this broker, or the name is wrong."""

    def __init__(self, service: str, message: str | None = None) -> None:
        # The service's name is the only argument, as in Nameko's UnknownService.
        super().__init__(service)
        self.service = service
        self.message = message or service

    def __str__(self) -> str:
        return self.message


class ServiceUnavailable(RpcError):
    """The service's queue exists, and nobody consumes it. Raised with ``fail_fast=True`` only."""


class Overloaded(RpcError):
    """The broker refused a message (``basic.nack``): a queue that it goes to is full, or failed."""


class DeliveryUncertain(RpcError):
    """A request for an at-most-once method came twice. It may have run, so it was not run again."""


class InProgress(RpcError):
    """Reserved for idempotent calls. Nothing raises it yet."""


class MalformedReply(RpcError):
    """The answer does not follow the protocol, or does not fit the declared return type."""


class RemoteError(RpcError):
    """
    The remote method raised an exception whose type is not registered here.

    Attributes:
        exc_type: the name of its class, ``"ValueError"``.
        exc_args: its arguments as Nameko sends them, as strings.
        value: its text.
        exc_path: its import path, ``"builtins.ValueError"``; empty if the peer sent no path.
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
    """Base class of the errors for calls that are wrong: repeating them does not help."""


class MalformedRequest(BadRequest):
    """The message is not a call: its body, its content type or its headers are wrong."""


class MethodNotFound(BadRequest):
    """The service has no such method marked ``@rpc``."""


class IncorrectSignature(BadRequest):
    """The method does not take these arguments. The text is Python's own."""


class BadArguments(IncorrectSignature, ValueError):
    """An argument has the wrong type or value. The text says which, what is expected, what came."""

    @property
    def messages(self) -> Any:
        """Messages of a schema of ``aiorpc.sqlalchemy``, by argument and field; else empty."""
        return self.args[1] if len(self.args) > 1 else {}

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def exception_path(exc_type: type[BaseException]) -> str:
    """``module.ClassName``, as Nameko sends it; a nested class has no qualified name there."""
    return f"{exc_type.__module__}.{exc_type.__name__}"


def deserialize_to_instance(exc_type: E) -> E:
    """
    Class decorator: callers get *exc_type* itself, and not a :class:`RemoteError`.

    Both sides must import it from the same path. The caller builds it from the arguments that were
    sent, and Nameko sends them as strings.

    Raises:
        ConfigurationError: *exc_type* is not an exception that a call can end with.
    """
    if not issubclass(exc_type, Exception) or issubclass(exc_type, StopIteration):
        raise ConfigurationError(
            f"{exc_type.__module__}.{exc_type.__name__} cannot be raised by a call: register a "
            "subclass of Exception, but not of StopIteration (no coroutine can raise one)"
        )
    registry[exception_path(exc_type)] = exc_type
    return exc_type


#: Nameko has these classes too, and sends their paths there.
NAMEKO_ERRORS = (MalformedRequest, MethodNotFound, IncorrectSignature)
#: The errors that are raised at the caller as themselves, by import path.
registry: dict[str, type[Exception]] = {f"nameko.exceptions.{t.__name__}": t for t in NAMEKO_ERRORS}
for _type in (*NAMEKO_ERRORS, BadArguments):
    deserialize_to_instance(_type)

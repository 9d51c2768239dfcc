"""
Every error that aiorpc raises, in one tree. Nothing here imports, waits or logs.

::

    AioRpcError
    ├── ConfigurationError            a service, an extension or a setting is wrong
    ├── UnserializableValueError      a value cannot be put on the wire
    ├── ConnectionLost                the broker went away before the call could be settled
    ├── Unroutable                    a mandatory message reached an exchange with no queue for it
    ├── RpcError                      what a caller may meet in place of a result
    │   ├── RpcTimeout                (also a TimeoutError) no answer within the deadline
    │   ├── UnknownService            no queue takes calls for that service
    │   ├── ServiceUnavailable        the queue is there, and nobody consumes it (fail_fast)
    │   ├── Overloaded                the service is there and refuses more work
    │   ├── DeliveryUncertain         an at-most-once call may have run already
    │   ├── InProgress                the same idempotent call is running now
    │   ├── MalformedReply            the answer is none that this protocol knows
    │   └── RemoteError               the method raised: exc_type, exc_args, value
    └── BadRequest                    the call itself is wrong: repeating it will not help
        ├── MalformedRequest          the message is no call
        ├── MethodNotFound            the service is there, the method is not
        └── IncorrectSignature        the method does not take these arguments
            └── BadArguments          (also a ValueError) an argument has the wrong type or value

Only ``MalformedRequest``, ``MethodNotFound``, ``IncorrectSignature`` and ``BadArguments`` (and what
you register with :func:`deserialize_to_instance`) cross the wire as themselves. All others that a
remote method raises arrive as :class:`RemoteError`: a caller must be able to tell its own failure
from its callee's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

__all__ = [
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
    "registered",
]

E = TypeVar("E", bound=type[Exception])


class AioRpcError(Exception):
    """Base class of every error of aiorpc."""


class ConfigurationError(AioRpcError):
    """A service, an extension or a setting is wrong; nothing was started."""


class UnserializableValueError(AioRpcError):
    """A value cannot be put on the wire. The text says where in it, its type and the remedy."""


class ConnectionLost(AioRpcError):
    """The broker cannot be reached, or went away before the message could be settled."""


class Unroutable(AioRpcError):
    """A mandatory message reached an exchange that has no queue for its routing key."""


class RpcError(AioRpcError):
    """Base class of what a caller may meet in place of a result."""


class RpcTimeout(RpcError, TimeoutError):
    """No answer came within the deadline. The text says from whom, after how long, and why."""


class UnknownService(RpcError):
    """No queue takes calls for that service: it never ran on this broker, or the name is wrong."""

    def __init__(self, service: str, message: str | None = None) -> None:
        # Nameko's has the service's name for its one argument.
        super().__init__(service)
        self.service = service
        self.message = message or service

    def __str__(self) -> str:
        return self.message


class ServiceUnavailable(RpcError):
    """The service's queue exists, but nobody consumes it (asked for with ``fail_fast=True``)."""


class Overloaded(RpcError):
    """The service refuses more work for now."""


class DeliveryUncertain(RpcError):
    """An at-most-once method was delivered again: it may have run already, so it does not run."""


class InProgress(RpcError):
    """Another worker runs the same idempotent call right now."""


class MalformedReply(RpcError):
    """What came is no answer of this protocol, or does not fit the declared return type."""


class RemoteError(RpcError):
    """
    The remote method raised an exception whose type is not registered here.

    Attributes:
        exc_type: the name of its class, ``"ValueError"``.
        exc_args: its arguments as Nameko sends them, made of strings.
        value: its text.
        exc_path: its import path, ``"builtins.ValueError"``; empty when the peer sent none.
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
    """The call itself is wrong: repeating it will not help."""


class MalformedRequest(BadRequest):
    """The message is no call: its body, its content type or its headers are wrong."""


class MethodNotFound(BadRequest):
    """The service is there; it has no such method marked ``@rpc``."""


class IncorrectSignature(BadRequest):
    """The method does not take these arguments. The text is Python's own."""


class BadArguments(IncorrectSignature, ValueError):
    """An argument has the wrong type or value. The text says which, what is due and what came."""

    @property
    def messages(self) -> Any:
        """What a schema has to say, by argument and field (``aiorpc.sqlalchemy``); else empty."""
        return self.args[1] if len(self.args) > 1 else {}

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


# Which errors come back as themselves. Keyed by import path, as Nameko's registry is.

_registry: dict[str, type[Exception]] = {}


def exception_path(exc_type: type[BaseException]) -> str:
    """``module.ClassName``, the key under which Nameko sends an error (not the qualified name)."""
    return f"{exc_type.__module__}.{exc_type.__name__}"


def deserialize_to_instance(exc_type: E) -> E:
    """
    Class decorator: raise *exc_type* as itself where it arrives, not as :class:`RemoteError`.

    Both sides must have it under the same import path. It is rebuilt from its arguments as they
    were sent, and Nameko sends them as strings.

    Raises:
        ConfigurationError: it is no exception that a call can end with.
    """
    if not issubclass(exc_type, Exception) or issubclass(exc_type, StopIteration):
        raise ConfigurationError(
            f"{exc_type.__module__}.{exc_type.__name__} cannot be raised by a call: register an "
            "Exception, and none that is a StopIteration (no coroutine can raise one)"
        )
    _registry[exception_path(exc_type)] = exc_type
    return exc_type


def registered(path: str) -> type[Exception] | None:
    """The class registered under *path*, if there is one."""
    return _registry.get(path)


for _type in (MalformedRequest, MethodNotFound, IncorrectSignature):
    _registry[f"nameko.exceptions.{_type.__name__}"] = _type
    _registry[exception_path(_type)] = _type
deserialize_to_instance(BadArguments)

"""
Exchanges, queues and messages of AMQP, as plain values. Nothing here awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from math import ceil, isfinite
from typing import Any, Literal, Self, TypeVar

import msgspec

from ..checks import FLAG, MAPPING, SECONDS, Kind, check, check_names
from ..exceptions import ConfigurationError

__all__ = [
    "LONGEST_NAME",
    "MAX_EXPIRATION",
    "Exchange",
    "Message",
    "Queue",
    "checked",
    "expiration_of",
    "name_fault",
]

T = TypeVar("T")

#: 49 days in milliseconds. RabbitMQ closes the channel if an ``expiration`` is too large; every
#: version accepts this value. If the deadline is later, the message has no other limit.
MAX_EXPIRATION = (1 << 32) - 1


#: The longest name of a queue, an exchange or a routing key, in bytes.
LONGEST_NAME = 255


def name_fault(name: str) -> str:
    """Return why *name* names no queue or exchange, to complete "the name ..."; empty if it can."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "is not Unicode text: it has a lone surrogate"
    if length > LONGEST_NAME:
        return f"has {length} bytes, and AMQP allows {LONGEST_NAME}"
    if "\n" in name or "\r" in name:  # RabbitMQ (3.10 to 4.3) declares the name without them
        return "has a line break, which RabbitMQ removes"
    return ""


def _check_name(what: str, name: object) -> None:
    """
    Raises:
        ConfigurationError: *name* is not text that AMQP can carry.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"{what} is a str, not a {type(name).__name__}")
    if fault := name_fault(name):
        raise ConfigurationError(f"{what} {name[:60]!r} {fault}: choose another")


class _Declaration:
    """Base class of exchanges and queues. An unknown option is an error that names the others."""

    name: str

    def __new__(cls, *args: Any, **options: Any) -> Self:
        known = {each.name for each in fields(cls)}  # type: ignore[arg-type]
        check_names(f"{cls.__name__}()", options, known, _REMEDIES)
        return super().__new__(cls)

    def _check(self, kinds: Mapping[str, Kind]) -> None:
        name = f"{type(self).__name__}({self.name!r})"
        check(name, {each: getattr(self, each) for each in kinds}, kinds)


_BY_ARGUMENTS = "write arguments={{{!r}: ...}}"
#: What to write instead of options that kombu has.
_REMEDIES = {
    "delivery_mode": "write persistent= where messages are sent",
    "max_length": _BY_ARGUMENTS.format("x-max-length"),
    "max_length_bytes": _BY_ARGUMENTS.format("x-max-length-bytes"),
    "max_priority": _BY_ARGUMENTS.format("x-max-priority"),
    "message_ttl": f"{_BY_ARGUMENTS.format('x-message-ttl')}, in milliseconds",
    "no_declare": "write passive=True",
    "queue_arguments": "write arguments={...}",
    "queue_type": _BY_ARGUMENTS.format("x-queue-type"),
}
_FLAGS = dict.fromkeys(("durable", "auto_delete", "passive", "accept_existing"), FLAG)
_TYPES = ("topic", "direct", "fanout", "headers")


def _is_argument(value: Any) -> bool:
    if isinstance(value, float | Decimal):
        return isfinite(value)
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    if isinstance(value, list | tuple):
        return all(map(_is_argument, value))
    if isinstance(value, Mapping):
        return MAPPING.fits(value) and all(map(_is_argument, value.values()))
    return value is None or isinstance(value, str | bytes | datetime)


_ARGUMENTS = Kind(
    lambda value: isinstance(value, Mapping) and _is_argument(value),
    "a mapping of str to values of AMQP: str, bytes, bool, int of 64 bits, finite float, Decimal, "
    "datetime, None, lists and mappings",
)
_EXCHANGE_KINDS = {
    **_FLAGS,
    "type": Kind(
        lambda value: value in _TYPES or (isinstance(value, str) and value.startswith("x-")),
        "topic, direct, fanout, headers, or the type of a plugin of the broker, x-...",
    ),
    "arguments": _ARGUMENTS,
}
_LONGEST = MAX_EXPIRATION // 1000
_QUEUE_KINDS = {
    **_FLAGS,
    "exclusive": FLAG,
    "expires": Kind(
        lambda value: value is None or (SECONDS.fits(value) and 0.001 <= value <= _LONGEST),
        f"a number of seconds from 0.001 to {_LONGEST}, or None",
    ),
    "arguments": _ARGUMENTS,
}


@dataclass(frozen=True)
class Exchange(_Declaration):
    """
    An exchange. The name ``""`` is the default exchange, which aiorpc never declares. The default
    type is ``direct``, as in kombu.
    """

    name: str = ""
    type: Literal["topic", "direct", "fanout", "headers"] = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the exchange must exist already, with any type. aiorpc then does not declare it.
    passive: bool = False
    #: Whether aiorpc uses an existing exchange that has another ``auto_delete``.
    accept_existing: bool = False

    def __post_init__(self) -> None:
        _check_name("the name of an exchange", self.name)
        self._check(_EXCHANGE_KINDS)

    def __hash__(self) -> int:  # arguments cannot be hashed
        return hash((self.name, self.type))


@dataclass(frozen=True)
class Queue(_Declaration):
    """
    A queue and its binding to an exchange.

    RabbitMQ 4.3 refuses to declare a transient queue that is not exclusive.
    """

    name: str
    exchange: Exchange = Exchange()
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    #: The broker deletes the queue after this many seconds without a consumer (``x-expires``).
    expires: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: The queue must exist, with any flags. It is not declared, only bound.
    passive: bool = False
    #: Whether aiorpc uses an existing queue that has other arguments, for example from an operator.
    accept_existing: bool = False

    def __post_init__(self) -> None:
        _check_name("the name of a queue", self.name)
        _check_name("the binding key of a queue", self.routing_key)
        checked(f"Queue({self.name!r})", self.exchange, Exchange)
        self._check(_QUEUE_KINDS)

    def __hash__(self) -> int:  # arguments cannot be hashed
        return hash((self.name, self.exchange, self.routing_key))


_EXAMPLES = {
    Exchange: 'Exchange("name", "topic")',
    Queue: 'Queue("name", Exchange("exchange"), "routing key")',
}


def checked(owner: str, given: T, *kinds: type[Exchange] | type[Queue]) -> T:
    """
    Return *given*, an argument of *owner*.

    Raises:
        ConfigurationError: *given* is none of *kinds*, for example an exchange of kombu.
    """
    if isinstance(given, kinds):
        return given
    found = type(given)
    # kombu's classes have the same names.
    name = (
        found.__name__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__name__}"
    )
    raise ConfigurationError(
        f"{owner} takes {' or '.join(f'aiorpc.{kind.__name__}' for kind in kinds)}, not {name}: "
        f"import Exchange and Queue from aiorpc, and write {_EXAMPLES[kinds[-1]]}"
    )


class Message(msgspec.Struct, kw_only=True, gc=False):
    """
    A body and its AMQP properties. A property that is ``None`` is not sent.

    ``expiration`` is in milliseconds, as on the wire. ``headers`` may hold the types of an AMQP
    table: str, bytes, bool, int of 64 bits, float, Decimal, datetime, None, lists and dicts.
    """

    body: bytes
    content_type: str | None = "application/json"
    content_encoding: str | None = "utf-8"
    headers: Mapping[str, Any] | None = None
    persistent: bool = True
    priority: int | None = 0
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: int | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    #: The body without its compression, or why it has none. Not sent: the receiver sets it.
    decompressed: bytes | str | None = None


def expiration_of(seconds: float) -> int:
    """Convert *seconds* >= 0 to an ``expiration``: milliseconds, rounded up, at least 1."""
    milliseconds = ceil(seconds * 1000) or 1
    return milliseconds if milliseconds < MAX_EXPIRATION else MAX_EXPIRATION  # noqa: FURB136 - min() is a call, for each request

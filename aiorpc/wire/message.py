"""
Exchanges, queues and messages of AMQP, as plain values. Nothing here awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import ceil
from typing import Any, Literal, TypeVar

import msgspec

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


class Exchange(msgspec.Struct, frozen=True):
    """
    An exchange. The name ``""`` is the default exchange, which aiorpc never declares. The default
    type is ``direct``, as in kombu.
    """

    name: str = ""
    type: Literal["topic", "direct", "fanout", "headers"] = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: Mapping[str, Any] = {}
    #: Whether the exchange must exist already, with any type. aiorpc then does not declare it.
    passive: bool = False
    #: Whether aiorpc uses an existing exchange that has another ``auto_delete``.
    accept_existing: bool = False

    def __post_init__(self) -> None:
        _check_name("the name of an exchange", self.name)

    def __hash__(self) -> int:  # arguments cannot be hashed
        return hash((self.name, self.type))


class Queue(msgspec.Struct, frozen=True):
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
    arguments: Mapping[str, Any] = {}
    #: The queue must exist, with any flags. It is not declared, only bound.
    passive: bool = False
    #: Whether aiorpc uses an existing queue that has other arguments, for example from an operator.
    accept_existing: bool = False

    def __post_init__(self) -> None:
        _check_name("the name of a queue", self.name)
        _check_name("the binding key of a queue", self.routing_key)
        checked(f"Queue({self.name!r})", self.exchange, Exchange)

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

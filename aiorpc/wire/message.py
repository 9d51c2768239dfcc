"""
Exchanges, queues and messages of AMQP, as plain values. Nothing here awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import ceil
from typing import Any, Literal

import msgspec

from ..exceptions import ConfigurationError

__all__ = ["MAX_EXPIRATION", "Exchange", "Message", "Queue", "expiration_of"]

#: Milliseconds, 49 days. RabbitMQ closes the channel for an ``expiration`` that is too large for
#: it; no version refuses this one. A longer wait is bounded by the deadline alone.
MAX_EXPIRATION = (1 << 32) - 1


class Exchange(msgspec.Struct, frozen=True):
    """
    An exchange. The name ``""`` is the default exchange, which is never declared. The default type
    is ``direct``, as in kombu.
    """

    name: str = ""
    type: Literal["topic", "direct", "fanout", "headers"] = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: Mapping[str, Any] = {}
    #: The exchange must exist, of any type. It is not declared; queues are only bound to it.
    passive: bool = False

    def __hash__(self) -> int:  # arguments cannot be hashed
        return hash((self.name, self.type))


class Queue(msgspec.Struct, frozen=True):
    """
    A queue and the binding that feeds it.

    RabbitMQ 4.3 refuses to declare a transient queue that is not exclusive.
    """

    name: str
    exchange: Exchange = Exchange()
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    #: Seconds without a consumer after which the broker deletes the queue (``x-expires``).
    expires: float | None = None
    arguments: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        if not isinstance(self.exchange, Exchange):
            raise ConfigurationError(
                f"the exchange of queue {self.name!r} is a {type(self.exchange).__name__}: write "
                'Queue("name", Exchange("exchange"), "routing key")'
            )

    def __hash__(self) -> int:  # arguments cannot be hashed
        return hash((self.name, self.exchange, self.routing_key))


class Message(msgspec.Struct, kw_only=True, gc=False):
    """
    A body and its AMQP properties; ``None`` leaves a property out of the frame.

    ``expiration`` is in milliseconds, as on the wire. ``headers`` hold what an AMQP table can:
    str, bytes, bool, int of 64 bits, float, Decimal, datetime, None, lists and dicts of these.
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


def expiration_of(seconds: float) -> int:
    """Return the ``expiration`` for *seconds* >= 0: milliseconds, rounded up, at least 1."""
    return min(ceil(seconds * 1000) or 1, MAX_EXPIRATION)

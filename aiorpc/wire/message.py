"""
The nouns of AMQP, as plain values. Nothing here knows what a call is, and nothing here does I/O.
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
    An exchange; the name ``""`` is the default exchange, which nobody declares. Without a type it
    is ``direct``, as in kombu.
    """

    name: str = ""
    type: Literal["topic", "direct", "fanout", "headers"] = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: Mapping[str, Any] = {}
    #: Somebody else declares it: it has to be there, as it may be, and queues are bound to it.
    passive: bool = False

    def __hash__(self) -> int:  # arguments have none
        return hash((self.name, self.type))


class Queue(msgspec.Struct, frozen=True):
    """
    A queue and the binding that feeds it.

    Never declare a transient queue that is not exclusive: RabbitMQ 4.3 refuses it.
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

    def __hash__(self) -> int:  # arguments have none
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
    """The ``expiration`` of *seconds*: in milliseconds, rounded up, at least 1."""
    return min(max(1, ceil(seconds * 1000)), MAX_EXPIRATION)

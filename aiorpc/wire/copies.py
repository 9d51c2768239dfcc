"""
Reads the number of failed attempts from a message, and makes copies of the message to re-send or to
park. Pure functions: nothing here awaits or does I/O. :mod:`aiorpc.entrypoints.attempts` uses them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..context import EMPTY, Deadline
from .message import Message, expiration_of
from .names import (
    ACQUIRED_COUNT,
    ATTEMPTS,
    COPY,
    DELIVERY_COUNT,
    ORIGINAL_EXCHANGE,
    ORIGINAL_ROUTING_KEY,
    RESENT,
    ROUTING_HEADERS,
)

__all__ = [
    "attempts_of",
    "copy_id_of",
    "counted",
    "counted_by_broker",
    "identity_of",
    "original_key_of",
    "parked",
    "was_resent",
]


def attempts_of(message: Message) -> int | None:
    """Return the number of failed attempts at *message*; ``None`` if nobody counted attempts."""
    attempts = message.headers.get(ATTEMPTS) if message.headers else None
    return attempts if type(attempts) is int and attempts >= 0 else None


def was_resent(message: Message) -> bool:
    """Return whether *message* was sent before. A service may have worked on it already."""
    return message.headers is not None and RESENT in message.headers


def counted_by_broker(message: Message) -> bool:
    """Return whether *message* comes from a quorum queue, which counts attempts itself."""
    return message.headers is not None and DELIVERY_COUNT in message.headers


def copy_id_of(message: Message) -> str | None:
    """Return the id of a copy; ``None`` if *message* is an original."""
    copy = message.headers.get(COPY) if message.headers else None
    return copy if type(copy) is str else None


def original_key_of(message: Message) -> str:
    """Return the routing key of the original of *message*, if *message* is a copy."""
    return str(message.headers.get(ORIGINAL_ROUTING_KEY, "")) if message.headers else ""


#: Headers that differ between two deliveries of a message, or between a message and its copies.
_OF_ONE_DELIVERY = ROUTING_HEADERS | {
    *(DELIVERY_COUNT, ACQUIRED_COUNT, RESENT, ATTEMPTS, COPY),
    *(ORIGINAL_EXCHANGE, ORIGINAL_ROUTING_KEY),
}


def identity_of(message: Message, exchange: str, routing_key: str) -> tuple[Any, ...]:
    """
    Return a value that is equal for all deliveries of *message* and of its copies.

    Nameko's messages have no id, so two messages with equal contents have equal identities.
    """
    headers = message.headers or EMPTY
    return (
        message.body,
        message.message_id,
        message.correlation_id,
        headers.get(ORIGINAL_EXCHANGE, exchange),
        headers.get(ORIGINAL_ROUTING_KEY, routing_key),
        {name: value for name, value in headers.items() if name not in _OF_ONE_DELIVERY},
    )


def counted(
    message: Message,
    exchange: str,
    routing_key: str,
    copy_id: str,
    attempts: int,
    deadline: Deadline | None,
) -> Message:
    """
    Return a copy of *message* to re-send, with the number of failed *attempts*. *exchange* and
    *routing_key* are where *message* came from, if it is an original.
    """
    copy = _sent_on(message, exchange, routing_key)
    copy.headers = {**(copy.headers or EMPTY), RESENT: True, ATTEMPTS: attempts, COPY: copy_id}
    if deadline is not None:
        copy.expiration = expiration_of(deadline.remaining())
    return copy


def parked(message: Message, exchange: str, routing_key: str) -> Message:
    """Return a copy of *message* to park. The copy never expires; its headers name its origin."""
    copy = _sent_on(message, exchange, routing_key)
    copy.expiration = None
    copy.persistent = True
    return copy


def _sent_on(message: Message, exchange: str, routing_key: str) -> Message:
    kept: dict[str, Any] = {
        k: v for k, v in (message.headers or EMPTY).items() if k not in ROUTING_HEADERS
    }
    kept.setdefault(ORIGINAL_EXCHANGE, exchange)
    kept.setdefault(ORIGINAL_ROUTING_KEY, routing_key)
    # RabbitMQ refuses a user_id that is not the user of our connection (406).
    return msgspec.structs.replace(message, headers=kept, user_id=None)

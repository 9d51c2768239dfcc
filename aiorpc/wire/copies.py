"""
What a message tells of how often it was delivered in vain, and how it is sent on: again, with a
count, or to be parked. Pure functions; the rules are in :mod:`aiorpc.entrypoints.attempts`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..context import EMPTY, Deadline
from .message import Message, expiration_of
from .names import (
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
    "original_key_of",
    "parked",
    "was_resent",
]


def attempts_of(message: Message) -> int | None:
    """The failed attempts that *message* tells of; ``None`` if nobody has counted them."""
    attempts = message.headers.get(ATTEMPTS) if message.headers else None
    return attempts if type(attempts) is int and attempts >= 0 else None


def was_resent(message: Message) -> bool:
    """Whether it was sent before, so that it may have been worked on."""
    return message.headers is not None and RESENT in message.headers


def counted_by_broker(message: Message) -> bool:
    """Whether it comes from a quorum queue, which counts by itself and has a limit of its own."""
    return message.headers is not None and DELIVERY_COUNT in message.headers


def copy_id_of(message: Message) -> str | None:
    """Which copy it is; ``None`` for an original."""
    copy = message.headers.get(COPY) if message.headers else None
    return copy if type(copy) is str else None


def original_key_of(message: Message) -> str:
    """The routing key of a message that was sent on, as it was at first."""
    return str(message.headers.get(ORIGINAL_ROUTING_KEY, "")) if message.headers else ""


def counted(
    message: Message,
    exchange: str,
    routing_key: str,
    copy_id: str,
    attempts: int,
    deadline: Deadline | None,
) -> Message:
    """*message*, which came by *exchange* and *routing_key*, to be sent again after *attempts*."""
    copy = _sent_on(message, exchange, routing_key)
    copy.headers = {**(copy.headers or EMPTY), RESENT: True, ATTEMPTS: attempts, COPY: copy_id}
    if deadline is not None:
        copy.expiration = expiration_of(deadline.remaining())
    return copy


def parked(message: Message, exchange: str, routing_key: str) -> Message:
    """*message* as it is kept: without an end, and with what it takes to send it again."""
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
    # RabbitMQ refuses a user_id that is not ours (406).
    return msgspec.structs.replace(message, headers=kept, user_id=None)

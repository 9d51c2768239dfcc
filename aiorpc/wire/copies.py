"""
Reads the number of failed attempts from a message, and makes copies of the message to re-send. Pure
functions: nothing here awaits or does I/O. :mod:`aiorpc.entrypoints.attempts` uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..context import EMPTY, Deadline
from .message import Message, expiration_of
from .names import (
    ACQUIRED_COUNT,
    ATTEMPTS,
    CALL_ID_STACK,
    COPY,
    DEATHS,
    DELIVERY_COUNT,
    ORIGINAL_EXCHANGE,
    ORIGINAL_ROUTING_KEY,
    PARKED_EXCHANGE,
    PARKED_HEADERS,
    PARKED_QUEUE,
    PARKED_ROUTING_KEY,
    RESENT,
    RETRIES,
    ROUTING_HEADERS,
)

__all__ = [
    "attempts_of",
    "copy_id_of",
    "counted",
    "counted_by_broker",
    "failures_of",
    "has_id",
    "identity_of",
    "kept",
    "origin_of",
    "original_key_of",
    "retried",
    "retries_of",
    "was_resent",
]


def attempts_of(message: Message) -> int | None:
    """Return the number of failed attempts at *message*; ``None`` if nobody counted attempts."""
    attempts = message.headers.get(ATTEMPTS) if message.headers else None
    return attempts if type(attempts) is int and attempts >= 0 else None


def was_resent(message: Message) -> bool:
    """Return whether *message* was sent before. A service may have worked on it already."""
    return message.headers is not None and RESENT in message.headers


def counted_by_broker(message: Message) -> int | None:
    """
    Return how many failed deliveries of a redelivered *message* its quorum queue counted. ``None``
    if no quorum queue counted, or perhaps another queue did.

    Before RabbitMQ 4.3, a requeue counts as a failed delivery. Since 4.3, ``x-acquired-count``
    exists and counts these, and a queue also counts the failed deliveries of the quorum queue that
    dead-lettered the message.
    """
    headers = message.headers or EMPTY
    if DEATHS in headers and ATTEMPTS not in headers:
        return None
    count = headers.get(DELIVERY_COUNT, 0 if ACQUIRED_COUNT in headers else None)
    return count if type(count) is int and count >= 0 else None


def failures_of(message: Message, redelivered: bool) -> tuple[int, int]:
    """
    Return how many earlier deliveries of *message* failed: at least, and at most.

    The numbers differ by one if a host that stopped may have requeued the message: once, because
    then it sends copies with a count (:mod:`aiorpc.entrypoints.attempts`).
    """
    known, by_broker = attempts_of(message), counted_by_broker(message)
    most = known or 0
    if not redelivered:
        return most, most
    most += 1 if by_broker is None else by_broker
    headers = message.headers or EMPTY
    exact = known is not None or (by_broker is not None and ACQUIRED_COUNT in headers)
    return most if exact else max(0, most - 1), most


def copy_id_of(message: Message) -> str | None:
    """Return the id of a copy; ``None`` if *message* is an original."""
    copy = message.headers.get(COPY) if message.headers else None
    return copy if type(copy) is str else None


def origin_of(headers: Mapping[str, Any], exchange: str, routing_key: str) -> tuple[str, str]:
    """
    Return where a message was sent first. *exchange* and *routing_key* are where it came from. They
    are the same, unless it is a copy, or was parked and moved back to its queue.
    """
    names = ORIGINAL_EXCHANGE, ORIGINAL_ROUTING_KEY
    if ORIGINAL_EXCHANGE not in headers and PARKED_QUEUE in headers:
        names = PARKED_EXCHANGE, PARKED_ROUTING_KEY
    return headers.get(names[0], exchange), headers.get(names[1], routing_key)


def original_key_of(message: Message) -> str:
    """Return the routing key of the original of *message*, if *message* is a copy."""
    return str(origin_of(message.headers or EMPTY, "", "")[1])


#: Headers of a copy with a count of attempts.
_OF_A_COPY = frozenset({ATTEMPTS, COPY})
#: The counts are of one queue: a classic queue would keep them.
_NOT_SENT_ON = ROUTING_HEADERS | PARKED_HEADERS | {DELIVERY_COUNT, ACQUIRED_COUNT}
#: Headers that differ between two deliveries of a message, or between a message and its copies.
_OF_ONE_DELIVERY = _NOT_SENT_ON | {
    *(RESENT, ATTEMPTS, COPY, RETRIES),
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
        *origin_of(headers, exchange, routing_key),
        {name: value for name, value in headers.items() if name not in _OF_ONE_DELIVERY},
    )


def has_id(message: Message) -> bool:
    """Return whether an id in *message* tells it from other messages with equal contents."""
    if message.message_id or message.correlation_id:
        return True
    return message.headers is not None and bool(message.headers.get(CALL_ID_STACK))


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
    copy = _sent_on(_with_origin(message, exchange, routing_key))
    copy.headers = {**(copy.headers or EMPTY), RESENT: True, ATTEMPTS: attempts, COPY: copy_id}
    if deadline is not None:
        copy.expiration = expiration_of(deadline.remaining())
    return copy


def retries_of(message: Message) -> int:
    """Return how often a handler has retried *message*."""
    retries = message.headers.get(RETRIES) if message.headers else None
    return retries if type(retries) is int and retries >= 0 else 0


def retried(message: Message, exchange: str, routing_key: str, retries: int) -> Message:
    """Return a copy of *message*, which failed, to run again: for the *retries*-th time."""
    copy = kept(_with_origin(message, exchange, routing_key))
    headers = {name: v for name, v in (copy.headers or EMPTY).items() if name not in _OF_A_COPY}
    copy.headers = {**headers, RESENT: True, RETRIES: retries}
    return copy


def kept(message: Message) -> Message:
    """Return a copy of *message* that never expires, and survives a restart of the broker."""
    copy = _sent_on(message)
    copy.expiration = None
    copy.persistent = True
    return copy


def _with_origin(message: Message, exchange: str, routing_key: str) -> Message:
    headers = message.headers or EMPTY
    exchange, routing_key = origin_of(headers, exchange, routing_key)
    origin = {ORIGINAL_EXCHANGE: exchange, ORIGINAL_ROUTING_KEY: routing_key}
    return msgspec.structs.replace(message, headers={**headers, **origin})


def _sent_on(message: Message) -> Message:
    headers = {k: v for k, v in (message.headers or EMPTY).items() if k not in _NOT_SENT_ON}
    # RabbitMQ refuses a user_id that is not the user of our connection (406).
    return msgspec.structs.replace(message, headers=headers, user_id=None)

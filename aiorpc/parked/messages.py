"""
One parked message, and which of many are wanted. Pure: nothing here awaits or does I/O.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import msgspec

from ..context import EMPTY
from ..transports.base import Delivery
from ..wire.message import Message
from ..wire.names import ACQUIRED_COUNT, DELIVERY_COUNT, UNREADABLE
from ..wire.parked import Parking, parking_of

__all__ = ["Group", "OneMessage", "ParkedMessage", "Selection", "id_of", "largest"]

#: Headers that differ between two looks at a message.
_OF_A_LOOK = frozenset({ACQUIRED_COUNT, DELIVERY_COUNT})


def id_of(message: Message) -> str:
    """
    Return ten hexadecimal digits for the contents of *message*, since many messages have no id of
    their own. Messages with equal contents have the same digits.
    """
    headers = message.headers or EMPTY
    kept = sorted((k, repr(v)) for k, v in headers.items() if k not in _OF_A_LOOK)
    digest = blake2b(message.body, digest_size=5)
    digest.update(repr((message.message_id, message.correlation_id, kept)).encode(errors="replace"))
    return digest.hexdigest()


class ParkedMessage(msgspec.Struct, eq=False):
    """
    A message that was taken from a parked queue.

    Attributes:
        position: its place in the queue, from 1.
        id: see :func:`id_of`.
    """

    queue: str
    position: int
    id: str
    delivery: Delivery
    parking: Parking

    @classmethod
    def of(cls, queue: str, position: int, delivery: Delivery) -> ParkedMessage:
        message = delivery.message
        return cls(queue, position, id_of(message), delivery, parking_of(message, queue))

    @property
    def message(self) -> Message:
        return self.delivery.message

    @property
    def unreadable(self) -> str:
        """Why the broker's bytes cannot be read as a message; empty if they can."""
        return str((self.message.headers or EMPTY).get(UNREADABLE, ""))


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which messages are wanted: all that fit each condition.

    Attributes:
        names: positions, ids, or message ids; each names the first message that has it. Empty:
            any.
        method, error: patterns with ``*``; ``None``: any. An error's pattern also fits a part of
            the reason.
    """

    names: tuple[str, ...] = ()
    method: str | None = None
    error: str | None = None

    @property
    def is_all(self) -> bool:
        return not self.names and self.method is None and self.error is None

    @property
    def last(self) -> int | None:
        """The last position that can be wanted; ``None`` if any can."""
        if self.names and all(map(_is_position, self.names)):
            return max(map(int, self.names))
        return None

    def takes(self, message: ParkedMessage) -> bool:
        """Return whether *message* is wanted."""
        if self.names and self.named(message) is None:
            return False
        parking = message.parking
        if self.method is not None and not fnmatch.fnmatchcase(parking.method, self.method):
            return False
        return self.error is None or (
            fnmatch.fnmatchcase(parking.error, self.error)
            or (bool(self.error) and self.error.lower() in parking.reason.lower())
        )

    def named(self, message: ParkedMessage) -> str | None:
        """Return which of the names fits *message*, if any."""
        for name in self.names:
            if _is_position(name):
                if int(name) == message.position:
                    return name
            elif name in (message.id, message.message.message_id):
                return name
        return None


def _is_position(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 8


class Group(msgspec.Struct):
    """The messages of one queue with the same method and the same type of error."""

    method: str
    error: str
    count: int
    #: Of the first message: its position, its id, and the reason.
    first: int
    id: str
    reason: str
    #: When the first and the last of them were parked, in ISO 8601, if they say so.
    oldest: str | None = None
    newest: str | None = None
    #: Bytes of all bodies.
    bytes: int = 0

    @staticmethod
    def add_to(groups: dict[tuple[str, str], Group], message: ParkedMessage) -> None:
        """Count *message* in its group of *groups*."""
        row = OneMessage.of(message)
        key = row.method, row.error
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group(*key, 0, row.position, row.id, row.reason)
        group.count += 1
        group.bytes += row.bytes
        if row.at is not None:
            group.oldest = min(group.oldest or row.at, row.at)
            group.newest = max(group.newest or row.at, row.at)


class OneMessage(msgspec.Struct):
    """One message in a list. ``at``: when it was parked, in ISO 8601. ``bytes``: of its body."""

    position: int
    id: str
    at: str | None
    method: str
    error: str
    reason: str
    bytes: int

    @classmethod
    def of(cls, message: ParkedMessage) -> OneMessage:
        parking = message.parking
        return cls(
            message.position,
            message.id,
            None if parking.at is None else parking.at.isoformat(),
            parking.method,
            "unreadable" if message.unreadable else parking.error,
            message.unreadable or parking.reason,
            len(message.message.body),
        )


def largest(messages: Iterable[Any]) -> int:
    """Return the bytes of the largest body of *messages*."""
    return max((len(each.message.body) for each in messages), default=0)

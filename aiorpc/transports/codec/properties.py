"""
Reads content headers. Pure functions: nothing here awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any

from ...context import EMPTY
from ...wire.message import Message
from .frames import (
    APP_ID,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    CORRELATION_ID,
    DELIVERY_MODE,
    EXPIRATION,
    HEADERS,
    MESSAGE_ID,
    MORE_FLAGS,
    PRIORITY,
    REPLY_TO,
    TIMESTAMP,
    TYPE,
    USER_ID,
)
from .headers import decode_headers
from .table_decoding import GARBLED, MalformedTable, from_epoch, size_at

__all__ = ["MalformedContent", "decode_content_header", "decode_properties", "problem"]

_flags_at = Struct(">BB").unpack_from
_u64_at = Struct(">Q").unpack_from

#: Content type and encoding of nearly every message, and the size of the headers behind them.
_JSON = b"\x10application/json\x05utf-8"
_KIND_AND_HEADERS = CONTENT_TYPE | CONTENT_ENCODING | HEADERS
_BEGINNING = Struct(f">{len(_JSON)}sI")
_beginning_at = _BEGINNING.unpack_from


class MalformedContent(ValueError):
    """The bytes are not a content header, or its properties cannot be read."""


def decode_content_header(payload: bytes, body: bytes) -> Message:
    """
    Return the message with *body*; *payload* is the payload of its content header frame.

    Raises:
        MalformedContent: the properties end too early, or the table of headers is garbled.
    """
    try:
        flags, rare = _flags_at(payload, 12)
        return decode_properties(payload, 14, len(payload), flags, rare, body)
    except GARBLED as error:
        raise MalformedContent(problem(error)) from None


def problem(error: Exception) -> str:
    """Describe *error*, one of :data:`GARBLED`, as a problem of a message."""
    return str(error) if isinstance(error, MalformedTable) else f"the properties end early: {error}"


# long: every message passes here, and a call for each property costs more than reading it (ADR 6)
def decode_properties(
    data: bytes, at: int, end: int, flags: int, rare: int, body: bytes
) -> Message:
    """
    Return the message with *body* and the properties in ``data[at:end]``; the two bytes of flags,
    *flags* and *rare*, say which.

    Skip properties that AMQP 0-9-1 does not define; they come after all defined properties. Ignore
    an ``expiration`` that is not a number. A message without ``delivery_mode`` is not persistent.

    Raises:
        GARBLED: any of these errors; see :func:`problem`.
    """
    if rare & MORE_FLAGS:
        at = _skip_flags(data, at)
    content_type: str | None = "application/json"
    encoding: str | None = "utf-8"
    headers: Mapping[str, Any] | None = None
    persistent, priority = False, None
    correlation_id = reply_to = expiration = None
    kind, size = b"", 0
    if flags >= _KIND_AND_HEADERS and end - at >= _BEGINNING.size:
        kind, size = _beginning_at(data, at)
    if kind == _JSON:
        at += len(_JSON)
        if size:
            headers, at = decode_headers(data, at, size)
        else:
            headers, at = EMPTY, at + 4
    else:
        content_type, encoding, at = _read_kind(data, at, flags)
        if flags & HEADERS:
            headers, at = decode_headers(data, at, size_at(data, at)[0])
    if flags & DELIVERY_MODE:
        persistent = data[at] == 2
        at += 1
    if flags & PRIORITY:
        priority = data[at]
        at += 1
    if flags & CORRELATION_ID:
        start = at + 1
        at = start + data[at]
        correlation_id = data[start:at].decode("utf-8", "surrogateescape")
    if flags & REPLY_TO:
        start = at + 1
        at = start + data[at]
        reply_to = data[start:at].decode("utf-8", "surrogateescape")
    if flags & EXPIRATION:
        start = at + 1
        at = start + data[at]
        digits = data[start:at]
        expiration = int(digits) if digits.isdigit() else None
    message = Message(
        body=body,
        content_type=content_type,
        content_encoding=encoding,
        headers=headers,
        persistent=persistent,
        priority=priority,
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration=expiration,
    )
    if rare:
        at = _read_rare(data, at, rare, message)
    if at > end:
        raise IndexError("a property is longer than its frame")
    return message


def _skip_flags(data: bytes, at: int) -> int:
    while True:
        _, more = _flags_at(data, at)
        at += 2
        if not more & MORE_FLAGS:
            return at


def _text(data: bytes, at: int) -> tuple[str, int]:
    start = at + 1
    end = start + data[at]
    return data[start:end].decode("utf-8", "surrogateescape"), end


def _read_kind(data: bytes, at: int, flags: int) -> tuple[str | None, str | None, int]:
    content_type = encoding = None
    if flags & CONTENT_TYPE:
        content_type, at = _text(data, at)
    if flags & CONTENT_ENCODING:
        encoding, at = _text(data, at)
    return content_type, encoding, at


def _read_rare(data: bytes, at: int, flags: int, message: Message) -> int:
    if flags & MESSAGE_ID:
        message.message_id, at = _text(data, at)
    if flags & TIMESTAMP:
        message.timestamp = from_epoch(_u64_at(data, at)[0])
        at += 8
    if flags & TYPE:
        message.type, at = _text(data, at)
    if flags & USER_ID:
        message.user_id, at = _text(data, at)
    if flags & APP_ID:
        message.app_id, at = _text(data, at)
    return at

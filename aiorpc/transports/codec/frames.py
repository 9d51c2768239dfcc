"""
The hot frames of AMQP 0-9-1, to bytes and back: publish, deliver, return, ack, nack, reject and
content. Sans I/O: nothing here waits, and no AMQP library is used.

A frame is ``type(1) channel(2) size(4) payload 0xCE``. A message is a method frame, a content
header frame (class, weight, body size, property flags, properties) and body frames of at most the
negotiated ``frame_max``; in between, nothing else may go out on the same channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct, error as struct_error
from typing import Any, Final

from ...exceptions import UnserializableValueError
from ...wire.message import Message
from .headers import decode_headers, encode_headers
from .table import GARBLED, MalformedTable, epoch_seconds, from_epoch

__all__ = [
    "Encoder",
    "MalformedContent",
    "decode_content_header",
    "decode_flagged",
    "decode_properties",
    "short_string",
]

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
FRAME_END: Final = 0xCE
#: Type, channel and size in front, the end octet behind.
FRAME_OVERHEAD: Final = 8
#: Bytes of a content header in front of its properties: class, weight, size of body, flags.
_HEADER_HEAD: Final = 14
#: A whole heartbeat frame.
HEARTBEAT: Final = b"\x08\0\0\0\0\0\0\xce"

# class << 16 | method
DELIVER: Final = 0x3C003C
RETURN: Final = 0x3C0032
ACK: Final = 0x3C0050
NACK: Final = 0x3C0078
REJECT: Final = 0x3C005A
PUBLISH: Final = 0x3C0028
CHANNEL_CLOSE: Final = 0x140028
CONNECTION_CLOSE: Final = 0x0A0032
BLOCKED: Final = 0x0A003C
UNBLOCKED: Final = 0x0A003D

_END = b"\xce"
_LENGTHS = [bytes((length,)) for length in range(256)]
_FRAME = Struct(">BHI").pack
_CONTENT = Struct(">BHIHHQH").pack
_END_FRAME = Struct(">BBHI").pack
_TAGGED = Struct(">BHIIQBB").pack
_U16 = Struct(">H").unpack_from
_U64 = Struct(">Q")

# Property flags, in the order in which the properties follow.
_CONTENT_TYPE = 1 << 15
_CONTENT_ENCODING = 1 << 14
_HEADERS = 1 << 13
_DELIVERY_MODE = 1 << 12
_PRIORITY = 1 << 11
_CORRELATION_ID = 1 << 10
_REPLY_TO = 1 << 9
_EXPIRATION = 1 << 8
_MESSAGE_ID = 1 << 7
_TIMESTAMP = 1 << 6
_TYPE = 1 << 5
_USER_ID = 1 << 4
_APP_ID = 1 << 3
_RARE = 0xFF
_MORE_FLAGS = 1

#: What caches may hold before they begin anew: enough for the destinations of one process.
_CACHED = 1024


class MalformedContent(ValueError):
    """The bytes are no content header, or hold properties that cannot be read."""


# --- writing


def short_string(text: str, what: str) -> bytes:
    """
    Return *text* as a short string: one byte of length, at most 255 bytes.

    Raises:
        UnserializableValueError: it has more, or is no Unicode text; the text calls it *what*.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        # What decode_content_header could not read as UTF-8 goes back as it came.
        try:
            raw = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise UnserializableValueError(f"the {what} {text[:60]!r} is no Unicode text") from None
    if len(raw) > 255:
        raise UnserializableValueError(
            f"an AMQP {what} has at most 255 bytes; {text[:60]!r}... has {len(raw)}"
        )
    return bytes((len(raw),)) + raw


class Encoder:
    """
    Makes the frames of one channel. What is the same in every message is made once: the method
    frame of each destination, content type and encoding, reply-to.
    """

    __slots__ = ("_kinds", "_prefixes", "_reply_tos", "channel", "max_body")

    def __init__(self, channel: int, frame_max: int) -> None:
        self.channel = channel
        #: The most body that one frame holds; a frame_max of 0 means no limit.
        self.max_body = (frame_max or 131072) - FRAME_OVERHEAD
        self._prefixes: dict[tuple[str, str, bool], bytes] = {}
        self._kinds: dict[tuple[str | None, str | None], tuple[int, bytes]] = {}
        self._reply_tos: dict[str, bytes] = {}

    def publish(
        self,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        message: Message,
    ) -> bytes:
        """
        ``basic.publish`` with its content, all frames in one piece.

        Raises:
            UnserializableValueError: a header, a name or property of more than 255 bytes, or more
                of them than one frame holds: for a larger one the broker would hang up.
        """
        # Every message goes through here, so all of the usual case is in this one function.
        prefix = self._prefixes.get((exchange, routing_key, mandatory))
        if prefix is None:
            prefix = self._prefix(exchange, routing_key, mandatory)
        kind = self._kinds.get((message.content_type, message.content_encoding))
        if kind is None:
            kind = self._kind(message.content_type, message.content_encoding)
        flags, encoded = kind
        flags |= _DELIVERY_MODE
        parts = [encoded]
        append = parts.append
        headers = message.headers
        if headers is not None:
            flags |= _HEADERS
            append(encode_headers(headers))
        priority = message.priority
        if priority == 0:
            flags |= _PRIORITY
            append(b"\2\0" if message.persistent else b"\1\0")
        else:
            append(b"\2" if message.persistent else b"\1")
            if priority is not None:
                flags |= _PRIORITY
                append(_priority(priority))
        correlation_id = message.correlation_id
        if correlation_id is not None:
            flags |= _CORRELATION_ID
            try:
                raw = correlation_id.encode()
                append(_LENGTHS[len(raw)])
                append(raw)
            except (UnicodeEncodeError, IndexError):
                append(short_string(correlation_id, "correlation id"))
        reply_to = message.reply_to
        if reply_to is not None:
            flags |= _REPLY_TO
            append(self._reply_tos.get(reply_to) or self._reply_to(reply_to))
        expiration = message.expiration
        if expiration is not None:
            flags |= _EXPIRATION
            raw = b"%d" % expiration
            append(_LENGTHS[len(raw)])
            append(raw)
        if (
            message.message_id is not None
            or message.timestamp is not None
            or message.type is not None
            or message.user_id is not None
            or message.app_id is not None
        ):
            flags |= _rare_properties(message, parts)
        properties = b"".join(parts)
        if len(properties) > self.max_body - _HEADER_HEAD:
            raise UnserializableValueError(
                f"the headers and properties of a message to exchange {exchange!r}, key "
                f"{routing_key!r}, take {len(properties)} bytes, and one AMQP frame has room for "
                f"{self.max_body - _HEADER_HEAD}: send less context data, or put it in the body"
            )
        body = message.body
        size = len(body)
        channel = self.channel
        head = _CONTENT(HEADER, channel, _HEADER_HEAD + len(properties), 60, 0, size, flags)
        if 0 < size <= self.max_body:
            middle = _END_FRAME(FRAME_END, BODY, channel, size)
            return b"".join((prefix, head, properties, middle, body, _END))
        return b"".join((prefix, head, properties, _END, *self._body(body)))

    def ack(self, tag: int, multiple: bool = False) -> bytes:
        """``basic.ack``; *multiple* acks all tags up to *tag*."""
        return _TAGGED(METHOD, self.channel, 13, ACK, tag, multiple, FRAME_END)

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> bytes:
        """``basic.nack``."""
        bits = (1 if multiple else 0) | (2 if requeue else 0)
        return _TAGGED(METHOD, self.channel, 13, NACK, tag, bits, FRAME_END)

    def reject(self, tag: int, *, requeue: bool) -> bytes:
        """``basic.reject``."""
        return _TAGGED(METHOD, self.channel, 13, REJECT, tag, requeue, FRAME_END)

    def cancel(self, consumer_tag: str) -> bytes:
        """``basic.cancel`` with ``nowait``."""
        payload = b"\0\x3c\0\x1e" + short_string(consumer_tag, "consumer tag") + b"\x01"
        return _FRAME(METHOD, self.channel, len(payload)) + payload + _END

    def confirm_select(self) -> bytes:
        """``confirm.select`` with ``nowait``: what is published from here on is confirmed."""
        return _FRAME(METHOD, self.channel, 5) + b"\0\x55\0\x0a\x01\xce"

    def _prefix(self, exchange: str, routing_key: str, mandatory: bool) -> bytes:
        arguments = short_string(exchange, "exchange name") + short_string(
            routing_key, "routing key"
        )
        payload = b"\0\x3c\0\x28\0\0" + arguments + (b"\x01" if mandatory else b"\0")
        prefix = _FRAME(METHOD, self.channel, len(payload)) + payload + _END
        if len(self._prefixes) >= _CACHED:
            self._prefixes.clear()
        self._prefixes[exchange, routing_key, mandatory] = prefix
        return prefix

    def _kind(self, content_type: str | None, encoding: str | None) -> tuple[int, bytes]:
        flags, encoded = 0, b""
        if content_type is not None:
            flags |= _CONTENT_TYPE
            encoded += short_string(content_type, "content type")
        if encoding is not None:
            flags |= _CONTENT_ENCODING
            encoded += short_string(encoding, "content encoding")
        if len(self._kinds) >= _CACHED:
            self._kinds.clear()
        kind = self._kinds[content_type, encoding] = flags, encoded
        return kind

    def _reply_to(self, reply_to: str) -> bytes:
        if len(self._reply_tos) >= _CACHED:
            self._reply_tos.clear()
        encoded = self._reply_tos[reply_to] = short_string(reply_to, "reply-to")
        return encoded

    def _body(self, body: bytes) -> list[bytes]:
        frames = []
        for start in range(0, len(body), self.max_body):
            piece = body[start : start + self.max_body]
            frames += [_FRAME(BODY, self.channel, len(piece)), piece, _END]
        return frames


def _priority(priority: int) -> bytes:
    if 0 <= priority <= 255:
        return _LENGTHS[priority]
    raise UnserializableValueError(f"a priority is between 0 and 255, not {priority}")


def _rare_properties(message: Message, parts: list[bytes]) -> int:
    flags = 0
    if message.message_id is not None:
        flags |= _MESSAGE_ID
        parts.append(short_string(message.message_id, "message id"))
    if message.timestamp is not None:
        flags |= _TIMESTAMP
        parts.append(_U64.pack(epoch_seconds(message.timestamp, "the timestamp")))
    if message.type is not None:
        flags |= _TYPE
        parts.append(short_string(message.type, "message type"))
    if message.user_id is not None:
        flags |= _USER_ID
        parts.append(short_string(message.user_id, "user id"))
    if message.app_id is not None:
        flags |= _APP_ID
        parts.append(short_string(message.app_id, "app id"))
    return flags


# --- reading


#: The properties that nearly every message has, and what they begin with.
_OFTEN = _CONTENT_TYPE | _CONTENT_ENCODING | _HEADERS | _DELIVERY_MODE | _PRIORITY
_JSON = b"\x10application/json\x05utf-8"
_NO_HEADERS = b"\0\0\0\0"


def decode_content_header(payload: bytes, body: bytes) -> Message:
    """The message whose content header frame has *payload*; see :func:`decode_properties`."""
    return decode_flagged(payload, 12, body)


def decode_flagged(data: bytes, at: int, body: bytes) -> Message:
    """The message whose flags and properties are ``data[at:]``; see :func:`decode_properties`."""
    try:
        (flags,) = _U16(data, at)
    except struct_error as error:
        raise MalformedContent(f"the properties break off: {error}") from None
    return decode_properties(data, at + 2, len(data), flags, body)


def decode_properties(data: bytes, at: int, end: int, flags: int, body: bytes) -> Message:
    """
    The message with *body* whose properties are ``data[at:end]``; *flags* say which they are.

    A property that AMQP 0-9-1 does not know is skipped (all known ones stand before it), as is an
    ``expiration`` that is no number. Without ``delivery_mode`` a message is not persistent.

    Raises:
        MalformedContent: the properties break off, or the table of headers is garbled.
    """
    try:
        if flags & _OFTEN != _OFTEN or flags & _RARE or not data.startswith(_JSON, at):
            return _decode(data, at, end, flags, body)
        # The rest is _decode in place, for what requests, replies and events of Nameko and aiorpc
        # have: JSON, headers, delivery mode, priority, and maybe some of the next three.
        at += 23
        headers: Mapping[str, Any]
        if data.startswith(_NO_HEADERS, at):
            headers = {}
            at += 4
        else:
            headers, at = decode_headers(data, at)
        persistent, priority = data[at] == 2, data[at + 1]
        at += 2
        correlation_id = reply_to = expiration = None
        if flags & _CORRELATION_ID:
            start = at + 1
            at = start + data[at]
            correlation_id = data[start:at].decode("utf-8", "surrogateescape")
        if flags & _REPLY_TO:
            start = at + 1
            at = start + data[at]
            reply_to = data[start:at].decode("utf-8", "surrogateescape")
        if flags & _EXPIRATION:
            start = at + 1
            at = start + data[at]
            digits = data[start:at]
            expiration = int(digits) if digits.isdigit() else None
        if at > end:
            raise MalformedContent("the properties break off")
        return Message(
            body=body,
            headers=headers,
            persistent=persistent,
            priority=priority,
            correlation_id=correlation_id,
            reply_to=reply_to,
            expiration=expiration,
        )
    except MalformedTable as error:
        raise MalformedContent(str(error)) from None
    except GARBLED as error:
        raise MalformedContent(f"the properties break off: {error}") from None


def _decode(data: bytes, at: int, end: int, flags: int, body: bytes) -> Message:
    if flags & _MORE_FLAGS:
        at = _skip_flags(data, at)
    content_type: str | None = None
    encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    headers: Mapping[str, Any] | None = None
    priority: int | None = None
    expiration: int | None = None
    persistent = False
    if flags & _CONTENT_TYPE:
        content_type, at = _text(data, at)
    if flags & _CONTENT_ENCODING:
        encoding, at = _text(data, at)
    if flags & _HEADERS:
        headers, at = decode_headers(data, at)
    if flags & _DELIVERY_MODE:
        persistent = data[at] == 2
        at += 1
    if flags & _PRIORITY:
        priority = data[at]
        at += 1
    if flags & _CORRELATION_ID:
        correlation_id, at = _text(data, at)
    if flags & _REPLY_TO:
        reply_to, at = _text(data, at)
    if flags & _EXPIRATION:
        text, at = _text(data, at)
        expiration = int(text) if text.isascii() and text.isdigit() else None
    if at > end:
        raise MalformedContent("the properties break off")
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
    if flags & _RARE:
        _read_rare(data, at, end, flags, message)
    return message


def _skip_flags(data: bytes, at: int) -> int:
    while True:
        (more,) = _U16(data, at)
        at += 2
        if not more & _MORE_FLAGS:
            return at


def _text(data: bytes, at: int) -> tuple[str, int]:
    start = at + 1
    end = start + data[at]
    return data[start:end].decode("utf-8", "surrogateescape"), end


def _read_rare(data: bytes, at: int, end: int, flags: int, message: Message) -> None:
    if flags & _MESSAGE_ID:
        message.message_id, at = _text(data, at)
    if flags & _TIMESTAMP:
        (stamp,) = _U64.unpack_from(data, at)
        at += 8
        message.timestamp = from_epoch(stamp)
    if flags & _TYPE:
        message.type, at = _text(data, at)
    if flags & _USER_ID:
        message.user_id, at = _text(data, at)
    if flags & _APP_ID:
        message.app_id, at = _text(data, at)
    if at > end:
        raise MalformedContent("the properties break off")

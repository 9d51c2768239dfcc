"""
Writes the frames that a channel sends often, such as publish, ack and reject. Pure: nothing here
awaits or does I/O.
"""

from __future__ import annotations

from struct import Struct

from ...context import EMPTY
from ...exceptions import UnserializableValueError
from ...wire.message import Message
from .frames import (
    ACK,
    APP_ID,
    BODY,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    CORRELATION_ID,
    DELIVERY_MODE,
    EXPIRATION,
    FRAME_END,
    FRAME_OVERHEAD,
    HEADER,
    HEADER_HEAD,
    HEADERS,
    MESSAGE_ID,
    METHOD,
    NACK,
    PRIORITY,
    REJECT,
    REPLY_TO,
    TIMESTAMP,
    TYPE,
    USER_ID,
)
from .headers import NO_HEADERS, encode_headers
from .table_encoding import Unwritable, epoch_seconds

__all__ = ["Encoder", "content_header_of", "short_string"]

_END = bytes((FRAME_END,))
_BYTES = [bytes((number,)) for number in range(256)]
_FRAME = Struct(">BHI").pack
#: Frame head and content header: type, channel, size; class, weight, body size, flags.
_CONTENT = Struct(">BHIHHQBB").pack
#: The end of one frame and the head of the next frame.
_END_FRAME = Struct(">BBHI").pack
#: A whole method frame with a delivery tag and bits as arguments.
_TAGGED = Struct(">BHIIQBB").pack
_U64 = Struct(">Q").pack

#: Encoded parts that each cache keeps: enough for the destinations of one process. A full cache is
#: emptied.
_CACHED = 1024


class Encoder:
    """
    Writes the frames of one channel. Parts that many messages share are encoded once: the method
    frame of a destination, content type and encoding, reply-to.

    Args:
        channel: the channel's number.
        frame_max: bytes of the largest frame, as negotiated; 0 for no limit.
    """

    __slots__ = ("_kinds", "_prefixes", "_reply_tos", "channel", "max_body")

    def __init__(self, channel: int, frame_max: int) -> None:
        self.channel = channel
        #: Bytes of body that one frame holds.
        self.max_body = (frame_max or 131072) - FRAME_OVERHEAD
        self._prefixes: dict[tuple[str, str, bool], bytes] = {}
        #: Encoding, flags and encoded bytes by content type: one type rarely has two encodings.
        self._kinds: dict[str | None, tuple[str | None, int, bytes]] = {}
        self._reply_tos: dict[str, bytes] = {}

    # long: every message passes here, and a function call costs 0.1 us
    def publish(self, exchange: str, routing_key: str, mandatory: bool, message: Message) -> bytes:
        """
        Return all frames of a ``basic.publish``.

        Raises:
            UnserializableValueError: a header cannot be encoded, a name or property has more than
                255 bytes, or all headers and properties exceed one frame (RabbitMQ would close the
                connection).
        """
        destination = exchange, routing_key, mandatory
        prefix = self._prefixes.get(destination) or self._prefix(destination)
        kind = self._kinds.get(message.content_type)
        if kind is None or kind[0] != message.content_encoding:
            kind = self._kind(message.content_type, message.content_encoding)
        _, flags, encoded = kind
        flags |= DELIVERY_MODE
        table = priority = id_size = id_text = reply_to = time_size = time = rest = b""
        if message.headers is not None:
            flags |= HEADERS
            table = NO_HEADERS if message.headers is EMPTY else encode_headers(message.headers)
        if message.priority is not None:
            flags |= PRIORITY
            priority = b"\0" if message.priority == 0 else _priority(message.priority)
        if message.correlation_id is not None:
            flags |= CORRELATION_ID
            try:
                id_text = message.correlation_id.encode()
                id_size = _BYTES[len(id_text)]
            except (UnicodeEncodeError, IndexError):  # rare, and perhaps an error
                id_text = short_string(message.correlation_id, "correlation id")
        if message.reply_to is not None:
            flags |= REPLY_TO
            reply_to = self._reply_tos.get(message.reply_to) or self._reply_to(message.reply_to)
        if message.expiration is not None:
            flags |= EXPIRATION
            time = b"%d" % message.expiration
            time_size = _BYTES[len(time)]
        rare = 0
        if (
            message.message_id is not None
            or message.timestamp is not None
            or message.type is not None
            or message.user_id is not None
            or message.app_id is not None
        ):
            rare, rest = _rare_properties(message)
        mode = b"\2" if message.persistent else b"\1"
        properties = b"".join(
            (encoded, table, mode, priority, id_size, id_text, reply_to, time_size, time, rest)
        )
        head_size = HEADER_HEAD + len(properties)
        if head_size > self.max_body:
            raise UnserializableValueError(
                f"the headers and properties of a message to exchange {exchange!r}, key "
                f"{routing_key!r}, have {len(properties)} bytes, and one AMQP frame has room for "
                f"{self.max_body - HEADER_HEAD}: send less context data, or put it in the body"
            )
        body = message.body
        size = len(body)
        channel = self.channel
        head = _CONTENT(HEADER, channel, head_size, 60, 0, size, flags, rare)
        if 0 < size <= self.max_body:
            middle = _END_FRAME(FRAME_END, BODY, channel, size)
            return b"".join((prefix, head, properties, middle, body, _END))
        return b"".join((prefix, head, properties, _END, *self._body(body)))

    def ack(self, tag: int, multiple: bool = False) -> bytes:
        """Return a ``basic.ack``; *multiple* acks all tags up to *tag*."""
        return _TAGGED(METHOD, self.channel, 13, ACK, tag, multiple, FRAME_END)

    def reject(self, tag: int, *, requeue: bool) -> bytes:
        """Return a ``basic.reject``."""
        return _TAGGED(METHOD, self.channel, 13, REJECT, tag, requeue, FRAME_END)

    def nack(self, tag: int, *, multiple: bool = False) -> bytes:
        """Return a ``basic.nack`` that requeues; with *multiple*, all messages up to *tag*."""
        return _TAGGED(METHOD, self.channel, 13, NACK, tag, 2 | multiple, FRAME_END)

    def cancel(self, consumer_tag: str) -> bytes:
        """Return a ``basic.cancel`` that the broker does not answer."""
        return self._method(b"\0\x3c\0\x1e" + short_string(consumer_tag, "consumer tag") + b"\x01")

    def confirm_select(self) -> bytes:
        """Return a ``confirm.select`` that the broker does not answer."""
        return self._method(b"\0\x55\0\x0a\x01")

    def _method(self, payload: bytes) -> bytes:
        return _FRAME(METHOD, self.channel, len(payload)) + payload + _END

    def _prefix(self, destination: tuple[str, str, bool]) -> bytes:
        exchange, routing_key, mandatory = destination
        names = short_string(exchange, "exchange name") + short_string(routing_key, "routing key")
        if len(self._prefixes) >= _CACHED:
            self._prefixes.clear()
        prefix = self._method(b"\0\x3c\0\x28\0\0" + names + (b"\x01" if mandatory else b"\0"))
        self._prefixes[destination] = prefix
        return prefix

    def _kind(
        self, content_type: str | None, encoding: str | None
    ) -> tuple[str | None, int, bytes]:
        flags, encoded = 0, b""
        if content_type is not None:
            flags |= CONTENT_TYPE
            encoded += short_string(content_type, "content type")
        if encoding is not None:
            flags |= CONTENT_ENCODING
            encoded += short_string(encoding, "content encoding")
        if len(self._kinds) >= _CACHED:
            self._kinds.clear()
        kind = self._kinds[content_type] = encoding, flags, encoded
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


def content_header_of(message: Message) -> bytes:
    """
    Return the content header of *message*, which has its headers and properties, for
    :func:`.properties.decode_content_header`.

    Raises:
        UnserializableValueError: see :meth:`Encoder.publish`.
    """
    frames = Encoder(channel=0, frame_max=0).publish("", "", False, message)
    begins = FRAME_OVERHEAD + int.from_bytes(frames[3:7], "big")  # behind the frame of the method
    size = int.from_bytes(frames[begins + 3 : begins + 7], "big")
    return frames[begins + 7 : begins + 7 + size]


def short_string(text: str, what: str) -> bytes:
    """
    Return *text* as a short string: one byte of length, at most 255 bytes.

    Raises:
        UnserializableValueError: *text* is longer, or not Unicode text; *what* names it in errors.
    """
    if not isinstance(text, str):
        raise UnserializableValueError(f"an AMQP {what} is a str, not a {type(text).__name__}")
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        # Bytes of a received message that are not UTF-8 are forwarded unchanged.
        try:
            raw = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise UnserializableValueError(
                f"the {what} {text[:60]!r} is not Unicode text"
            ) from None
    if len(raw) > 255:
        raise UnserializableValueError(
            f"an AMQP {what} has at most 255 bytes; {text[:60]!r}... has {len(raw)}"
        )
    return _BYTES[len(raw)] + raw


def _priority(priority: int) -> bytes:
    if 0 <= priority <= 255:
        return _BYTES[priority]
    raise UnserializableValueError(f"a priority is between 0 and 255, not {priority}")


def _rare_properties(message: Message) -> tuple[int, bytes]:
    flags = 0
    parts = []
    if message.message_id is not None:
        flags |= MESSAGE_ID
        parts.append(short_string(message.message_id, "message id"))
    if message.timestamp is not None:
        flags |= TIMESTAMP
        try:
            parts.append(_U64(epoch_seconds(message.timestamp)))
        except Unwritable as error:
            raise UnserializableValueError(f"the timestamp {error}") from None
    if message.type is not None:
        flags |= TYPE
        parts.append(short_string(message.type, "message type"))
    if message.user_id is not None:
        flags |= USER_ID
        parts.append(short_string(message.user_id, "user id"))
    if message.app_id is not None:
        flags |= APP_ID
        parts.append(short_string(message.app_id, "app id"))
    return flags, b"".join(parts)

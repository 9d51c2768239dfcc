"""
Makes legible to aiormq what it would die of. Sans I/O.

pamqp, which reads frames for aiormq, raises at text that is no UTF-8 and at properties that are
garbled. aiormq's reader ends with that, and the connection with it; the broker then delivers the
same message again, to die of again. So one message that anybody may send would stop a service for
ever. Such properties are wrapped into a header that pamqp can read, and unwrapped behind aiormq by
our own decoder, which takes what there is or says what is wrong. May import pamqp.
"""

from __future__ import annotations

from struct import Struct

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from ...wire.message import Message
from ..codec.frames import (
    BODY,
    DELIVER,
    FRAME_END,
    FRAME_OVERHEAD,
    HEADER,
    METHOD,
    MalformedContent,
    decode_flagged,
)

__all__ = ["Mender", "unwrapped"]

_FRAME = Struct(">BHI")
_END = bytes((FRAME_END,))
_HEARTBEAT = 8
_KINDS = (METHOD, HEADER, BODY, _HEARTBEAT)
_DELIVER = DELIVER.to_bytes(4, "big")
#: Method, consumer tag (of so many bytes more), delivery tag, redelivered; then the names follow.
_BEHIND_DELIVER = 4 + 1 + 8 + 1
#: Class, weight and size of the body, which stand before the property flags.
_BEFORE_FLAGS = 12

#: The header that holds the property flags and properties as they came.
_WRAPPED = "aiorpc-wrapped-properties"


class Mender:
    """Bytes go in, cut anywhere; frames come out, those that pamqp cannot read replaced."""

    __slots__ = ("_lost", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._lost = False

    def receive(self, data: bytes) -> bytes:
        """Take *data* in; return the whole frames that are there now."""
        if self._lost:
            return data
        if self._rest:
            data = self._rest + data
            self._rest = b""
        out: list[bytes] = []
        at = done = 0
        end = len(data)
        while end - at >= FRAME_OVERHEAD:
            kind, channel, size = _FRAME.unpack_from(data, at)
            after = at + FRAME_OVERHEAD + size
            if kind not in _KINDS or (after <= end and data[after - 1] != FRAME_END):
                # Out of step. aiormq finds that out itself, and hangs up.
                self._lost = True
                return b"".join(out) + data[done:]
            if after > end:
                break
            mended = _mended(kind, data[at + 7 : after - 1])
            if mended is not None:
                out += (data[done:at], _FRAME.pack(kind, channel, len(mended)), mended, _END)
                done = after
            at = after
        out.append(data[done:at])
        self._rest = data[at:]
        return b"".join(out)


def unwrapped(properties: Basic.Properties, body: bytes) -> Message | None:
    """
    The message with *body* whose properties were wrapped; ``None`` where they were not.

    Raises:
        MalformedContent: they make no sense to us either.
    """
    wrapped = (properties.headers or {}).get(_WRAPPED)
    if not isinstance(wrapped, bytes | bytearray):
        return None
    return decode_flagged(bytes(wrapped), 0, body)


def _mended(kind: int, payload: bytes) -> bytes | None:
    """What is to stand in place of *payload*; ``None`` where it can stay."""
    if kind == HEADER:
        return _mended_header(payload)
    if kind == METHOD and payload.startswith(_DELIVER):
        return _mended_delivery(payload)
    return None


def _mended_header(payload: bytes) -> bytes | None:
    # Without a size nobody can tell where the next message begins.
    if len(payload) < _BEFORE_FLAGS or _is_legible(payload):
        return None
    raw = payload[_BEFORE_FLAGS:]
    properties = Basic.Properties(headers={_WRAPPED: bytearray(raw)}, message_id=_message_id(raw))
    return payload[:_BEFORE_FLAGS] + properties.marshal()


def _is_legible(payload: bytes) -> bool:
    try:
        ContentHeader().unmarshal(payload)
    except Exception:  # noqa: BLE001 - whichever it is, aiormq would end with it
        return False
    return True


def _message_id(properties: bytes) -> str | None:
    """By it aiormq finds what came back to us."""
    try:
        found = decode_flagged(properties, 0, b"").message_id
    except MalformedContent:
        return None
    return found if found is not None and found.isascii() else None


def _mended_delivery(payload: bytes) -> bytes | None:
    """Of the names in a delivery only the routing key is the sender's to choose."""
    exchange = _BEHIND_DELIVER + payload[4]
    start = exchange + 2 + payload[exchange]
    try:
        payload[start:].decode()
    except UnicodeDecodeError:
        # Each byte that is none becomes one question mark, so the length stays.
        legible = payload[start:].decode("utf-8", "surrogateescape").encode("utf-8", "replace")
        return payload[:start] + legible
    return None

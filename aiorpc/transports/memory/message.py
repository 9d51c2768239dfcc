"""
Messages as AMQP would bring them: copied, so that nobody shares what somebody may change, and
refused where AMQP refuses. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from ...exceptions import UnserializableValueError
from ...wire.headers import FilledHeaders
from ...wire.message import Message
from ..codec.frames import Encoder, decode_content_header
from ..codec.headers import encode_headers

__all__ = ["Carried", "carried", "check_short", "deep_copy"]

_ENCODER: Final = Encoder(channel=1, frame_max=0)
#: In front of a frame's payload: type, channel, size.
_HEAD: Final = 7

_INT64: Final = 1 << 63
#: What comes out of a field table as it went in, and cannot be changed.
_CONSTANTS: Final = frozenset({bool, float, type(None)})
#: Characters of headers that may be more than a frame holds.
_LARGE: Final = 100_000


#: Names and properties that AMQP can carry for sure, up to so many, and then forgotten all at once.
_plain: set[str | None] = {None}
_MAX_PLAIN: Final = 1024


class Carried(msgspec.Struct, eq=False, gc=False):
    """A message on its way. The broker never hands out ``message`` itself, only copies."""

    message: Message
    #: Copies its headers, as deep as they are; ``None`` where they cannot be changed.
    copy_headers: Callable[[Any], dict[str, Any]] | None = None

    def copy(self) -> Message:
        """
        The message, for one receiver to do with as it likes; but :class:`.FilledHeaders` cannot be
        changed, and share what is in their template.
        """
        message: Message = self.message.__copy__()  # type: ignore[attr-defined]
        if self.copy_headers is not None:
            message.headers = self.copy_headers(message.headers)
        return message


def carried(message: Message) -> Carried:
    """
    A copy of *message* as it comes out of AMQP: tuples as lists, times as whole seconds in UTC.

    Raises:
        UnserializableValueError: AMQP cannot carry it; the text names the header or the property.
    """
    # What nearly all messages are can be copied as it is. The rest goes the long way, by the codec
    # that AMQP itself is spoken with, so that it comes out the same.
    correlation_id = message.correlation_id
    if (
        (correlation_id is not None and (len(correlation_id) > 255 or not correlation_id.isascii()))
        or (message.reply_to not in _plain and not _is_plain(message.reply_to))
        or (message.content_type not in _plain and not _is_plain(message.content_type))
        or (message.content_encoding not in _plain and not _is_plain(message.content_encoding))
        or message.priority
        or message.timestamp
        or message.message_id
        or message.type
        or message.user_id
        or message.app_id
    ):
        return _by_codec(message)
    headers = message.headers
    copy: Message = message.__copy__()  # type: ignore[attr-defined]
    if type(headers) is FilledHeaders and len(encode_headers(headers)) <= _LARGE:
        return Carried(copy)  # AMQP would deliver the same, and nobody can change them
    if headers is None:
        return Carried(copy)
    copied: dict[str, Any] = {}
    size = 0
    copy_headers: Callable[[Any], dict[str, Any]] = dict
    for name, value in headers.items():
        kind = type(value)
        if kind is str:
            if not value.isascii():
                return _by_codec(message)
            size += len(value)
        elif kind is list or kind is tuple:
            for item in value:
                if type(item) is not str or not item.isascii():
                    return _by_codec(message)
                size += len(item)
            value = list(value)
            copy_headers = _copy_with_lists
        elif kind is int:
            if not -_INT64 <= value < _INT64:
                return _by_codec(message)
        elif kind not in _CONSTANTS:
            return _by_codec(message)
        if name not in _plain and not _is_plain(name):
            return _by_codec(message)
        copied[name] = value
    if size > _LARGE:
        return _by_codec(message)
    copy.headers = copied
    return Carried(copy, copy_headers)


def _is_plain(text: str | None) -> bool:
    """Whether *text* is surely a short string of AMQP; remembered, for it will come again."""
    if type(text) is not str or len(text) > 255 or not text.isascii():
        return False
    if len(_plain) >= _MAX_PLAIN:
        _plain.clear()
        _plain.add(None)
    _plain.add(text)
    return True


def check_short(text: str, what: str) -> None:
    """UnserializableValueError if *text* is no short string of AMQP: at most 255 bytes."""
    if len(text.encode("utf-8", "surrogatepass")) > 255:
        raise UnserializableValueError(
            f"an AMQP {what} has at most 255 bytes; {text[:60]!r}... has more"
        )


def _by_codec(message: Message) -> Carried:
    frames = _ENCODER.publish("", "", False, msgspec.structs.replace(message, body=b""))
    start = _frame_end(frames, 0)
    payload = frames[start + _HEAD : _frame_end(frames, start) - 1]
    return Carried(decode_content_header(payload, message.body), deep_copy)


def _frame_end(frames: bytes, start: int) -> int:
    return start + _HEAD + int.from_bytes(frames[start + 3 : start + _HEAD], "big") + 1


def _copy_with_lists(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[:] if type(value) is list else value for name, value in headers.items()}


def deep_copy(value: Any) -> Any:
    """Tables and arrays copied; what is in them cannot be changed."""
    if type(value) is dict:
        return {name: deep_copy(item) for name, item in value.items()}
    if type(value) is list:
        return [deep_copy(item) for item in value]
    return value

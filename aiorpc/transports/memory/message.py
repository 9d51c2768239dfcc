"""
Copies messages as AMQP would deliver them, and refuses messages that AMQP refuses. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from ...wire.headers import FilledHeaders
from ...wire.message import Message
from ..codec.encoder import Encoder
from ..codec.headers import encode_headers
from ..codec.properties import decode_content_header

__all__ = ["Carried", "by_codec", "carried", "deep_copy"]

_ENCODER: Final = Encoder(channel=1, frame_max=0)
#: Bytes before a frame's payload: type, channel, size.
_HEAD: Final = 7

_INT64: Final = 1 << 63
#: Immutable types whose values a field table does not change. The codec checks floats.
_CONSTANTS: Final = frozenset({bool, type(None)})
#: Characters of headers that may not fit into a frame.
_LARGE: Final = 100_000


#: Cached names and properties that AMQP can carry. A full cache is emptied.
_plain: set[str | None] = {None}
_MAX_PLAIN: Final = 1024


class Carried(msgspec.Struct, eq=False, gc=False):
    """A message in the broker, which delivers copies of ``message``, never the object itself."""

    message: Message
    #: Copies the mutable parts of the headers; ``None`` if all headers are immutable.
    copy_headers: Callable[[Any], dict[str, Any]] | None = None

    def copy(self) -> Message:
        """
        Return a copy for one receiver. The receiver may change the headers, except
        :class:`.FilledHeaders`, which are immutable and shared.
        """
        message: Message = self.message.__copy__()  # type: ignore[attr-defined]
        if self.copy_headers is not None:
            message.headers = self.copy_headers(message.headers)
        return message


def carried(message: Message) -> Carried:
    """
    Return a copy of *message* as AMQP delivers it: tuples as lists, times as whole seconds in UTC.

    A shortcut for :func:`by_codec`, for the messages of nearly all calls (ADR 6).

    Raises:
        UnserializableValueError: AMQP cannot carry a header or property; the text names it.
    """
    correlation_id, message_id = message.correlation_id, message.message_id
    if (
        (correlation_id is not None and (len(correlation_id) > 255 or not correlation_id.isascii()))
        or (message_id is not None and (len(message_id) > 255 or not message_id.isascii()))
        or (message.reply_to not in _plain and not _is_plain(message.reply_to))
        or (message.content_type not in _plain and not _is_plain(message.content_type))
        or (message.content_encoding not in _plain and not _is_plain(message.content_encoding))
        or message.priority
        or message.timestamp
        or message.type
        or message.user_id
        or message.app_id
    ):
        return by_codec(message)
    headers = message.headers
    copy: Message = message.__copy__()  # type: ignore[attr-defined]
    if headers is None or (type(headers) is FilledHeaders and _is_small(headers)):
        return Carried(copy)  # immutable
    copied = _copied(headers)
    if copied is None:
        return by_codec(message)
    copy.headers, copy_headers = copied
    return Carried(copy, copy_headers)


def _is_small(headers: FilledHeaders) -> bool:
    """Return whether *headers* fit into one frame. The template caches its encoded bytes."""
    encoded = headers.template.encoded or encode_headers(headers)
    return len(encoded) <= _LARGE


def _copied(headers: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[Any], Any]] | None:
    """Return a copy of *headers* and a copy function; ``None`` if *headers* need the codec."""
    copied: dict[str, Any] = {}
    size = 0
    copy_headers: Callable[[Any], dict[str, Any]] = dict
    for name, value in headers.items():
        kind = type(value)
        if kind is str:
            if not value.isascii():
                return None
            size += len(value)
        elif kind is list or kind is tuple:
            for item in value:
                if type(item) is not str or not item.isascii():
                    return None
                size += len(item)
            value = list(value)
            copy_headers = _copy_with_lists
        elif kind is int:
            if not -_INT64 <= value < _INT64:
                return None
        elif kind not in _CONSTANTS:
            return None
        if name not in _plain and not _is_plain(name):
            return None
        copied[name] = value
    return (copied, copy_headers) if size <= _LARGE else None


def _is_plain(text: str | None) -> bool:
    """Return whether *text* is certainly a short string of AMQP, and cache *text*."""
    if type(text) is not str or len(text) > 255 or not text.isascii():
        return False
    if len(_plain) >= _MAX_PLAIN:
        _plain.clear()
        _plain.add(None)
    _plain.add(text)
    return True


def by_codec(message: Message) -> Carried:
    """
    Encode and decode *message* with the codec for RabbitMQ.

    Raises:
        UnserializableValueError: AMQP cannot carry a header or property; the text names it.
    """
    frames = _ENCODER.publish("", "", False, msgspec.structs.replace(message, body=b""))
    start = _frame_end(frames, 0)
    payload = frames[start + _HEAD : _frame_end(frames, start) - 1]
    return Carried(decode_content_header(payload, message.body), deep_copy)


def _frame_end(frames: bytes, start: int) -> int:
    return start + _HEAD + int.from_bytes(frames[start + 3 : start + _HEAD], "big") + 1


def _copy_with_lists(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[:] if type(value) is list else value for name, value in headers.items()}


def deep_copy(value: Any) -> Any:
    """Return a copy of *value*, with copied tables and arrays; other values are immutable."""
    if type(value) is dict:
        return {name: deep_copy(item) for name, item in value.items()}
    if type(value) is list:
        return [deep_copy(item) for item in value]
    return value

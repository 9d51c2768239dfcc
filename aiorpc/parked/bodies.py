"""
Decodes the body of a parked message, and masks what the service calls sensitive. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..config import Settings
from ..config.redaction import MASK, redact
from ..context import EMPTY
from ..exceptions import MalformedRequest
from ..wire.content import Content, decompress
from ..wire.message import Message
from ..wire.names import COMPRESSION
from ..wire.serializers import JSON, RAW, SerializerSet

__all__ = ["Bodies", "Body", "masked", "without_compression"]

#: The largest body to decode, in bytes, also after decompression.
MOST_BYTES = 256 << 20


class Body(msgspec.Struct):
    """
    A body as people read it.

    Attributes:
        value: the decoded body; ``UNSET`` if it cannot be decoded.
        text: the body as text, if it is text and cannot be decoded.
        trouble: why it cannot be decoded.
    """

    value: Any = msgspec.UNSET
    text: str | None = None
    trouble: str = ""


class Bodies:
    """Decodes with the serializers of *settings*."""

    def __init__(self, settings: Settings) -> None:
        self._serializers = SerializerSet.of(settings)
        self._content = Content(self._serializers, MOST_BYTES)

    def decoded(self, message: Message) -> Body:
        """Decode the body of *message*; a body without a content type may be JSON."""
        try:
            serializer = self._serializers.for_payload(message.content_type)
            value = self._content.decode(message, serializer=serializer)
        except MalformedRequest as error:
            return _as_text(message.body, str(error))
        except RecursionError:
            return _as_text(message.body, "it is nested too deep")
        if serializer is not RAW:
            return Body(value)
        raw = value.encode() if isinstance(value, str) else value
        try:
            return Body(JSON.decode(raw))
        except (MalformedRequest, RecursionError):
            return _as_text(raw, "it has no content type that is decoded")

    def shown(self, message: Message, sensitive: Sequence[Sequence[str]]) -> Body:
        """Decode the body of *message*, and mask what is *sensitive*, and all secrets by name."""
        body = self.decoded(message)
        if body.value is not msgspec.UNSET:
            body.value = redact("", masked(body.value, sensitive))
        elif sensitive:
            body.text, body.trouble = MASK, f"it may hold sensitive arguments, and {body.trouble}"
        return body


def _as_text(body: bytes, trouble: str) -> Body:
    try:
        return Body(text=body.decode(), trouble=trouble)
    except UnicodeDecodeError:
        return Body(trouble=trouble)


def masked(value: Any, paths: Sequence[Sequence[str]]) -> Any:
    """Return a copy of *value* with ``***`` at each of *paths*; ``()`` is the whole value."""
    for path in paths:
        value = _masked_at(value, list(path))
    return value


def _masked_at(value: Any, path: list[str]) -> Any:
    if not path:
        return MASK
    first, *rest = path
    if isinstance(value, Mapping):
        return {k: _masked_at(v, rest) if str(k) == first else v for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [
            _masked_at(item, rest) if str(at) == first else item for at, item in enumerate(value)
        ]
    return MASK if value is not None else None


def without_compression(message: Message, limit: int = MOST_BYTES) -> Message:
    """
    Return *message* with a body that is not compressed.

    Raises:
        MalformedRequest: the body cannot be decompressed.
    """
    headers = message.headers or EMPTY
    if COMPRESSION not in headers:
        return message
    body = decompress(message.body, headers[COMPRESSION], limit)
    left = {name: value for name, value in headers.items() if name != COMPRESSION}
    return msgspec.structs.replace(message, body=body, headers=left)

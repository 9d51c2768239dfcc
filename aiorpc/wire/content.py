"""
Reads the body of a message as its properties say: compression, charset, serializer. Pure: nothing
here awaits or does I/O.
"""

from __future__ import annotations

import zlib
from typing import Any

from ..exceptions import MalformedRequest
from .message import Message
from .names import COMPRESSION, OVERSIZED
from .serializers import Serializer, SerializerSet, is_charset

__all__ = ["Content", "as_utf8", "decompress", "refuse_oversized"]

#: Bytes that a body may have once decompressed, where the settings set no limit.
_NO_LIMIT = 1 << 30


class Content:
    """
    Reads the bodies of messages as one configuration sets it.

    Attributes:
        serializers: the serializers that the configuration accepts.
        default: the serializer of the messages that we send unasked.
    """

    def __init__(self, serializers: SerializerSet, max_message_size: int | None) -> None:
        self.serializers = serializers
        self.default = serializers.default
        self._max_message_size = max_message_size or _NO_LIMIT

    def decode(
        self, message: Message, compressed: bool = True, serializer: Serializer | None = None
    ) -> Any:
        """
        The value in the body of *message*.

        Args:
            compressed: whether *message* may have a header ``compression``.
            serializer: reads the body; by default the one of its content type.

        Raises:
            MalformedRequest: the body cannot be read, was too large to be taken, or has a content
                type that is not accepted.
        """
        if serializer is None:
            serializer = self.serializers[message.content_type]
        body = message.body
        if not body:
            refuse_oversized(message)
        if compressed and message.headers and (compression := message.headers.get(COMPRESSION)):
            body = decompress(body, compression, self._max_message_size)
        encoding = serializer.content_encoding
        if message.content_encoding != encoding and encoding == "utf-8":
            body = as_utf8(body, message.content_encoding)
        return serializer.decode(body)


def refuse_oversized(message: Message) -> None:
    """
    Refuse a message whose body the transport did not read because of its size.

    Raises:
        MalformedRequest: *message* is such a message.
    """
    if message.headers and OVERSIZED in message.headers:
        raise MalformedRequest(
            f"the body has {message.headers[OVERSIZED]} bytes, more than MAX_MESSAGE_SIZE here: "
            "send less, send it in parts, or raise the limit"
        )


_USUAL_ENCODINGS = frozenset({None, "", "utf-8", "UTF-8", "utf8", "us-ascii", "binary"})


def as_utf8(body: bytes, content_encoding: str | None) -> bytes:
    """
    Return a text *body* in UTF-8, whatever charset its ``content_encoding`` names.

    A ``content_encoding`` that is not a charset is ignored, as py-amqp does (its ``auto_decode``).

    Raises:
        MalformedRequest: the body is not in the charset that it claims.
    """
    if content_encoding in _USUAL_ENCODINGS or not is_charset(content_encoding or ""):
        return body
    try:
        return body.decode(content_encoding or "").encode("utf-8", "surrogatepass")
    except UnicodeError as exc:
        raise MalformedRequest(
            f"the body is not the {content_encoding} that it claims to be: {exc}"
        ) from None


# Names and aliases of kombu's ``kombu/compression.py``, where gzip is zlib data and no gzip file.
_COMPRESSIONS = {
    "application/x-gzip": "gzip",
    "gzip": "gzip",
    "zlib": "gzip",
    "application/x-bz2": "bzip2",
    "bzip2": "bzip2",
    "bzip": "bzip2",
}


def decompress(body: bytes, compression: Any, limit: int) -> bytes:
    """
    Decompress *body* as its header ``compression`` says, to at most *limit* bytes.

    Raises:
        MalformedRequest: unknown compression, damaged data, or more than *limit* bytes.
    """
    name = _COMPRESSIONS.get(compression) if isinstance(compression, str) else None
    if name is None:
        raise MalformedRequest(
            f"unknown compression {str(compression)[:40]!r}: send application/x-gzip, "
            "application/x-bz2, or no compression"
        )
    inflater: Any
    if name == "gzip":
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # reads zlib data and gzip files
    else:
        import bz2  # some builds of Python lack it, and few programs need it

        inflater = bz2.BZ2Decompressor()
    try:
        plain: bytes = inflater.decompress(body, limit + 1)
    except (zlib.error, OSError) as exc:
        raise MalformedRequest(f"the body is not the {name} that it claims to be: {exc}") from None
    if len(plain) > limit:
        raise MalformedRequest(
            f"the body is larger than {limit} bytes once decompressed: send less, or raise "
            "MAX_MESSAGE_SIZE of the receiver"
        )
    if not inflater.eof:
        raise MalformedRequest(f"the body is cut short: its {name} data has no end; send it again")
    return plain

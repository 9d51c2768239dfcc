"""
Decodes the body of a message: compression, charset, serializer. Pure functions: nothing here awaits
or does I/O.
"""

from __future__ import annotations

import gc
import zlib
from copy import copy
from typing import Any, Final

from ..exceptions import ConfigurationError, MalformedRequest
from .message import Message
from .names import COMPRESSION, OVERSIZED
from .serializers import Serializer, SerializerSet, is_charset

__all__ = ["Content", "as_utf8", "decompress", "is_slow", "refuse_oversized"]

#: The largest decompressed body, in bytes, if the settings set no limit.
_NO_LIMIT = 1 << 30
#: How often a decompressed body may be larger than the message. JSON compresses 5 to 30 times.
MAX_RATIO: Final = 100
#: A body of this many bytes may come from any ratio.
_SMALL: Final = 1 << 18
#: A compressed body of at least this many bytes is decompressed in a thread.
_SLOW: Final = 4096
#: While we decode a body of at least this many bytes, the garbage collector is off. With the
#: collector on, a body of many small values takes five times as long (CPython 3.11).
_MANY: Final = 1 << 17


class Content:
    """
    Decodes the bodies of messages with the serializers of one configuration.

    Attributes:
        serializers: the serializers that the configuration accepts.
        default: the serializer for requests and events that we send.
    """

    def __init__(self, serializers: SerializerSet, max_message_size: int | None) -> None:
        self.serializers = serializers
        self.default = serializers.default
        self._max_message_size = max_message_size or _NO_LIMIT

    def sending(self, serializer: str) -> Content:
        """
        Return a copy that encodes requests with the serializer of this name.

        Raises:
            ConfigurationError: the configuration has no such serializer, or does not accept it.
        """
        changed = copy(self)
        changed.default = found = self.serializers.named(serializer)
        if found.content_type not in self.serializers:
            raise ConfigurationError(
                f"the serializer {serializer!r} of a call is not in ACCEPT, and a service answers "
                f"in the serializer of the request: add {serializer!r} to ACCEPT"
            )
        return changed

    def answering(self, request: Message) -> Serializer:
        """Return the serializer for the answer to *request*: its own, if this process has it."""
        try:
            return self.serializers[request.content_type]
        except MalformedRequest:
            return self.default

    def decode(
        self, message: Message, compressed: bool = True, serializer: Serializer | None = None
    ) -> Any:
        """
        Return the value in the body of *message*.

        Args:
            compressed: whether *message* may have a header ``compression``.
            serializer: decodes the body; the default is the serializer of its content type.

        Raises:
            MalformedRequest: the body cannot be decoded, was larger than the limit, or has a
                content type that the configuration does not accept.
        """
        if serializer is None:
            serializer = self.serializers[message.content_type]
        body = message.body
        if not body:
            refuse_oversized(message)
        if compressed and message.headers and (compression := message.headers.get(COMPRESSION)):
            body = self._decompressed(message, compression)
        encoding = serializer.content_encoding
        if message.content_encoding != encoding and encoding == "utf-8":
            body = as_utf8(body, message.content_encoding)
        return serializer.decode(body) if len(body) < _MANY else _decode_many(serializer, body)

    def _decompressed(self, message: Message, compression: Any) -> bytes:
        done = message.decompressed
        if done is None:
            return decompress(message.body, compression, self._max_message_size)
        if isinstance(done, str):
            raise MalformedRequest(done)
        return done

    def decompress(self, message: Message) -> None:
        """Decompress the body of *message*, or keep the error, for :meth:`decode`. Thread-safe."""
        assert message.headers is not None
        try:
            message.decompressed = decompress(
                message.body, message.headers[COMPRESSION], self._max_message_size
            )
        except MalformedRequest as exc:
            message.decompressed = str(exc)  # an error would hold this frame, and the message


def is_slow(message: Message) -> bool:
    """Return whether the body of *message* should be decompressed in a thread before ``decode``."""
    return (
        len(message.body) >= _SLOW
        and message.decompressed is None
        and message.headers is not None
        and COMPRESSION in message.headers
    )


def _decode_many(serializer: Serializer, body: bytes) -> Any:
    enabled = gc.isenabled()
    gc.disable()
    try:
        return serializer.decode(body)
    finally:
        if enabled:
            gc.enable()


def refuse_oversized(message: Message) -> None:
    """
    Check that the transport read the body of *message*.

    Raises:
        MalformedRequest: the transport did not read the body, because it was too large.
    """
    if message.headers and OVERSIZED in message.headers:
        raise MalformedRequest(
            f"the body has {message.headers[OVERSIZED]} bytes, more than MAX_MESSAGE_SIZE here: "
            "send less data, send it in parts, or raise the limit"
        )


_USUAL_ENCODINGS = frozenset({None, "", "utf-8", "UTF-8", "utf8", "us-ascii", "binary"})


def as_utf8(body: bytes, content_encoding: str | None) -> bytes:
    """
    Convert a text *body* from the charset in ``content_encoding`` to UTF-8.

    Like py-amqp (``auto_decode``), this function ignores an encoding that is not a charset.

    Raises:
        MalformedRequest: the body is not valid text in its charset.
    """
    if content_encoding in _USUAL_ENCODINGS or not is_charset(content_encoding or ""):
        return body
    try:
        return body.decode(content_encoding or "").encode("utf-8", "surrogatepass")
    except UnicodeError as exc:
        raise MalformedRequest(
            f"the body is not valid {content_encoding}, as its content_encoding says: {exc}"
        ) from None


# The names in kombu's ``kombu/compression.py``. Its "gzip" is zlib data, not the gzip file format.
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
    Decompress *body* to at most *limit* bytes, and above 256 KiB to at most :data:`MAX_RATIO` times
    its size. *compression* is the header of the message.

    Raises:
        MalformedRequest: unknown compression, damaged data, or more bytes.
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
        import bz2  # some builds of Python lack bz2, and few programs need it

        inflater = bz2.BZ2Decompressor()
    by_ratio = max(_SMALL, MAX_RATIO * len(body))
    try:
        plain: bytes = inflater.decompress(body, min(limit, by_ratio) + 1)
    except (zlib.error, OSError) as exc:
        raise MalformedRequest(f"the body is not valid {name} data: {exc}") from None
    if len(plain) > by_ratio:
        raise MalformedRequest(
            f"{len(body)} bytes decompress to more than {by_ratio}, over {MAX_RATIO} times as "
            "many: send the body without compression"
        )
    if len(plain) > limit:
        raise MalformedRequest(
            f"the decompressed body is larger than {limit} bytes: send less data, or raise "
            "MAX_MESSAGE_SIZE of the receiver"
        )
    if not inflater.eof:
        raise MalformedRequest(f"the body is incomplete: its {name} data has no end; send it again")
    return plain

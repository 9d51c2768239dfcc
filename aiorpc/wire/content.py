"""
Reads the body of a message as its properties say: compression, charset, serializer. Pure: nothing
here awaits or does I/O.
"""

from __future__ import annotations

from typing import Any

from ..exceptions import MalformedRequest
from .bodies import as_utf8, decompress
from .message import Message
from .names import COMPRESSION, OVERSIZED
from .serializers import Serializer, SerializerSet

__all__ = ["Content", "refuse_oversized"]

#: Bytes that a body may have once decompressed, where the settings set no limit.
_NO_LIMIT = 1 << 30


class Content:
    """
    What is in the messages of one configuration.

    Attributes:
        serializers: the serializers that the configuration accepts.
        default: the serializer of the messages that we send unasked.
    """

    def __init__(self, serializers: SerializerSet, max_message_size: int | None) -> None:
        self.serializers = serializers
        self.default = serializers.default
        self._max_message_size = max_message_size or _NO_LIMIT

    def decode(
        self, message: Message, compressed: bool, serializer: Serializer | None = None
    ) -> Any:
        """
        The value in the body of *message*.

        Args:
            compressed: whether *message* has a header ``compression``.
            serializer: reads the body; by default the one of its content type.

        Raises:
            MalformedRequest: the body cannot be read, was too large to be taken, or has a content
                type that is not accepted.
        """
        if serializer is None:
            serializer = self.serializers.accepted[message.content_type]
        body = message.body
        if not body:
            refuse_oversized(message)
        if compressed:
            body = self._decompressed(message)
        encoding = serializer.content_encoding
        if message.content_encoding != encoding and encoding == "utf-8":
            body = as_utf8(body, message.content_encoding)
        return serializer.decode(body)

    def _decompressed(self, message: Message) -> bytes:
        compression = message.headers.get(COMPRESSION) if message.headers else None
        if not compression:
            return message.body
        return decompress(message.body, compression, self._max_message_size)


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

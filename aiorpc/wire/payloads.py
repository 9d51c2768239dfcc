"""
Encodes and decodes the payloads of events and plain messages. Pure functions: nothing here awaits
or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..context import NO_CONTEXT, Context
from .content import Content, refuse_oversized
from .headers import context_headers, context_of
from .message import Message
from .names import COMPRESSION
from .serializers import RAW

__all__ = ["Payloads"]


class Payloads:
    """The events and plain messages of one configuration."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def encode(
        self, payload: Any, context: Context, *, headers: Mapping[str, Any] | None = None
    ) -> Message:
        """
        The message that brings *payload*. Call ids and context data travel with it, the deadline
        does not.

        Raises:
            UnserializableValueError: the payload cannot be put on the wire.
        """
        serializer = self._content.default
        fields = context_headers(context)
        if headers:
            fields.update(headers)
        return Message(
            body=serializer.encode(payload),
            content_type=serializer.content_type,
            content_encoding=serializer.content_encoding,
            headers=fields,
        )

    def decode(self, message: Message) -> tuple[Any, Context]:
        """
        The payload in *message*, and the context it came with.

        Raises:
            MalformedRequest: the body cannot be read.
        """
        headers = message.headers
        context = context_of(headers) if headers else NO_CONTEXT
        serializer = self._content.serializers.for_payload(message.content_type)
        if not message.body and serializer is not RAW:
            refuse_oversized(message)
            return "", context  # as in Nameko: kombu does not decode an empty body
        compressed = headers is not None and COMPRESSION in headers
        return self._content.decode(message, compressed, serializer), context

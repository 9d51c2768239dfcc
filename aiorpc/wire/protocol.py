"""
Nameko's protocol as one configuration sets it; also events and plain messages. Pure: nothing here
awaits or does I/O.

Nameko and aiorpc services call one another, so everything on the wire is Nameko's (2.14.1 and 3.0,
captured; the trap numbers in this folder are those of that capture). What aiorpc adds, Nameko
ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..config import Settings
from ..context import NO_CONTEXT, Context
from .content import Content, refuse_oversized
from .headers import context_headers, context_of
from .message import Exchange, Message, Queue
from .names import REPLY_QUEUE_EXPIRES, rpc_queue_name
from .replies import Replies
from .requests import Requests
from .serializers import RAW, SerializerSet

__all__ = ["Wire"]


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
        return self._content.decode(message, serializer=serializer), context


class Wire(msgspec.Struct, frozen=True, eq=False):
    """
    Encodes and decodes messages as one configuration sets it.

    Attributes:
        rpc_exchange: the exchange of requests and replies.
        requests: from :class:`~aiorpc.Call` to message, and from message to arguments.
        replies: from result or error to message, and back.
        payloads: events and plain messages.
    """

    rpc_exchange: Exchange
    requests: Requests
    replies: Replies
    payloads: Payloads

    @classmethod
    def of(cls, settings: Settings) -> Wire:
        """
        The wire of *settings*.

        Raises:
            ConfigurationError: the settings name an unknown serializer.
        """
        content = Content(SerializerSet.of(settings), settings.max_message_size)
        return cls(
            rpc_exchange=Exchange(settings.rpc_exchange, "topic"),
            requests=Requests(content, settings.clock_tolerance),
            replies=Replies(content, persistent=settings.call_profile == "durable"),
            payloads=Payloads(content),
        )

    def rpc_queue(self, service: str) -> Queue:
        """The queue of the requests to *service*."""
        return Queue(rpc_queue_name(service), self.rpc_exchange, f"{service}.*")

    def reply_queue(self, owner: str, reply_to: str) -> Queue:
        """
        The queue of the replies to *owner*.

        It is durable and neither exclusive nor auto-delete, so that replies wait while their caller
        reconnects. The broker deletes it if the caller does not come back (trap 14).
        """
        name = f"rpc.reply-{owner}-{reply_to}"
        return Queue(name, self.rpc_exchange, reply_to, expires=REPLY_QUEUE_EXPIRES)

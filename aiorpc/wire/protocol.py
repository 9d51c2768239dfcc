"""
Nameko's protocol with the settings of one configuration: requests, replies, events and plain
messages. Pure functions: nothing here awaits or does I/O.

Nameko and aiorpc services call one another, so aiorpc sends the same messages as Nameko. We
captured the messages of Nameko 2.14.1 and 3.0; "trap" numbers in this folder refer to that capture.
Nameko ignores the additions of aiorpc.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..config import QueueOptions, Settings
from ..context import NO_CONTEXT, Context
from .content import Content, refuse_oversized
from .headers import context_headers, context_of
from .message import Exchange, Message, Queue
from .names import REPLY_QUEUE_EXPIRES, rpc_queue_name, unique_name
from .queues import configured, of_same_type
from .replies import Replies
from .requests import Requests
from .serializers import RAW, Serializer, SerializerSet
from .streams import StreamMessages

__all__ = ["Wire"]


class Payloads:
    """Encodes and decodes the events and plain messages of one configuration."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def encode(
        self,
        payload: Any,
        context: Context,
        *,
        headers: Mapping[str, Any] | None = None,
        serializer: Serializer | None = None,
    ) -> Message:
        """
        Return a message with *payload*. It carries the call ids and the context data, but not the
        deadline.

        Raises:
            UnserializableValueError: the payload cannot be encoded.
        """
        serializer = serializer or self._content.default
        fields = context_headers(context)
        if headers:
            fields.update(headers)
        return Message(
            body=serializer.encode(payload),
            content_type=serializer.content_type,
            content_encoding=serializer.content_encoding,
            headers=fields,
        )

    def serializer(self, name: str) -> Serializer:
        """
        Return the serializer that an option names.

        Raises:
            ConfigurationError: the configuration has no such serializer.
        """
        return self._content.serializers.named(name)

    def decode(self, message: Message) -> tuple[Any, Context]:
        """
        Return the payload of *message*, and the context that it carries.

        Raises:
            MalformedRequest: the body cannot be decoded.
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
    Encodes and decodes messages with the settings of one configuration.

    Attributes:
        content: decodes bodies.
        rpc_exchange: the exchange for requests and replies.
        requests: converts a :class:`~aiorpc.Call` to a message, and a message to arguments.
        replies: converts a result or an error to a message, and back.
        streams: encodes the answers of streams.
        payloads: encodes and decodes events and plain messages.
        queue_options: ``QUEUE_OPTIONS``.
    """

    content: Content
    rpc_exchange: Exchange
    requests: Requests
    replies: Replies
    streams: StreamMessages
    payloads: Payloads
    queue_options: dict[str, QueueOptions]

    @classmethod
    def of(cls, settings: Settings) -> Wire:
        """
        Make the wire for *settings*.

        Raises:
            ConfigurationError: the settings name an unknown serializer.
        """
        content = Content(SerializerSet.of(settings), settings.max_message_size)
        return cls(
            content=content,
            rpc_exchange=Exchange(
                settings.rpc_exchange, "topic", passive=not settings.declare_rpc_exchange
            ),
            queue_options=settings.queue_options,
            requests=Requests(content, settings.clock_tolerance),
            replies=Replies(content, persistent=settings.call_profile == "durable"),
            streams=StreamMessages(content),
            payloads=Payloads(content),
        )

    def rpc_queue(self, service: str) -> Queue:
        """Return the queue for requests to *service*, with the options of the configuration."""
        queue = Queue(
            rpc_queue_name(service), self.rpc_exchange, f"{service}.*", accept_existing=True
        )
        return configured(queue, self.queue_options)

    def reply_queue(self, owner: str, reply_to: str) -> Queue:
        """
        Return the queue for replies to *owner*.

        The queue is durable, not exclusive and not auto-delete, so replies wait while the caller
        reconnects. The broker deletes the queue if the caller does not reconnect (trap 14).
        """
        name = unique_name(f"rpc.reply-{owner}", reply_to)
        queue = Queue(name, self.rpc_exchange, reply_to, expires=REPLY_QUEUE_EXPIRES)
        return of_same_type(queue, name, self.queue_options)

"""
Encodes and decodes replies. Pure functions: nothing here awaits or does I/O.

A reply is ``{"result": ..., "error": null | {...}}`` in the serialization of its request. It is
sent to the exchange of the requests, with the request's ``reply_to`` as its routing key (nameko
2.14.1 and 3.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..context import EMPTY
from ..exceptions import MalformedReply, MalformedRequest
from .content import Content
from .errors import error_from_payload, error_payload
from .message import Message

__all__ = ["Replies"]


class Replies:
    """
    The replies of one configuration.

    Args:
        persistent: whether the broker keeps our replies on disk.
    """

    def __init__(self, content: Content, *, persistent: bool = True) -> None:
        self._content = content
        self._persistent = persistent

    def error(self, request: Message, error: BaseException, *, refusal: bool = False) -> Message:
        """The reply to *request* that brings *error*; see :mod:`aiorpc.wire.errors`."""
        return self.result(request, None, error_payload(error, refusal=refusal))

    def result(
        self, request: Message, result: Any, error: Mapping[str, Any] | None = None
    ) -> Message:
        """
        The reply to *request* that brings *result*, or the *error* in its form on the wire.

        Raises:
            UnserializableValueError: the result cannot be put on the wire.
        """
        content = self._content
        try:
            serializer = content.serializers[request.content_type]
        except MalformedRequest:  # the reply says so, in what its caller most likely reads
            serializer = content.default
        return Message(
            body=serializer.encode({"result": result, "error": error}),
            content_type=serializer.content_type,
            content_encoding=serializer.content_encoding,
            headers=EMPTY,
            persistent=self._persistent,
            correlation_id=request.correlation_id,
        )

    def decode(self, message: Message) -> Any:
        """
        The result that the reply *message* brings.

        Raises:
            MalformedReply: it is no answer of this protocol.
            Exception: the error it brings; see :func:`aiorpc.wire.errors.error_from_payload`.
        """
        try:
            body = self._content.decode(message)
        except MalformedRequest as exc:
            raise MalformedReply(f"the reply cannot be read: {exc}") from None
        if type(body) is not dict and not isinstance(body, Mapping):
            raise MalformedReply(f"the reply is a {type(body).__name__}, not an object")
        error = body.get("error")
        if error is not None and error != {}:
            raise error_from_payload(error)
        try:
            return body["result"]
        except KeyError:
            raise MalformedReply("the reply has neither `result` nor `error`") from None

"""
Encodes and decodes replies. Pure functions: nothing here awaits or does I/O.

A reply is ``{"result": ..., "error": null | {...}}``, encoded by the serializer of the request. The
service sends it to the exchange of the request, with the routing key ``reply_to`` (nameko 2.14.1
and 3.0).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..config import hide
from ..context import EMPTY
from ..exceptions import MalformedReply, MalformedRequest
from .content import Content
from .errors import error_from_payload, error_payload
from .message import Message

__all__ = ["Replies"]


class Replies:
    """
    Encodes and decodes the replies of one configuration.

    Args:
        persistent: whether the broker stores our replies on disk.
    """

    def __init__(self, content: Content, *, persistent: bool = True) -> None:
        self._content = content
        self._persistent = persistent

    def error(
        self,
        request: Message,
        error: BaseException,
        *,
        refusal: bool = False,
        secrets: Collection[str] = (),
    ) -> Message:
        """
        Return a reply to *request* with *error*, and *secrets* masked in it; see
        :mod:`aiorpc.wire.errors`.
        """
        payload = error_payload(error, refusal=refusal)
        if secrets:
            payload |= {name: hide(payload[name], secrets) for name in ("exc_args", "value")}
        return self.result(request, None, payload)

    def result(
        self, request: Message, result: Any, error: Mapping[str, Any] | None = None
    ) -> Message:
        """
        Return a reply to *request* with *result*, or with *error*, which is encoded already.

        Raises:
            UnserializableValueError: the result cannot be encoded.
        """
        serializer = self._content.answering(request)
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
        Return the result in the reply *message*.

        Raises:
            MalformedReply: *message* is not a reply of this protocol.
            Exception: the error in the reply; see :func:`aiorpc.wire.errors.error_from_payload`.
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
            if "error" in body:
                return None  # JavaScript's JSON.stringify leaves out a result that is undefined
            raise MalformedReply("the reply has neither `result` nor `error`") from None

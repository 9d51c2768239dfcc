"""
The wire protocol, without any I/O: it is Nameko's own, so Nameko and aiorpc services call one
another (nameko 2.14.1 and 3.0, captured; the trap numbers are those of that capture).

Rule 1: every name of an exchange, a queue or a header is made in ``names.py``.

Rule 2: nothing here awaits, and nothing here looks at a clock but for making and reading deadlines.

A request is ``{"args": [...], "kwargs": {...}}`` to the exchange ``nameko-rpc`` under
``<service>.<method>``; its reply ``{"result": ..., "error": null | {...}}`` comes to the same
exchange under the request's ``reply_to``, in the request's own serialisation.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from math import ceil
from time import monotonic, time as epoch
from typing import Any

from ..call import Call
from ..config import Settings
from ..context import EMPTY, FAR, NO_CONTEXT, Context, Deadline, new_id
from ..exceptions import IncorrectSignature, MalformedReply, MalformedRequest, RpcTimeout
from .bodies import as_utf8, decompress
from .errors import error_from_payload, error_payload
from .headers import FilledHeaders, HeaderTemplate, context_headers, context_of, read_headers
from .message import Exchange, Message, Queue
from .names import (
    CANCEL_EXCHANGE,
    COMPRESSION,
    DEADLINE,
    MAX_EXPIRATION,
    OVERSIZED,
    REPLY_QUEUE_EXPIRES,
    RESENT,
    UNBOUNDED_CANCEL,
    rpc_queue_name,
)
from .request import Request
from .serializers import JSON, RAW, Serializer, SerializerSet

__all__ = ["Request", "Wire", "expiration_of"]


class Wire:
    """Encodes and decodes calls, replies and events as one configuration has them."""

    def __init__(
        self,
        serializers: SerializerSet,
        *,
        rpc_exchange: str = "nameko-rpc",
        clock_tolerance: float = 5.0,
        max_message_size: int | None = None,
    ) -> None:
        self.serializers = serializers
        self.rpc_exchange = Exchange(rpc_exchange, "topic")
        self._exchange_name = rpc_exchange
        self._clock_tolerance = clock_tolerance
        self._max_message_size = max_message_size or (1 << 30)
        self._default = serializers.default

    @classmethod
    def of(cls, settings: Settings) -> Wire:
        """The wire as *settings* have it; ConfigurationError for an unknown serializer."""
        return cls(
            SerializerSet.of(settings),
            rpc_exchange=settings.rpc_exchange,
            clock_tolerance=settings.clock_tolerance,
            max_message_size=settings.max_message_size,
        )

    # Queues

    def rpc_queue(self, service: str) -> Queue:
        return Queue(rpc_queue_name(service), self.rpc_exchange, f"{service}.*")

    def reply_queue(self, owner: str, reply_to: str) -> Queue:
        """
        Durable and neither exclusive nor auto-delete, so that replies wait while their caller
        reconnects, and gone by itself when the caller does not come back (trap 14).
        """
        name = f"rpc.reply-{owner}-{reply_to}"
        return Queue(name, self.rpc_exchange, reply_to, expires=REPLY_QUEUE_EXPIRES)

    # Requests

    def encode_request(
        self,
        call: Call,
        *,
        reply_to: str,
        correlation_id: str,
        persistent: bool = True,
        headers: Mapping[str, Any] | None = None,
        template: HeaderTemplate | None = None,
    ) -> Message:
        """
        The message that makes *call*.

        Args:
            headers: further ones, as they are to stand on the wire.
            template: :func:`.headers.template_of` the headers of its context, if the caller has it.

        Raises:
            UnserializableValueError: an argument cannot be put on the wire.
            RpcTimeout: the deadline of the call has passed already.
        """
        codec = self._default
        context = call.context
        fields: Mapping[str, Any]
        deadline = context.deadline
        expiration = None
        if deadline is not None:
            left = deadline.at - monotonic()
            if left <= 0:
                raise RpcTimeout(f"{call} was not sent: the deadline it runs under has passed")
            moment = ceil((epoch() + left) * 1000)
            expiration = ceil(left * 1000)  # at least 1, since something is left
            if expiration > MAX_EXPIRATION:
                expiration = MAX_EXPIRATION
            if template is not None and not headers:
                fields = FilledHeaders(template, moment)
            else:
                fields = {**context_headers(context), DEADLINE: moment, **(headers or EMPTY)}
        else:
            fields = {**context_headers(context), **(headers or EMPTY)}
        kwargs = call.kwargs
        if type(kwargs) is not dict:
            kwargs = dict(kwargs)
        return Message(
            body=codec.encode({"args": call.args, "kwargs": kwargs}),
            content_type=codec.content_type,
            content_encoding=codec.content_encoding,
            headers=fields,
            persistent=persistent,
            correlation_id=correlation_id,
            reply_to=reply_to,
            expiration=expiration,
        )

    def resend_request(self, message: Message, deadline: Deadline | None) -> Message | None:
        """*message* as it is sent again after a lost connection; ``None`` if it is too late."""
        expiration = None
        if deadline is not None:
            left = deadline.remaining()
            if left <= 0:
                return None
            expiration = expiration_of(left)
        return Message(
            body=message.body,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers={**(message.headers or {}), RESENT: True},
            persistent=message.persistent,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            expiration=expiration,
        )

    def request(self, message: Message, routing_key: str, waited: float = 0.0) -> Request:
        """Read the properties of a request. *waited*: seconds since it reached this process."""
        request = Request(message, routing_key.rpartition(".")[2], self._default)
        expiration = message.expiration
        meaning, sent_deadline = read_headers(message.headers)
        if meaning.resent:
            request.resent = True
        if meaning.compressed:
            request.compressed = True
        if sent_deadline is not None or expiration is not None:
            self._apply_deadline(request, sent_deadline, expiration, waited)
        data = dict(meaning.data) if meaning.data else EMPTY  # a template's is shared
        request.context = Context(meaning.stack, data, request.deadline)
        return request

    def _apply_deadline(
        self, request: Request, sent_deadline: int | None, expiration: int | None, waited: float
    ) -> None:
        """
        Time left = min(header - now, expiration). The clocks of two hosts differ, so a header that
        has passed proves nothing within the tolerance: then the relative limit alone counts. A
        request without ``expiration`` came through a Nameko hop, where a past deadline may be the
        leftover of an event of long ago: it is ignored.
        """
        left = FAR if expiration is None else expiration / 1000 - waited
        if left <= 0:
            request.late = RpcTimeout(
                f"the request waited {waited:.3g} s in the process that received it "
                f"({socket.gethostname()}), past its deadline: the service is saturated"
            )
        elif sent_deadline is not None:
            by_clock = sent_deadline / 1000 - epoch()
            if by_clock > 0:
                if by_clock < left:
                    left = by_clock
            elif expiration is not None and by_clock < -self._clock_tolerance:
                request.late = RpcTimeout(
                    f"the request arrived {-by_clock:.1f} s past its deadline by the clock of "
                    f"{socket.gethostname()}, although the broker held it to be in time: the "
                    f"clocks of the two hosts differ by about {-by_clock:.0f} s or more; "
                    "synchronise them (NTP), or raise CLOCK_TOLERANCE"
                )
        if left < FAR:
            request.deadline = Deadline(monotonic() + left)

    def decode_arguments(self, request: Request) -> tuple[Sequence[Any], dict[str, Any]]:
        """
        The positional and keyword arguments, as they came.

        Raises:
            MalformedRequest: the body is no call, or its content type is not accepted here.
            IncorrectSignature: `args` or `kwargs` is there, but not of its type (Nameko's answer).
        """
        message = request.message
        codec = self.serializers.for_content_type(message.content_type)
        if codec.content_type != request.serializer.content_type:
            request.serializer = codec
        raw = message.body
        if not raw:
            _refuse_oversized(message)
        if request.compressed or message.content_encoding != codec.content_encoding:
            raw = self._body(message, codec)
        body = codec.decode(raw)
        try:
            args, kwargs = body["args"], body["kwargs"]
        except (TypeError, KeyError, IndexError):
            if isinstance(body, Mapping):
                raise MalformedRequest("Message missing `args` or `kwargs`") from None
            raise MalformedRequest(
                f"the body is a {type(body).__name__}, not an object with `args` and `kwargs`"
            ) from None
        if type(args) is not list:
            # Nameko takes any iterable: "ab" is two arguments. Some serializers keep tuples.
            if not isinstance(args, (tuple, str, Mapping)):
                raise IncorrectSignature(f"`args` must be an array, not {type(args).__name__}")
            args = list(args)
        if type(kwargs) is not dict:
            if not isinstance(kwargs, Mapping):
                raise IncorrectSignature(f"`kwargs` must be an object, not {type(kwargs).__name__}")
            kwargs = dict(kwargs)
        return args, kwargs

    # Replies

    def encode_result(self, request: Request, result: Any) -> bytes:
        """
        The body of the reply that brings *result*.

        Raises:
            UnserializableValueError: the result cannot be put on the wire.
        """
        return request.serializer.encode({"result": result, "error": None})

    def encode_error(
        self, request: Request, error: BaseException, *, refusal: bool = False
    ) -> bytes:
        """The body of the reply that brings *error*; see :mod:`aiorpc.wire.errors`."""
        payload = error_payload(error, refusal=refusal)
        return request.serializer.encode({"result": None, "error": payload})

    def reply(self, request: Request, body: bytes, *, persistent: bool = True) -> Message:
        serializer = request.serializer
        return Message(
            body=body,
            content_type=serializer.content_type,
            content_encoding=serializer.content_encoding,
            headers=EMPTY,
            persistent=persistent,
            correlation_id=request.message.correlation_id,
        )

    def decode_reply(self, message: Message) -> Any:
        """
        The result.

        Raises:
            MalformedReply: it is no answer of this protocol.
            Exception: the error it brings; see :func:`aiorpc.wire.errors.error_from_payload`.
        """
        try:
            codec = self.serializers.for_content_type(message.content_type)
            raw = message.body
            if not raw:
                _refuse_oversized(message)
            if message.headers or message.content_encoding != codec.content_encoding:
                raw = self._body(message, codec)
            body = codec.decode(raw)
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

    # Cancelling

    def cancel_queue(self, owner: str) -> Queue:
        """Where one instance hears of calls that are taken back; gone with its connection."""
        name = f"aiorpc-cancel-{owner}-{new_id()}"
        return Queue(name, CANCEL_EXCHANGE, durable=False, exclusive=True, auto_delete=True)

    def encode_cancel(self, reply_to: str, correlation_id: str, left: float | None) -> Message:
        """
        What announces that a call is taken back, *left* seconds before its deadline. Nameko never
        hears of it: the exchange is ours alone.
        """
        lifetime = UNBOUNDED_CANCEL if left is None else min(left, UNBOUNDED_CANCEL)
        return Message(
            body=JSON.encode([reply_to, correlation_id, lifetime]),
            persistent=False,
            expiration=expiration_of(lifetime),
        )

    def decode_cancel(self, message: Message) -> tuple[tuple[str, str], float]:
        """
        The call's ``reply_to`` and ``correlation_id``, and for how many seconds that matters.

        Raises:
            MalformedRequest: it is no such announcement.
        """
        match JSON.decode(message.body):
            case [str(reply_to), str(correlation_id), int(lifetime) | float(lifetime)]:
                return (reply_to, correlation_id), min(float(lifetime), UNBOUNDED_CANCEL)
        raise MalformedRequest("expected [reply_to, correlation_id, seconds]")

    # Events and plain messages

    def encode_payload(
        self, payload: Any, context: Context, *, headers: Mapping[str, Any] | None = None
    ) -> Message:
        """An event or a plain message: context data travels with it, the deadline does not."""
        codec = self._default
        fields = context_headers(context)
        if headers:
            fields.update(headers)
        return Message(
            body=codec.encode(payload),
            content_type=codec.content_type,
            content_encoding=codec.content_encoding,
            headers=fields,
        )

    def decode_payload(self, message: Message) -> tuple[Any, Context]:
        """
        The payload of an event or a plain message, and the context it came with.

        Raises:
            MalformedRequest: the body cannot be read.
        """
        context = context_of(message.headers) if message.headers else NO_CONTEXT
        codec = self.serializers.for_payload(message.content_type)
        if not message.body:
            _refuse_oversized(message)
            if codec is not RAW:
                return "", context  # undecoded, as with Nameko: kombu decodes no empty body
        return codec.decode(self._body(message, codec)), context

    def _body(self, message: Message, codec: Serializer) -> bytes:
        """The body without compression, and text in UTF-8."""
        body = message.body
        if message.headers and (compression := message.headers.get(COMPRESSION)):
            body = decompress(body, compression, self._max_message_size)
        if message.content_encoding != codec.content_encoding and codec.content_encoding == "utf-8":
            body = as_utf8(body, message.content_encoding)
        return body


def _refuse_oversized(message: Message) -> None:
    """
    A body that was too large was not read: what is here is empty.

    Raises:
        MalformedRequest: this is such a message.
    """
    if message.headers and OVERSIZED in message.headers:
        raise MalformedRequest(
            f"the body has {message.headers[OVERSIZED]} bytes, more than MAX_MESSAGE_SIZE here: "
            "send less, send it in parts, or raise the limit"
        )


def expiration_of(seconds: float) -> int:
    """The property that bounds a message to *seconds*: milliseconds, rounded up, at least 1."""
    return min(max(1, ceil(seconds * 1000)), MAX_EXPIRATION)

"""
Encodes and decodes requests, and the messages that cancel requests. Pure functions: nothing here
awaits or does I/O. Deadlines need the clock.

A request is ``{"args": [...], "kwargs": {...}}``. The caller sends it to the exchange
``nameko-rpc`` with the routing key ``<service>.<method>`` (nameko 2.14.1 and 3.0).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from time import monotonic, time as epoch
from typing import Any, TypeVar

import msgspec

from ..call import Call
from ..context import EMPTY, FAR, NO_CONTEXT, Context, Deadline
from ..exceptions import IncorrectSignature, MalformedRequest, RpcTimeout
from .content import Content
from .headers import FilledHeaders, HeaderTemplate, context_headers, read_headers
from .message import MAX_EXPIRATION, Message, expiration_of
from .names import DEADLINE, RESENT, TIMESTAMP, TRACEPARENT, UNBOUNDED_CANCEL
from .serializers import JSON

__all__ = [
    "Request",
    "Requests",
    "decode_cancellation",
    "encode_cancellation",
    "seconds_since_sent",
]

#: Seconds that an ``expiration`` can say at most.
_LONGEST = MAX_EXPIRATION / 1000


class Request(msgspec.Struct, eq=False):
    """
    A request that a service received. :meth:`Requests.read` sets all fields but ``message``.

    Attributes:
        context: the call ids, the context data and the deadline of the request.
        late: why the request is too late to run; ``None`` if it is in time.
        resent: whether the caller, or a service that counts attempts, sent the request before.
        compressed: whether the body is compressed.
        window: the number of items that the caller of a stream buffers; 0 if it wants one result.
        keyed: whether the call has an idempotency key (:mod:`.keys`).
    """

    message: Message
    method: str
    context: Context = NO_CONTEXT
    late: RpcTimeout | None = None
    resent: bool = False
    compressed: bool = False
    window: int = 0
    keyed: bool = False


R = TypeVar("R", bound=Request)


class Requests:
    """
    Encodes and decodes the requests of one configuration.

    Args:
        clock_tolerance: seconds by which the clocks of two hosts may differ.
    """

    def __init__(self, content: Content, clock_tolerance: float) -> None:
        self._content = content
        self._clock_tolerance = clock_tolerance

    # At the caller

    def encode(
        self,
        call: Call,
        *,
        reply_to: str,
        correlation_id: str,
        persistent: bool = True,
        headers: Mapping[str, Any] = EMPTY,
        template: HeaderTemplate | None = None,
    ) -> Message:
        """
        Return the request for *call*. *headers* are sent in addition to the headers of its context.
        *template* is the context's :func:`.headers.template_of`, if the caller has made it already.

        Raises:
            UnserializableValueError, RpcTimeout: it cannot be encoded, or its deadline has passed.
        """
        serializer = self._content.default
        deadline, expiration, filled = call.context.deadline, None, None
        if deadline is not None:
            left = deadline.at - monotonic()
            if left <= 0:
                raise RpcTimeout(f"{call} was not sent: its deadline has passed already")
            expiration = ceil(left * 1000) if left < _LONGEST else MAX_EXPIRATION
            moment = ceil((epoch() + left) * 1000)
            if template is None or headers:
                headers = {DEADLINE: str(moment), **headers}
            else:
                filled = FilledHeaders(template, b"%d" % moment)
        kwargs = call.kwargs if type(call.kwargs) is dict else dict(call.kwargs)
        return Message(
            body=serializer.encode({"args": call.args, "kwargs": kwargs}),
            content_type=serializer.content_type,
            content_encoding=serializer.content_encoding,
            headers=filled if filled is not None else {**context_headers(call.context), **headers},
            persistent=persistent,
            correlation_id=correlation_id,
            reply_to=reply_to,
            expiration=expiration,
        )

    def encoder(self, serializer: str | None, priority: int) -> Callable[..., Message]:
        """
        Return :meth:`encode`, for requests with another serializer or priority.

        Raises:
            ConfigurationError: the configuration has no such serializer.
        """
        requests = self
        if serializer is not None:
            requests = Requests(self._content.sending(serializer), self._clock_tolerance)
        if not priority:
            return requests.encode

        def encode(call: Call, **options: Any) -> Message:
            message = requests.encode(call, **options)
            message.priority = priority
            return message

        return encode

    def resend(self, message: Message, deadline: Deadline | None) -> Message | None:
        """Return the request to re-send on a new connection; ``None`` if *deadline* has passed."""
        expiration = None
        if deadline is not None:
            left = deadline.remaining()
            if left <= 0:
                return None
            expiration = expiration_of(left)
        headers = {**(message.headers or EMPTY), RESENT: True}
        return msgspec.structs.replace(message, headers=headers, expiration=expiration)

    # At the service

    def read(self, request: R) -> R:
        """Decode the properties of *request*, but not its body, and return *request*."""
        message = request.message
        headers = message.headers
        sent_deadline: float | None
        traceparent = ""
        if type(headers) is FilledHeaders:  # as in nearly every request (ADR 6)
            template = headers.template
            meaning, sent_deadline = template.meaning, float(headers.digits)
            traceparent = template.traceparent
        else:
            meaning, sent_deadline = read_headers(headers)
        if meaning.resent:
            request.resent = True
        if meaning.compressed:
            request.compressed = True
        if meaning.window:
            request.window = meaning.window
        if meaning.keyed:
            request.keyed = True
        deadline = None
        if sent_deadline is not None or message.expiration is not None:
            deadline = self._deadline(request, sent_deadline, message.expiration)
        data = dict(meaning.data) if meaning.data else EMPTY  # requests may share it
        if traceparent:
            data = {**data, TRACEPARENT: traceparent}
        request.context = Context(meaning.stack, data, deadline)
        return request

    def _deadline(
        self, request: Request, sent_deadline: float | None, expiration: int | None
    ) -> Deadline | None:
        """
        Return the deadline of *request*. If the deadline has passed, set ``late`` of the request.

        Time left = min(header - now, expiration). The clocks of two hosts differ, so we use only
        the expiration if the header has passed by less than the tolerance. A request without an
        expiration came from a Nameko service, which keeps the deadline of an earlier call as
        context data. So we ignore a past deadline of such a request.
        """
        left = FAR if expiration is None else expiration / 1000
        if left <= 0:
            request.late = RpcTimeout(
                f"the request reached {socket.gethostname()} with an expiration of {expiration} "
                "ms: no time is left to run it"
            )
        elif sent_deadline is not None:
            by_clock = sent_deadline / 1000 - epoch()
            if by_clock > 0:
                if by_clock < left:
                    left = by_clock
            elif expiration is not None and by_clock < -self._clock_tolerance:
                request.late = RpcTimeout(
                    f"the request arrived {-by_clock:.1f} s past its deadline by the clock of "
                    f"{socket.gethostname()}, although the broker delivered it in time: the "
                    f"clocks of the two hosts differ by about {-by_clock:.0f} s or more; "
                    "synchronise them (NTP), or raise CLOCK_TOLERANCE"
                )
        return Deadline(monotonic() + left) if left < FAR else None

    def arguments(self, request: Request) -> tuple[Sequence[Any], dict[str, Any]]:
        """
        Return the positional and keyword arguments in the body of *request*.

        Raises:
            MalformedRequest: the body is not a call, or this service rejects its content type.
            IncorrectSignature: `args` or `kwargs` has the wrong type; Nameko answers the same.
        """
        body = self._content.decode(request.message, request.compressed)
        try:
            args, kwargs = body["args"], body["kwargs"]
        except (TypeError, KeyError, IndexError):
            if isinstance(body, Mapping):
                raise MalformedRequest("Message missing `args` or `kwargs`") from None
            raise MalformedRequest(
                f"the body is a {type(body).__name__}, not an object with `args` and `kwargs`"
            ) from None
        if type(args) is not list:
            # Nameko accepts any iterable: "ab" is two arguments. Some serializers keep tuples.
            if not isinstance(args, (tuple, str, Mapping)):
                raise IncorrectSignature(f"`args` must be an array, not {type(args).__name__}")
            args = list(args)
        if type(kwargs) is not dict:
            if not isinstance(kwargs, Mapping):
                raise IncorrectSignature(f"`kwargs` must be an object, not {type(kwargs).__name__}")
            kwargs = dict(kwargs)
        return args, kwargs


def seconds_since_sent(message: Message) -> float | None:
    """
    Return the seconds since *message* was sent, by the clocks of two hosts; ``None`` if the message
    does not say.

    A request has the time of its deadline, and in its ``expiration`` the time that was left when it
    was sent. Other messages have a time if RabbitMQ adds it (``message_interceptors.incoming`` in
    its configuration).
    """
    headers, expiration = message.headers, message.expiration
    sent_at: float | None = None
    if type(headers) is FilledHeaders:
        deadline: Any = headers.digits
    elif headers is not None:
        deadline = headers.get(DEADLINE)
        if type(stamp := headers.get(TIMESTAMP)) is int:
            sent_at = stamp / 1000
    else:
        return None
    if sent_at is None and expiration is not None and expiration < MAX_EXPIRATION:
        try:
            sent_at = (int(deadline) - expiration) / 1000
        except (TypeError, ValueError):
            return None
    return None if sent_at is None else max(0.0, epoch() - sent_at)


def encode_cancellation(reply_to: str, correlation_id: str, left: float | None) -> Message:
    """
    Return the message that cancels one call. Nameko services do not use its exchange.

    Args:
        reply_to, correlation_id: the properties of the request.
        left: seconds until the deadline of the call; ``None`` if the call has no deadline.
    """
    lifetime = UNBOUNDED_CANCEL if left is None else min(left, UNBOUNDED_CANCEL)
    return Message(
        body=JSON.encode([reply_to, correlation_id, lifetime]),
        persistent=False,
        expiration=expiration_of(lifetime),
    )


def decode_cancellation(message: Message) -> tuple[tuple[str, str], float]:
    """
    Return the call's ``reply_to`` and ``correlation_id``, and the seconds until its deadline.

    Raises:
        MalformedRequest: *message* is not a cancellation.
    """
    match JSON.decode(message.body):
        case [str(reply_to), str(correlation_id), int(lifetime) | float(lifetime)]:
            return (reply_to, correlation_id), min(float(lifetime), UNBOUNDED_CANCEL)
    raise MalformedRequest("expected [reply_to, correlation_id, seconds]")

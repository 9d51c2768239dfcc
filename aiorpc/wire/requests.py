"""
Encodes and decodes requests, and the messages that cancel them. Pure functions: nothing here awaits
or does I/O; clocks are read for deadlines only.

A request is ``{"args": [...], "kwargs": {...}}``, sent to the exchange ``nameko-rpc`` with the
routing key ``<service>.<method>`` (nameko 2.14.1 and 3.0).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from math import ceil
from time import monotonic, time as epoch
from typing import Any, TypeVar

import msgspec

from ..call import Call
from ..context import EMPTY, FAR, NO_CONTEXT, Context, Deadline
from ..exceptions import IncorrectSignature, MalformedRequest, RpcTimeout
from .content import Content
from .headers import FilledHeaders, HeaderTemplate, context_headers, read_headers
from .message import Message, expiration_of
from .names import DEADLINE, RESENT, UNBOUNDED_CANCEL
from .serializers import JSON

__all__ = ["Request", "Requests", "decode_cancellation", "encode_cancellation"]


class Request(msgspec.Struct, eq=False):
    """
    A request as a service receives it. :meth:`Requests.read` fills in what its properties say.

    Attributes:
        context: the call ids, the context data and the deadline that came with it.
        late: why the request is too late to be run, or ``None``.
        resent: whether its caller, or a service that counted it, sent it before.
        compressed: whether its body is compressed.
    """

    message: Message
    method: str
    context: Context = NO_CONTEXT
    late: RpcTimeout | None = None
    resent: bool = False
    compressed: bool = False


R = TypeVar("R", bound=Request)


class Requests:
    """
    The requests of one configuration.

    Args:
        clock_tolerance: seconds that the clocks of two hosts may differ.
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
        The message that makes *call*, with *headers* besides those of its context. *template* is
        :func:`.headers.template_of` the context's headers, if the caller has it.

        Raises:
            UnserializableValueError: an argument cannot be put on the wire.
            RpcTimeout: the deadline of the call has passed already.
        """
        serializer = self._content.default
        deadline, expiration, filled = call.context.deadline, None, None
        if deadline is not None:
            left = deadline.at - monotonic()
            if left <= 0:
                raise RpcTimeout(f"{call} was not sent: the deadline it runs under has passed")
            expiration = expiration_of(left)
            moment = ceil((epoch() + left) * 1000)
            if template is None or headers:
                headers = {DEADLINE: moment, **headers}
            else:
                filled = FilledHeaders(template, moment)
        return Message(
            body=serializer.encode({"args": call.args, "kwargs": dict(call.kwargs)}),
            content_type=serializer.content_type,
            content_encoding=serializer.content_encoding,
            headers=filled if filled is not None else {**context_headers(call.context), **headers},
            persistent=persistent,
            correlation_id=correlation_id,
            reply_to=reply_to,
            expiration=expiration,
        )

    def resend(self, message: Message, deadline: Deadline | None) -> Message | None:
        """The request to send after a lost connection; ``None`` if *deadline* has passed."""
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
        """Fill in what the properties of *request* say, and return it. Its body stays unread."""
        message = request.message
        meaning, sent_deadline = read_headers(message.headers)
        if meaning.resent:
            request.resent = True
        if meaning.compressed:
            request.compressed = True
        deadline = None
        if sent_deadline is not None or message.expiration is not None:
            deadline = self._deadline(request, sent_deadline, message.expiration)
        data = dict(meaning.data) if meaning.data else EMPTY  # a template's is shared
        request.context = Context(meaning.stack, data, deadline)
        return request

    def _deadline(
        self, request: Request, sent_deadline: int | None, expiration: int | None
    ) -> Deadline | None:
        """
        The deadline of *request*; says so in the request if it has passed.

        Time left = min(header - now, expiration). The clocks of two hosts differ, so a header that
        has passed proves nothing within the tolerance: then the expiration alone counts. A request
        without an expiration came through a Nameko hop. Its past deadline may be an old one that
        Nameko kept as context data, so it is ignored.
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
                    f"{socket.gethostname()}, although the broker held it to be in time: the "
                    f"clocks of the two hosts differ by about {-by_clock:.0f} s or more; "
                    "synchronise them (NTP), or raise CLOCK_TOLERANCE"
                )
        return Deadline(monotonic() + left) if left < FAR else None

    def arguments(self, request: Request) -> tuple[Sequence[Any], dict[str, Any]]:
        """
        The positional and keyword arguments in the body of *request*.

        Raises:
            MalformedRequest: the body is no call, or its content type is not accepted here.
            IncorrectSignature: `args` or `kwargs` has the wrong type (Nameko's answer).
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
            # Nameko takes any iterable: "ab" is two arguments. Some serializers keep tuples.
            if not isinstance(args, (tuple, str, Mapping)):
                raise IncorrectSignature(f"`args` must be an array, not {type(args).__name__}")
            args = list(args)
        if type(kwargs) is not dict:
            if not isinstance(kwargs, Mapping):
                raise IncorrectSignature(f"`kwargs` must be an object, not {type(kwargs).__name__}")
            kwargs = dict(kwargs)
        return args, kwargs


def encode_cancellation(reply_to: str, correlation_id: str, left: float | None) -> Message:
    """
    The message that cancels one call. Nameko never sees it: its exchange is ours alone.

    Args:
        reply_to, correlation_id: those of the request.
        left: seconds until the deadline of the call; ``None`` if it has none.
    """
    lifetime = UNBOUNDED_CANCEL if left is None else min(left, UNBOUNDED_CANCEL)
    return Message(
        body=JSON.encode([reply_to, correlation_id, lifetime]),
        persistent=False,
        expiration=expiration_of(lifetime),
    )


def decode_cancellation(message: Message) -> tuple[tuple[str, str], float]:
    """
    The call's ``reply_to`` and ``correlation_id``, and the seconds until its deadline.

    Raises:
        MalformedRequest: *message* cancels no call.
    """
    match JSON.decode(message.body):
        case [str(reply_to), str(correlation_id), int(lifetime) | float(lifetime)]:
            return (reply_to, correlation_id), min(float(lifetime), UNBOUNDED_CANCEL)
    raise MalformedRequest("expected [reply_to, correlation_id, seconds]")

"""
Serves the requests of one service: reads a request, submits its call, and answers. Only callbacks;
awaits nothing.

The server settles every request once: it answers with the result or a typed error, then acks. It
rejects a refused request without ``reply_to`` (to the dead-letter exchange, if the queue has one),
and logs one line. No message of a peer stops the consumer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ..context import EMPTY
from ..exceptions import AioRpcError
from ..extensions import Ending, Entrypoint, Host, Outcome
from ..logs import logger, named, one_line
from ..transports.base import Delivery
from ..wire.arguments import Arguments
from ..wire.errors import text_of
from ..wire.message import Message
from ..wire.parked import Parking
from ..wire.requests import Request
from .answers import Answers, ServedRequest
from .attempts import Attempts
from .cancellations import Cancellations
from .decompression import decompresses
from .refusals import Refusals, not_found, not_idempotent, uncertain
from .streams import AGAIN, Collected, Stream, StreamCall, Streams, no_stream

__all__ = ["Method", "Server"]

log = logger("aiorpc.rpc")

#: Characters of the text of an error whose reply fits into the smallest MAX_MESSAGE_SIZE.
_FITS = 400
_RETURNED = Ending.RETURNED  # enum lookup is slow on Python 3.11
#: The error is the host's, not the method's.
_REFUSED = (Ending.TIMED_OUT, Ending.REFUSED)


class Method(msgspec.Struct, frozen=True):
    """A method that a request starts."""

    entrypoint: Entrypoint
    arguments: Arguments
    at_most_once: bool
    stream: bool = False


class _Request(ServedRequest, eq=False, kw_only=True):
    """A request with the callbacks of its call. Bound methods cost less than partials (ADR 6)."""

    server: Server

    def settle(self, outcome: Outcome) -> None:
        """Settle the request with the *outcome* of its call."""
        self.server.settle(self, outcome)

    def encode(self, result: Any) -> Message:
        """Return the reply with *result*."""
        return self.server.replies.result(self.message, result)


def _why(host: Host, methods: Mapping[str, Method], delivery: Delivery) -> Parking:
    """Return the method of a request that is parked, and its sensitive arguments."""
    from .sensitive import paths_in_call  # few services park a request

    name = delivery.routing_key.rpartition(".")[2]
    method = methods.get(name)
    paths = paths_in_call(method.entrypoint, host) if method else ()
    return Parking(method=f"{host.service_name}.{name}", sensitive=paths)


class Server:
    """
    Serves the requests of one service.

    Args:
        methods: the ``@rpc`` methods, by name.
    """

    def __init__(self, host: Host, methods: Mapping[str, Method]) -> None:
        self._requests, self.replies = host.wire.requests, host.wire.replies
        self.cancellations: Cancellations[ServedRequest] = Cancellations()
        self._host = host
        self._methods = methods
        self.answers = Answers(host, self.cancellations)
        self._streams = Streams(host, self.cancellations)
        entrypoints = {name: method.entrypoint for name, method in methods.items()}
        self._refusals = Refusals(host, entrypoints, self.settle, self._answer_error)
        self._attempts = Attempts(
            host,
            host.wire.rpc_queue(host.service_name),
            self._counted,
            why=partial(_why, host, methods),
            as_it_came=True,
            parked=self._parked,
            rejected=self.answers.send_beside,
        )

    # From a delivery to a call

    def received(self, delivery: Delivery) -> None:
        """Serve the request in *delivery*."""
        request = self._read(delivery)
        if delivery.redelivered or request.resent:
            if self._is_known(request):
                return
            if (
                request.window == 0
                and request.late is None
                and self._attempts.takes(delivery, request.context.deadline)
            ):
                return
        self._serve(request)

    def requeue(self, delivery: Delivery) -> None:
        """Requeue the request in *delivery*, because this host stops."""
        self._attempts.requeue(delivery, self._read(delivery).context.deadline)

    def _counted(self, delivery: Delivery) -> None:
        request = self._read(delivery)
        # Another copy of the request may have begun to run while this one waited for its confirm.
        if not self._is_known(request):
            self._serve(request)

    def _parked(self, delivery: Delivery, error: AioRpcError) -> None:
        self._answer_error(self._read(delivery), error, refusal=True)

    def _read(self, delivery: Delivery) -> _Request:
        message = delivery.message
        request = _Request(
            message,
            delivery.routing_key.rpartition(".")[2],
            delivery=delivery,
            key=(message.reply_to, message.correlation_id),
            server=self,
        )
        return self._requests.read(request)

    def _serve(self, request: _Request) -> None:
        if request.compressed and decompresses(
            self._host, request.delivery, partial(self._serve, request)
        ):
            return
        args: Sequence[Any] = ()
        kwargs: Any = EMPTY
        try:
            args, kwargs = self._requests.arguments(request)
            if request.late is not None:
                self._refusals.refuse(request, request.late, args, kwargs, refusal=True)
                return
            method = self._methods.get(request.method)
            if method is None:
                raise not_found(request.method, self._host.service_cls, self._methods)
            args, kwargs = method.arguments.bind(args, kwargs)
            if request.keyed and not method.entrypoint.idempotent:
                raise not_idempotent(self._name(request))
        except Exception as exc:  # noqa: BLE001 - the caller gets every error as its answer
            self._refusals.refuse(request, exc, args, kwargs)
            return
        again = request.delivery.redelivered or request.resent
        if again and method.at_most_once:
            error = uncertain(self._name(request), request)
            self._refusals.refuse(request, error, args, kwargs, refusal=True)
            return
        cancellations = self.cancellations
        if cancellations.early and cancellations.came_before(request.key):
            request.delivery.ack()
            return
        if method.stream or request.window:
            self._serve_stream(request, method, args, kwargs)
            return
        host, entrypoint = self._host, method.entrypoint
        call = host.new_call(
            *(entrypoint, args, kwargs, request.context, "rpc", again), message=request.message
        )
        request.submission = host.submit(entrypoint, call, request.settle, request.encode)
        if not request.settled:
            cancellations.running[request.key] = request

    def _serve_stream(
        self, request: _Request, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Serve *request*, whose method is an async generator or whose caller wants a stream."""
        again = request.delivery.redelivered or request.resent
        if request.window and (again or not method.stream):
            name = self._name(request)
            error = no_stream(name) if not method.stream else AGAIN
            self._refusals.refuse(request, error, args, kwargs, refusal=True)
            return
        call = self._host.new_call(
            *(method.entrypoint, args, kwargs, request.context, "rpc", again),
            message=request.message,
        )
        answering = self._streams.open(request)
        encode = request.encode if isinstance(answering, Collected) else answering.encode
        settle = partial(self._settle_stream, request, answering)
        call = StreamCall(**msgspec.structs.asdict(call), answering=answering)
        request.submission = self._host.submit(method.entrypoint, call, settle, encode)
        if not request.settled:
            self.cancellations.running[request.key] = request

    def _settle_stream(
        self, request: ServedRequest, stream: Stream | Collected, outcome: Outcome
    ) -> None:
        if not self._streams.close(request, stream, outcome):
            self.settle(request, outcome)
            return
        request.settled = True
        self.cancellations.running.pop(request.key, None)

    def _is_known(self, request: ServedRequest) -> bool:
        """
        Return whether a redelivered request runs here, or ran here, because our connection or its
        caller's was lost. If so, the request is answered and does not run twice.
        """
        key = request.key
        if None in key:
            return False
        running = self.cancellations.running.get(key)
        if running is not None and running.asked == request.asked:
            running.delivered_again(request.delivery)
            self._streams.joins(running)
            return True
        return self.answers.send_again(request)

    # From an outcome to an answer

    def settle(self, request: ServedRequest, outcome: Outcome) -> None:
        """Answer with *outcome*, or requeue the request because the host stops."""
        request.settled = True
        self.cancellations.running.pop(request.key, None)
        ending = outcome.ending
        if ending is _RETURNED:
            if not request.message.reply_to:
                name = self._name(request)
                text = "%s: the request has no reply_to, so nobody gets the result"
                log.warning(text, name, extra=self._fields(request))
            try:
                self.answers.send(request, outcome.value)
            except Exception as exc:
                log.error(
                    "%s: the result could not be sent: %s",
                    self._name(request),
                    exc,
                    exc_info=None if isinstance(exc, AioRpcError) else exc,
                    extra=self._fields(request),
                )
                outcome.unsent = True
                self._answer_error(request, exc)
        elif ending is Ending.CANCELLED:
            request.delivery.ack()
        elif ending is Ending.ABANDONED:
            self._attempts.requeue(request.delivery, request.context.deadline)
        else:
            assert outcome.error is not None
            self._answer_error(
                request, outcome.error, refusal=ending in _REFUSED, secrets=outcome.secrets
            )

    def _answer_error(
        self,
        request: ServedRequest,
        error: BaseException,
        *,
        refusal: bool = False,
        secrets: Collection[str] = (),
    ) -> None:
        """
        Answer with *error*. If *error* is too large or cannot be encoded, answer with another error
        that reports this.
        """
        replies, name = self.replies, type(error).__name__
        try:
            reply = replies.error(request.message, error, refusal=refusal, secrets=secrets)
            self.answers.send(request, reply)
            return
        except Exception as exc:  # noqa: BLE001 - the caller gets every error as its answer
            text = f"{name}, which cannot be sent: {text_of(exc)}"
            # Some serializers take ten bytes for a character outside ASCII.
            text = one_line(text.encode("ascii", "backslashreplace").decode(), _FITS)
        try:
            self.answers.send(request, replies.error(request.message, AioRpcError(text)))
        except Exception as exc:  # noqa: BLE001 - unacked, it would use up the prefetch
            log.error(
                "%s: the caller gets no answer, because no reply with its error, %s, can be sent: "
                "%s",
                self._name(request),
                name,
                exc,
                extra=self._fields(request),
            )
            request.delivery.ack()

    def _fields(self, request: Request) -> dict[str, str]:
        return named(self._host.service_name, request.method)

    def _name(self, request: Request) -> str:
        return f"{self._host.service_name}.{request.method}"

"""
Serves the requests of one service: reads each, submits its call, answers it. Callbacks only:
nothing here awaits.

Every request is settled once: it is answered with the result or a typed error, then acked. A
request that cannot be answered is acked, with one line in the log. Nothing that a peer sends stops
the consumer.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from ..exceptions import AioRpcError, DeliveryUncertain, MethodNotFound
from ..extensions import Ending, Entrypoint, Host, Outcome, Submission
from ..transports.base import Delivery, Outgoing
from ..wire.arguments import Arguments
from ..wire.copies import attempts_of
from ..wire.errors import text_of
from ..wire.message import Message
from ..wire.requests import Request
from .attempts import Attempts
from .cancellations import Cancellations, Key

__all__ = ["Method", "Server"]

log = logging.getLogger("aiorpc.rpc")

_RETURNED = Ending.RETURNED  # enum lookup is slow on Python 3.11

#: How many replies are kept for requests that may come again.
REMEMBERED = 256
#: Bytes of the largest reply that is kept.
REMEMBERED_BYTES = 64 * 1024


class Method(msgspec.Struct, frozen=True):
    """A method that requests fire."""

    entrypoint: Entrypoint
    arguments: Arguments
    at_most_once: bool


class ServedRequest(Request, eq=False, kw_only=True):
    """
    A request on its way through the service: read from *delivery*, answered there.

    Attributes:
        key: what its caller cancels it by.
        submission: its call in the hands of the host; ``None`` before the host has it.
        settled: whether its outcome is known.
    """

    server: Server
    delivery: Delivery
    key: Key
    submission: Submission | None = None
    settled: bool = False

    def cancel(self) -> None:
        """Its caller cancelled the call."""
        if self.submission is not None:
            self.submission.cancel()

    def delivered_again(self, delivery: Delivery) -> None:
        """Answer the newest delivery; an older one is settled or belongs to a lost connection."""
        self.delivery.ack()
        self.delivery = delivery

    def encode(self, result: object) -> Message:
        """The reply that brings *result*."""
        return self.server.wire.replies.result(self.message, result)

    def settle(self, outcome: Outcome) -> None:
        """Answer with *outcome*, or requeue the request."""
        self.settled = True
        server, ending = self.server, outcome.ending
        server.cancellations.running.pop(self.key, None)
        if ending is _RETURNED:
            if not self.message.reply_to:
                server.log_unread(self)
            try:
                server.answer(self, outcome.value)
            except Exception as exc:  # noqa: BLE001 - whatever is wrong with it, its caller is told
                server.unanswered(self, exc)
        elif ending is Ending.CANCELLED:
            self.delivery.ack()
        elif ending is Ending.ABANDONED:
            server.requeue(self)
        else:
            assert outcome.error is not None
            server.answer_error(self, outcome.error, refusal=ending is Ending.TIMED_OUT)


class Server:
    """
    Serves the requests of one service.

    Args:
        methods: by name.
    """

    def __init__(self, host: Host, methods: Mapping[str, Method]) -> None:
        self.wire = host.wire
        self.cancellations: Cancellations[ServedRequest] = Cancellations()
        self._host = host
        self._methods = methods
        self._exchange = host.wire.rpc_exchange.name
        self._confirm = host.settings.confirm_replies
        self._attempts = Attempts(
            host,
            host.wire.rpc_queue(host.service_name).name,
            self._counted,
            as_it_came=True,
            parked=self._parked,
        )
        #: Replies to requests that the broker delivers again, the oldest first.
        self._remembered: OrderedDict[Key, Outgoing] = OrderedDict()

    # From a delivery to a call

    def received(self, delivery: Delivery) -> None:
        """Serve the request that *delivery* brings."""
        request = self._read(delivery)
        if delivery.redelivered or request.resent:
            if self._is_known(request):
                return
            if request.late is None and self._attempts.takes(delivery, request.context.deadline):
                return
        self._serve(request)

    def _counted(self, delivery: Delivery) -> None:
        self._serve(self._read(delivery))

    def _parked(self, delivery: Delivery, error: AioRpcError) -> None:
        self.answer_error(self._read(delivery), error, refusal=True)

    def _read(self, delivery: Delivery) -> ServedRequest:
        message = delivery.message
        request = ServedRequest(
            message,
            delivery.routing_key.rpartition(".")[2],
            server=self,
            delivery=delivery,
            key=(message.reply_to, message.correlation_id),
        )
        return self.wire.requests.read(request)

    def _serve(self, request: ServedRequest) -> None:
        try:
            args, kwargs = self.wire.requests.arguments(request)
            if request.late is not None:
                self._refuse(request, request.late)
                return
            method = self._methods.get(request.method)
            if method is None:
                raise MethodNotFound(request.method)
            args, kwargs = method.arguments.bind(args, kwargs)
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with it, its caller is told
            self._log_refused(request, exc)
            self.answer_error(request, exc)
            return
        again = request.delivery.redelivered or request.resent
        if again and method.at_most_once:
            self._refuse(request, self._uncertain(request))
            return
        cancellations = self.cancellations
        if cancellations.early and cancellations.came_before(request.key):
            request.delivery.ack()
            return
        host, entrypoint = self._host, method.entrypoint
        call = host.new_call(entrypoint, args, kwargs, request.context, "rpc", again)
        request.submission = host.submit(entrypoint, call, request.settle, request.encode)
        if not request.settled:
            cancellations.running[request.key] = request

    def _is_known(self, request: ServedRequest) -> bool:
        """
        Whether a request that is delivered again runs here, or has run here: a connection, ours or
        its caller's, was lost meanwhile. It is answered without running twice.
        """
        key = request.key
        if None in key:
            return False
        running = self.cancellations.running.get(key)
        if running is not None:
            running.delivered_again(request.delivery)
            return True
        reply = self._remembered.pop(key, None)
        if reply is not None:
            request.delivery.answer(reply)
        return reply is not None

    # From an outcome to an answer

    def requeue(self, request: ServedRequest) -> None:
        """Requeue *request*, because the host stops."""
        self._attempts.requeue(request.delivery, request.context.deadline)

    def unanswered(self, request: ServedRequest, error: Exception) -> None:
        """Answer with *error*, which says why the result of *request* cannot be sent."""
        log.error(
            "%s: its result could not be sent: %s",
            self._name(request),
            error,
            exc_info=None if isinstance(error, AioRpcError) else error,
        )
        self.answer_error(request, error)

    def answer_error(
        self, request: ServedRequest, error: BaseException, *, refusal: bool = False
    ) -> None:
        """
        Answer with *error*. An error that cannot be encoded, or is too large, is answered by
        another one that says so.
        """
        replies = self.wire.replies
        try:
            self.answer(request, replies.error(request.message, error, refusal=refusal))
            return
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with it, its caller is told
            substitute = AioRpcError(
                f"{type(error).__name__}, which cannot be sent: {text_of(exc)}"
            )
        try:
            self.answer(request, replies.error(request.message, substitute))
        except Exception as exc:  # noqa: BLE001 - unacked, it would hold a place in the prefetch
            log.error(
                "%s: its caller gets no answer, because neither the error nor %s can be sent: %s",
                self._name(request),
                substitute,
                exc,
            )
            request.delivery.ack()

    def answer(self, request: ServedRequest, message: Message) -> None:
        """Send the reply, then ack. A request without a ``reply_to`` is only acked."""
        reply_to = request.message.reply_to
        if not reply_to:
            request.delivery.ack()
            return
        reply = Outgoing(
            exchange=self._exchange, routing_key=reply_to, message=message, confirm=self._confirm
        )
        if not request.delivery.answer(reply) and len(message.body) <= REMEMBERED_BYTES:
            # The reply is sent on the next connection, on which the request is delivered again.
            self._remembered[request.key] = reply
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)

    def log_unread(self, request: ServedRequest) -> None:
        """Say that nobody reads the result of *request*."""
        log.warning(
            "%s: the request has no reply_to, so nobody got its result", self._name(request)
        )

    # Refusals

    def _refuse(self, request: ServedRequest, error: AioRpcError) -> None:
        """Answer with *error*, which the host raises and not the method."""
        self._log_refused(request, error)
        self.answer_error(request, error, refusal=True)

    def _log_refused(self, request: ServedRequest, error: Exception) -> None:
        log.warning(
            "%s: a request was refused: %s: %s%s",
            self._name(request),
            type(error).__name__,
            error,
            "" if request.message.reply_to else " (it has no reply_to, so its caller cannot know)",
        )

    def _uncertain(self, request: ServedRequest) -> DeliveryUncertain:
        by_broker = request.delivery.redelivered or attempts_of(request.message) is not None
        how = "delivered again by the broker" if by_broker else "sent again by its caller"
        return DeliveryUncertain(
            f"{self._name(request)} is at-most-once and the request was {how}: it may have run "
            "already, so it was not run. Find out whether it ran, then call again"
        )

    def _name(self, request: Request) -> str:
        return f"{self._host.service_name}.{request.method}"

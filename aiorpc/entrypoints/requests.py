"""
Serves the requests of one service: reads each, submits its call, answers it. Callbacks only:
nothing here awaits.

Every request is settled once: it is answered with the result or a typed error, then acked. A
request that is refused and has no ``reply_to`` is rejected (to the dead letters, if the queue has
any), with one line in the log. Nothing that a peer sends stops the consumer.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

import msgspec

from ..exceptions import AioRpcError, DeliveryUncertain, MethodNotFound, likely
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


class Server:
    """
    Serves the requests of one service.

    Args:
        methods: by name.
    """

    def __init__(self, host: Host, methods: Mapping[str, Method]) -> None:
        self._requests, self._replies = host.wire.requests, host.wire.replies
        # Bound once: a call would else make two bound methods more, for the collector to visit.
        self._encode_result, self._settle = host.wire.replies.result, self._settle_request
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
        self._answer_error(self._read(delivery), error, refusal=True)

    def _read(self, delivery: Delivery) -> ServedRequest:
        message = delivery.message
        request = ServedRequest(
            message,
            delivery.routing_key.rpartition(".")[2],
            delivery=delivery,
            key=(message.reply_to, message.correlation_id),
        )
        return self._requests.read(request)

    def _serve(self, request: ServedRequest) -> None:
        try:
            args, kwargs = self._requests.arguments(request)
            if request.late is not None:
                self._refuse(request, request.late, refusal=True)
                return
            method = self._methods.get(request.method)
            if method is None:
                raise MethodNotFound(f"{request.method}{likely(request.method, self._methods)}")
            args, kwargs = method.arguments.bind(args, kwargs)
        except Exception as exc:  # noqa: BLE001 - the caller gets any error as its answer
            self._refuse(request, exc)
            return
        again = request.delivery.redelivered or request.resent
        if again and method.at_most_once:
            self._refuse(request, self._uncertain(request), refusal=True)
            return
        cancellations = self.cancellations
        if cancellations.early and cancellations.came_before(request.key):
            request.delivery.ack()
            return
        host, entrypoint = self._host, method.entrypoint
        call = host.new_call(entrypoint, args, kwargs, request.context, "rpc", again)
        request.submission = host.submit(
            entrypoint,
            call,
            partial(self._settle, request),
            partial(self._encode_result, request.message),
        )
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

    def _settle_request(self, request: ServedRequest, outcome: Outcome) -> None:
        """Answer with *outcome*, or requeue the request because the host stops."""
        request.settled = True
        self.cancellations.running.pop(request.key, None)
        ending = outcome.ending
        if ending is _RETURNED:
            if not request.message.reply_to:
                name = self._name(request)
                log.warning("%s: the request has no reply_to, so nobody gets its result", name)
            try:
                self._answer(request, outcome.value)
            except Exception as exc:
                log.error(
                    "%s: its result could not be sent: %s",
                    self._name(request),
                    exc,
                    exc_info=None if isinstance(exc, AioRpcError) else exc,
                )
                self._answer_error(request, exc)
        elif ending is Ending.CANCELLED:
            request.delivery.ack()
        elif ending is Ending.ABANDONED:
            self._attempts.requeue(request.delivery, request.context.deadline)
        else:
            assert outcome.error is not None
            self._answer_error(request, outcome.error, refusal=ending is Ending.TIMED_OUT)

    def _answer_error(
        self, request: ServedRequest, error: BaseException, *, refusal: bool = False
    ) -> None:
        """
        Answer with *error*. An error that cannot be encoded, or is too large, is answered by
        another one that says so.
        """
        replies = self._replies
        try:
            self._answer(request, replies.error(request.message, error, refusal=refusal))
            return
        except Exception as exc:  # noqa: BLE001 - the caller gets any error as its answer
            substitute = AioRpcError(
                f"{type(error).__name__}, which cannot be sent: {text_of(exc)}"
            )
        try:
            self._answer(request, replies.error(request.message, substitute))
        except Exception as exc:  # noqa: BLE001 - unacked, it would hold a place in the prefetch
            log.error(
                "%s: its caller gets no answer, because neither the error nor %s can be sent: %s",
                self._name(request),
                substitute,
                exc,
            )
            request.delivery.ack()

    def _answer(self, request: ServedRequest, message: Message) -> None:
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

    # Refusals

    def _refuse(self, request: ServedRequest, error: Exception, *, refusal: bool = False) -> None:
        log.warning(
            "%s: a request was refused: %s: %s%s",
            self._name(request),
            type(error).__name__,
            error,
            "" if request.message.reply_to else " (it has no reply_to, so its caller cannot know)",
        )
        if not request.message.reply_to:
            request.delivery.reject(requeue=False)
            return
        self._answer_error(request, error, refusal=refusal)

    def _uncertain(self, request: ServedRequest) -> DeliveryUncertain:
        by_broker = request.delivery.redelivered or attempts_of(request.message) is not None
        how = "delivered again by the broker" if by_broker else "sent again by its caller"
        return DeliveryUncertain(
            f"{self._name(request)} is at-most-once and the request was {how}: it may have run "
            "already, so it was not run. Find out whether it ran, then call again"
        )

    def _name(self, request: Request) -> str:
        return f"{self._host.service_name}.{request.method}"

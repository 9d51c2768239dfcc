"""
Sends the answers of one service. Keeps the answers that the broker perhaps did not read, so that a
redelivered request is answered without running again. Awaits only the confirms of answers that the
broker refused before.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias, TypeGuard

import msgspec

from ..exceptions import (
    AioRpcError,
    ConnectionLost,
    Overloaded,
    Unroutable,
    UnserializableValueError,
)
from ..extensions import Host, Submission
from ..logs import logger
from ..transports.base import Delivery, Outgoing
from ..transports.outgoing import MAX_CLOSES
from ..wire.message import Message
from ..wire.requests import Request
from .cancellations import Cancellations, Key

__all__ = ["Answers", "ServedRequest"]

log = logger("aiorpc.rpc")

#: The maximum number of kept answers, besides the prefetch count.
KEPT = 256
#: The maximum size of all kept answers, in bytes.
KEPT_BYTES = 32 << 20
#: Seconds to wait before each attempt to send an answer that the broker refused.
PAUSES = (0.0, 0.2, 1.0, 5.0)
#: Seconds to wait until the broker confirms such an answer.
CONFIRMING = 10.0
#: Bytes of a request's body that tell it from others with the same id. An answer keeps them.
_COMPARED = 4096
#: A request's method, the length of its body, and the first bytes of its body.
Asked: TypeAlias = tuple[str, int, bytes]


class ServedRequest(Request, eq=False, kw_only=True):
    """
    A request in the service: read from *delivery*, and answered through it.

    Attributes:
        key: the key in the caller's cancellation.
        submission: the call in the host; ``None`` before the call is submitted.
        settled: whether the outcome is known.
    """

    delivery: Delivery
    key: Key
    submission: Submission | None = None
    settled: bool = False

    def cancel(self) -> None:
        """Cancel the call, because its caller cancelled it."""
        if self.submission is not None:
            self.submission.cancel()

    @property
    def asked(self) -> Asked:
        """What the request asks for: callers may use an id again."""
        body = self.message.body
        size = len(body)
        return self.method, size, body if size <= _COMPARED else body[:_COMPARED]

    def delivered_again(self, delivery: Delivery) -> None:
        """Settle the old delivery, and answer *delivery* instead."""
        self.delivery.ack()
        self.delivery = delivery
        self.resent = True  # its original and its copies may come once more


class Answer(Outgoing, eq=False, kw_only=True):
    """An answer that the broker does not confirm."""

    answers: Answers
    asked: Asked

    def conclude(self, error: AioRpcError | None) -> None:
        """The transport calls this if the broker refused the answer, or perhaps did not read it."""
        if error is not None:
            refused = None if isinstance(error, ConnectionLost) else error
            key = self.routing_key, self.message.correlation_id
            suspect = self.closes > 0
            self.answers.keep(key, Kept(self.asked, self.message, refused, suspect=suspect))


class Kept(msgspec.Struct, frozen=True):
    """
    The answer to a request that the broker will redeliver.

    Attributes:
        asked: what the request asks for.
        message: the answer; ``None`` if it was sent, or never can be.
        refused: why the broker refused the answer, if it did.
        suspect: whether the broker closed the channel of the answer, and did not say why.
    """

    asked: Asked
    message: Message | None
    refused: AioRpcError | None = None
    suspect: bool = False

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return 0 if self.message is None else len(self.message.body)


class Answers:
    """
    The answers of the service of *host*.

    Args:
        cancellations: has the requests that are not answered yet, by key.
    """

    def __init__(self, host: Host, cancellations: Cancellations[ServedRequest]) -> None:
        self._host = host
        self._running = cancellations.running
        self._exchange = host.wire.rpc_exchange.name
        self._confirm = host.settings.confirm_replies
        self._most = KEPT + host.settings.prefetch
        #: The oldest first.
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._kept_bytes = 0
        #: The tasks that send an answer apart.
        self._apart: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def finished(self) -> AsyncGenerator[None]:
        """
        At the end of the block, wait at most CLEANUP_TIMEOUT for answers that are sent apart. The
        broker redelivers the requests of the others, and another instance runs them again.
        """
        try:
            yield
        finally:
            if self._apart:
                await asyncio.wait(self._apart, timeout=self._host.settings.cleanup_timeout)
            for task in self._apart:
                task.cancel()

    def send(self, request: ServedRequest, message: Message) -> None:
        """Send the answer *message*, then ack. Without a ``reply_to``, only ack."""
        reply_to = request.message.reply_to
        if not reply_to:
            request.delivery.ack()
            return
        answer: Outgoing
        if self._confirm:
            answer = self._confirmed(reply_to, message)
            answer.settled = partial(self._settled, request, answer)
        else:
            answer = Answer(
                exchange=self._exchange,
                routing_key=reply_to,
                message=message,
                mandatory=True,
                confirm=False,
                answers=self,
                asked=request.asked,
            )
        current = request.delivery.answer(answer)
        if self._confirm:
            self._running[request.key] = request
        if not current or request.resent or request.delivery.redelivered:
            # The broker may deliver it once more, or its original beside its counted copy.
            self.keep(request.key, Kept(request.asked, message))

    def send_beside(self, delivery: Delivery, error: AioRpcError) -> None:
        """Send *error* as the answer to the request in *delivery*, which is settled otherwise."""
        request = delivery.message
        if request.reply_to:
            answer = self._host.wire.replies.error(request, error, refusal=True)
            try:
                self._host.transport.send(self._confirmed(request.reply_to, answer))
            except AioRpcError as refused:
                log.error("%s: the caller gets no answer: %s", delivery.routing_key, refused)

    def send_again(self, request: ServedRequest) -> bool:
        """Answer *request*, which was redelivered, if its answer is kept. Return whether it was."""
        kept = self._kept.get(request.key)
        if kept is None or kept.asked != request.asked:
            return False
        if kept.message is None:
            request.delivery.ack()
            return True
        refused = kept.refused
        if refused is None and not kept.suspect:
            try:
                self.send(request, kept.message)
                return True
            except UnserializableValueError as error:  # the broker's limit is known by now
                refused = error
        self._forget(request.key)
        self._send_apart(request, kept.message, refused, int(kept.suspect))
        return True

    def keep(self, key: Key, answer: Kept) -> None:
        """Keep *answer* for the request with *key*, which the broker redelivers."""
        if None in key:
            return
        self._forget(key)  # a caller may use an id again
        self._kept[key] = answer
        self._kept_bytes += answer.size
        while len(self._kept) > self._most or self._kept_bytes > KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: Key) -> Kept | None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._kept_bytes -= kept.size
        return kept

    def _confirmed(self, reply_to: str, message: Message, closes: int = 0) -> Outgoing:
        return Outgoing(
            exchange=self._exchange,
            routing_key=reply_to,
            message=message,
            mandatory=True,
            closes=closes,
        )

    def _settled(self, request: ServedRequest, answer: Outgoing, error: AioRpcError | None) -> None:
        self._conclude(request)
        if request.delivery.stale:
            suspect = answer.closes > 0
            self.keep(request.key, Kept(request.asked, answer.message, suspect=suspect))
        elif error is None:
            request.delivery.ack()  # it was perhaps redelivered meanwhile
        elif isinstance(error, Unroutable):
            self._host.transport.returns.count_unheard(answer.message)
            request.delivery.ack()
        else:
            self._send_apart(request, answer.message, error, answer.closes)

    def _conclude(self, request: ServedRequest) -> None:
        if self._running.get(request.key) is request:
            del self._running[request.key]

    def _send_apart(
        self, request: ServedRequest, message: Message, refused: AioRpcError | None, closes: int
    ) -> None:
        """
        Send *message*, or the error *refused* in its place, on the channel of all senders. There, a
        refusal does not make the broker redeliver other requests.
        """
        self._running[request.key] = request
        sending = self._send_until_taken(request, message, refused, closes)
        task = asyncio.get_running_loop().create_task(sending, name="aiorpc: send an answer again")
        self._apart.add(task)
        task.add_done_callback(self._sent_apart)

    def _sent_apart(self, task: asyncio.Task[None]) -> None:
        self._apart.discard(task)
        name = self._host.service_name
        if task.cancelled():
            log.warning("%s: an answer that was refused could not be sent before the stop", name)
        elif (error := task.exception()) is not None:
            log.error("%s: an answer could not be sent again", name, exc_info=error)

    async def _send_until_taken(
        self, request: ServedRequest, message: Message, refused: AioRpcError | None, closes: int
    ) -> None:
        is_error = False
        for pause in PAUSES:
            if _is_final(refused, closes):
                if is_error:
                    break
                message = self._host.wire.replies.error(message, refused, refusal=True)
                is_error, closes = True, 0
            await asyncio.sleep(pause)
            answer = self._confirmed(request.message.reply_to or "", message, closes=closes)
            try:
                await self._host.transport.publish(answer, CONFIRMING)
            except Unroutable:
                self._host.transport.returns.count_unheard(message)
                refused = None
                break
            except AioRpcError as error:
                refused, closes = error, answer.closes
            else:
                refused = None
                break
        self._conclude(request)
        name = f"{self._host.service_name}.{request.method}"
        if isinstance(refused, ConnectionLost) and not _is_final(refused, closes):
            log.warning("%s: an answer could not be sent and is kept: %s", name, refused)
            self.keep(request.key, Kept(request.asked, message, suspect=True))
            request.delivery.reject(requeue=True)
            return
        if refused is not None:
            log.error("%s: the caller gets no answer, and the method ran: %s", name, refused)
        self.keep(request.key, Kept(request.asked, None))  # the broker may not read the ack
        request.delivery.ack()


def _is_final(refused: AioRpcError | None, closes: int) -> TypeGuard[AioRpcError]:
    """Whether *refused* says that the broker never takes the answer."""
    if refused is None:
        return False
    return closes >= MAX_CLOSES or not isinstance(refused, Overloaded | ConnectionLost)

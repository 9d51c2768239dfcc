"""
A channel with one consumer: receives deliveries, writes acks and answers.

The channel joins the acks of one loop turn to one ``multiple`` ack where possible. It writes acks
after all other frames of the turn, so a reply is always written before the ack of its request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import aiormq
from pamqp.commands import Basic

from ...exceptions import AioRpcError, ConnectionLost, UnserializableValueError
from ...logs import logger
from ...wire.message import Message
from ..base import Delivery, Received
from ..incoming import oversized
from ..outgoing import Outgoing, Returned, SizeLimit, check, refuse, settle
from .after_acks import AfterAcks
from .channel import Channel, TakeBack
from .errors import Refused
from .link import Link
from .resend import SMALL_ANSWER, AmqpRefusal, keep_few, lost_answers

__all__ = ["AmqpDelivery", "ConsumerChannel"]

log = logger(__name__)

#: Answers that a channel keeps, if its consumer has no prefetch count.
_UNREAD = 1000


class AmqpDelivery(Delivery, eq=False):
    """A message on a channel. Its tag is 0 after it was acked, rejected or answered."""

    channel: ConsumerChannel
    tag: int

    @property
    def stale(self) -> bool:
        return not self.channel.open or self.channel.link.lost.done()

    @property
    def may_return(self) -> bool:
        return self.stale or 0 < self.tag <= self.channel.cancelled_up_to

    def ack(self) -> None:
        tag, self.tag = self.tag, 0
        if tag and self.channel.open:
            self.channel.ack(tag)

    def reject(self, *, requeue: bool) -> None:
        tag, self.tag = self.tag, 0
        if tag and self.channel.open:
            self.channel.reject(tag, requeue=requeue)

    def requeue(self) -> None:
        tag, self.tag = self.tag, 0
        if tag and self.channel.open:
            self.channel.requeue(tag)

    def answer(self, reply: Outgoing) -> bool:
        """
        See :meth:`..base.Delivery.answer`.

        Raises:
            RuntimeError: the delivery was acked, rejected or answered before.
            UnserializableValueError: the reply cannot be encoded, or is too large, and has no
                ``settled``. The delivery can still be acked, rejected or answered.
        """
        if not self.tag:
            raise RuntimeError("the delivery was acked, rejected or answered before")
        channel, tag = self.channel, self.tag
        is_open = channel.open
        if reply.confirm and is_open:
            self._answer_confirmed(reply)
        elif channel.answer(tag, reply):
            self.tag = 0
        return is_open and tag > channel.cancelled_up_to

    def _answer_confirmed(self, reply: Outgoing) -> None:
        """
        Send *reply* on another channel, and ack when the broker has confirmed *reply*. If the
        broker refuses *reply*, it closes only the other channel, and the delivery stays unsettled.
        """
        channel = self.channel
        if not channel.sendable(reply):
            return
        tag, self.tag = self.tag, 0

        def settled(error: AioRpcError | None) -> None:
            self.tag = tag
            reply.closes = apart.closes
            if error is None and self.stale:
                error = ConnectionLost(f"the delivery that {reply.description} answers is lost")
            if error is not None:
                settle(reply, error)
                return
            self.ack()
            if reply.settled is not None:
                channel.lane.flush()  # write the acks first
                channel.after_acks.call(partial(settle, reply, None))

        apart = Outgoing(
            exchange=reply.exchange,
            routing_key=reply.routing_key,
            message=reply.message,
            mandatory=reply.mandatory,
            expires_at=reply.expires_at,
            again=reply.again,
            settled=settled,
        )
        channel.elsewhere(apart)


class ConsumerChannel(Channel):
    """
    A channel with a single consumer.

    Args:
        received: handles a delivery.
        prefetch: the prefetch count of the consumer; 0 for no limit.
        requeue: requeues a delivery that arrives while the consumer is being cancelled.

    Attributes:
        cancelled: done when the broker has cancelled the consumer. The subscription replaces this
            future when it consumes again.
        cancelled_up_to: the highest tag when the broker cancelled the consumer; 0 before.
        unsettled: tags of the deliveries that are neither acked nor rejected.
        elsewhere: sends an answer on another channel, if this one has ended or lacks confirms.
        after_acks: calls functions when the broker has read the acks.
    """

    __slots__ = (
        *("_acked", "_held", "_idle", "_oldest_unsettled", "_received", "_refused", "_requeue"),
        *("_requeues", "_unread", "after_acks", "cancelled", "cancelled_up_to", "elsewhere"),
        "unsettled",
    )

    def __init__(
        self,
        link: Link,
        channel: aiormq.Channel,
        *,
        max_message_size: int,
        limit: SizeLimit,
        take_back: TakeBack,
        received: Received,
        prefetch: int,
        requeue: Received,
        elsewhere: Callable[[Outgoing], None],
        returned: Returned,
    ) -> None:
        super().__init__(
            link,
            channel,
            max_message_size=max_message_size,
            limit=limit,
            take_back=take_back,
            returned=returned,
        )
        self.unsettled: set[int] = set()
        self.cancelled_up_to = 0
        self.cancelled: asyncio.Future[None] = self.loop.create_future()
        self._received, self._requeue = received, requeue
        self.elsewhere = elsewhere
        self._acked: list[int] = []
        self._oldest_unsettled = 1
        #: The last answers, which the broker may not have read: it has at most ``prefetch`` unacked
        #: deliveries. If the channel ends, the senders of these answers are told.
        self._unread: deque[Outgoing] = deque(maxlen=prefetch or _UNREAD)
        self._held: list[tuple[int, Outgoing]] = []
        self._refused: list[AmqpDelivery] | None = None
        self._requeues = False
        self._idle: Callable[[], None] | None = None
        self.after_acks = AfterAcks(channel)
        channel.on_consumer_cancel_callbacks.add(self._on_cancelled)

    # --- in

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, message: Message
    ) -> None:
        if not self.open:
            return
        self.unsettled.add(tag)
        delivery = AmqpDelivery(message, exchange, routing_key, redelivered, self, tag)
        if self._refused is not None:
            self._refused.append(delivery)
            if self._requeues:
                self.requeue_refused()
            return
        try:
            self._received(delivery)
        except Exception:
            log.exception(
                "the handler of a delivery (exchange %r, key %r) failed; if it did not settle the "
                "delivery, the broker requeues it when the connection ends",
                exchange,
                routing_key,
            )

    def oversized(
        self, tag: int, exchange: str, routing_key: str, size: int, head: Message
    ) -> None:
        answerable = oversized(head, size, self.max_message_size, exchange, routing_key)
        if answerable is None:
            self._reject_unread(tag)
        else:
            self.delivered(tag, False, exchange, routing_key, answerable)

    def malformed(self, tag: int, exchange: str, routing_key: str, reason: str) -> None:
        log.warning(
            "a message (exchange %r, key %r) is rejected: %s", exchange, routing_key, reason
        )
        self._reject_unread(tag)

    def _reject_unread(self, tag: int) -> None:
        self.unsettled.add(tag)
        self.reject(tag, requeue=False)

    def _on_cancelled(self, frame: Basic.Cancel) -> None:
        self.cancelled_up_to = max(self.unsettled, default=0)
        if not self.cancelled.done():
            self.cancelled.set_result(None)

    # --- out

    def ack(self, tag: int) -> None:
        """Ack one delivery at the end of this loop turn."""
        self.unsettled.discard(tag)
        if not self._acked:
            self.lane.write_last(self._joined_acks)
        self._acked.append(tag)
        if self._idle is not None and not self.unsettled:
            self._idle()

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Reject one delivery, or requeue it as a failed delivery."""
        self._return(tag, self.encoder.reject(tag, requeue=requeue))

    def requeue(self, tag: int) -> None:
        """Requeue one delivery, which was not worked on."""
        self._return(tag, self.encoder.nack(tag))

    def _return(self, tag: int, frame: bytes) -> None:
        self.unsettled.discard(tag)
        self.lane.write(frame)
        if self._idle is not None and not self.unsettled:
            self._idle()

    def answer(self, tag: int, reply: Outgoing) -> bool:
        """Publish *reply*, then ack. Return whether the delivery will settle, now or later."""
        if not self.open:
            self.elsewhere(reply)
            return True
        if self.link.blocked_reason is not None:
            return self._hold(tag, reply)
        try:
            self.publish(reply)
        except UnserializableValueError as error:
            refuse(reply, error)
            return False
        self._unread.append(reply)
        if len(reply.message.body) > SMALL_ANSWER:
            keep_few(self._unread)
        self.ack(tag)
        return True

    def _hold(self, tag: int, reply: Outgoing) -> bool:
        """Keep *reply* until the broker accepts messages. Raise now if *reply* is too large."""
        if not self.sendable(reply):
            return False
        self._held.append((tag, reply))
        return True

    def sendable(self, reply: Outgoing) -> bool:
        """Return whether AMQP can carry *reply*. Otherwise settle *reply*, or raise."""
        try:
            check(reply, self.encoder, self._limit)
        except UnserializableValueError as error:
            refuse(reply, error)
            return False
        return True

    def unblocked(self) -> None:
        """Send the answers that waited until the broker accepted messages again."""
        held, self._held = self._held, []
        for tag, reply in held:
            try:
                self.answer(tag, reply)
            except UnserializableValueError as error:  # the limit was lowered meanwhile
                settle(reply, error)
                self.reject(tag, requeue=True)
        if self._idle is not None and not self.unsettled:
            self._idle()

    def cancel_unanswered(self, consumer_tag: str) -> None:
        """
        Cancel the consumer without waiting for an answer. A broker that blocks the connection reads
        the cancel later. The channel requeues the messages that the broker delivers until then.
        """
        self.lane.write(self.encoder.cancel(consumer_tag))

    def refuse(self) -> None:
        """Stop passing deliveries to the handler; keep them for ``requeue_refused``."""
        self._refused = []

    def requeue_refused(self) -> None:
        """
        Requeue the deliveries that arrived since ``refuse``, and later deliveries. Call this after
        the consumer is cancelled: before, the broker would deliver the messages here again.
        """
        self._requeues = True
        refused, self._refused = self._refused or [], []
        if self.open:
            for delivery in refused:
                self._requeue(delivery)

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Call *idle* each time when no delivery is unsettled; perhaps also now."""
        self._idle = idle
        if not self.unsettled:
            idle()

    def _joined_acks(self) -> bytes:
        acked, self._acked = self._acked, []
        if not self.open:
            return b""
        if len(acked) == 1:
            return self.encoder.ack(acked[0])
        if not self.unsettled:
            return self.encoder.ack(max(acked), multiple=True)
        # A multiple ack covers all lower tags, so it must stop before the first unsettled tag. The
        # search for this tag ends at the highest tag that is acked now.
        oldest, newest = self._oldest_unsettled, max(acked)
        while oldest not in self.unsettled and oldest <= newest:
            oldest += 1
        self._oldest_unsettled = oldest
        below = [tag for tag in acked if tag < oldest]
        frames = [self.encoder.ack(tag) for tag in acked if tag > oldest]
        if below:
            frames.append(self.encoder.ack(max(below), multiple=True))
        return b"".join(frames)

    # --- the end

    def _end(self, refused: Refused | None) -> AmqpRefusal | None:
        if not self.open:
            return None
        refusal = super()._end(refused)
        self.amqp.on_consumer_cancel_callbacks.discard(self._on_cancelled)
        held, self._held = self._held, []
        for _, reply in held:
            settle(reply, ConnectionLost(f"{reply.description} was not sent yet"))
            with suppress(UnserializableValueError):  # the limit was lowered meanwhile
                self.elsewhere(reply)
        self.unsettled.clear()
        answers = list(self._unread)
        self._unread.clear()
        for reply, error in lost_answers(answers, refusal):
            settle(reply, error)
        if self._idle is not None:
            self._idle()
        return refusal

"""
A channel with one consumer: deliveries in, acks and answers out.

Acks are collected, and leave at the end of the loop's turn behind what was written in it, joined to
one ``multiple`` ack as far as that goes: a reply is on its way before its ack is, always.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import aiormq
import msgspec
from pamqp.commands import Basic

from ...exceptions import UnserializableValueError
from ...wire.message import Message
from ...wire.names import OVERSIZED
from ..base import Delivery, Heard, Received
from ..outgoing import Outgoing, check, refuse
from .channel import Channel, TakeBack
from .errors import Refused, errors, quietly
from .link import Link

__all__ = ["AmqpDelivery", "ConsumerChannel", "ListenerChannel"]

log = logging.getLogger(__name__)


class AmqpDelivery(Delivery, eq=False):
    """A message of a channel, until it is settled; then its tag is 0."""

    channel: ConsumerChannel
    tag: int

    @property
    def stale(self) -> bool:
        return not self.channel.open

    def ack(self) -> None:
        tag, self.tag = self.tag, 0
        if tag and self.channel.open:
            self.channel.ack(tag)

    def reject(self, *, requeue: bool) -> None:
        tag, self.tag = self.tag, 0
        if tag and self.channel.open:
            self.channel.reject(tag, requeue=requeue)

    def answer(self, reply: Outgoing) -> bool:
        """
        As in :class:`~.base.Delivery`.

        Raises:
            RuntimeError: it was settled before.
            UnserializableValueError: the reply cannot be encoded, or is too large, and has no
                ``settled`` to be told so. The delivery can still be settled.
        """
        if not self.tag:
            raise RuntimeError("the delivery was acked, rejected or answered before")
        current = self.channel.open
        if self.channel.answer(self.tag, reply):
            self.tag = 0
        return current


class ConsumerChannel(Channel):
    """
    A channel that one consumer has for itself.

    Attributes:
        cancelled: done when the broker has cancelled the consumer; made anew by ``consume``.
        unsettled: tags of the deliveries that are neither acked nor rejected.
    """

    def __init__(
        self,
        link: Link,
        channel: aiormq.Channel,
        *,
        max_message_size: int,
        take_back: TakeBack,
        received: Received,
        elsewhere: Callable[[Outgoing], None],
    ) -> None:
        super().__init__(link, channel, max_message_size=max_message_size, take_back=take_back)
        self.unsettled: set[int] = set()
        self.cancelled: asyncio.Future[None] = self.loop.create_future()
        self._received = received
        self._elsewhere = elsewhere
        self._acked: list[int] = []
        self._oldest_unsettled = 1
        self._answers: dict[int, int] = {}
        self._held: list[tuple[int, Outgoing]] = []
        self._refused: list[int] | None = None
        self._given_back = False
        self._idle: Callable[[], None] | None = None
        self._concluding: list[Callable[[], None]] = []
        self._asking: asyncio.Task[None] | None = None
        channel.on_consumer_cancel_callbacks.add(self._on_cancelled)

    # --- in

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, message: Message
    ) -> None:
        if not self.open:
            return
        self.unsettled.add(tag)
        if self._refused is not None:
            self._refused.append(tag)
            if self._given_back:
                self.give_back()
            return
        try:
            self._received(AmqpDelivery(message, exchange, routing_key, redelivered, self, tag))
        except Exception:
            log.exception(
                "the handler of a delivery (exchange %r, key %r) failed; unless it was settled, "
                "the broker keeps it until the connection ends",
                exchange,
                routing_key,
            )

    def oversized(
        self, tag: int, exchange: str, routing_key: str, size: int, head: Message
    ) -> None:
        answerable = head.correlation_id is not None
        log.warning(
            "a message of %d bytes (exchange %r, key %r) is larger than MAX_MESSAGE_SIZE (%d): %s",
            size,
            exchange,
            routing_key,
            self.max_message_size,
            "it is taken without its body" if answerable else "it is dropped",
        )
        if answerable:
            # A request or a reply: handed on as one that cannot be read, so that its caller is
            # told, instead of waiting for its deadline.
            head = msgspec.structs.replace(head, headers={**(head.headers or {}), OVERSIZED: size})
            self.delivered(tag, False, exchange, routing_key, head)
        else:
            self._drop(tag)

    def malformed(self, tag: int, exchange: str, routing_key: str, reason: str) -> None:
        log.warning("a message (exchange %r, key %r) is dropped: %s", exchange, routing_key, reason)
        self._drop(tag)

    def _drop(self, tag: int) -> None:
        self.unsettled.add(tag)
        self.reject(tag, requeue=False)

    def _on_cancelled(self, frame: Basic.Cancel) -> None:
        if not self.cancelled.done():
            self.cancelled.set_result(None)

    # --- out

    def ack(self, tag: int) -> None:
        """Ack one delivery, at the end of the turn."""
        self.unsettled.discard(tag)
        if not self._acked:
            self.lane.write_last(self._joined_acks)
        self._acked.append(tag)
        if self._idle is not None and not self.unsettled:
            self._idle()

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Give one delivery back, or drop it."""
        self.unsettled.discard(tag)
        self.lane.write(self.encoder.reject(tag, requeue=requeue))
        if self._idle is not None and not self.unsettled:
            self._idle()

    def answer(self, tag: int, reply: Outgoing) -> bool:
        """Publish *reply*, then ack; whether that settles the delivery now or later."""
        if not self.open:
            self._elsewhere(reply)
            return True
        if self.link.blocked_reason is not None:
            return self._hold(tag, reply)
        if reply.confirm:
            self._tells_all = True
        try:
            published = self.publish(reply)
        except UnserializableValueError as error:
            refuse(reply, error)
            return False
        if reply.confirm:
            self._answers[published] = tag
        else:
            self.ack(tag)
        return True

    def _hold(self, tag: int, reply: Outgoing) -> bool:
        """Keep *reply* until the broker takes messages; now is the time to say it never will."""
        try:
            check(reply, self.encoder, self.max_message_size)
        except UnserializableValueError as error:
            refuse(reply, error)
            return False
        self._held.append((tag, reply))
        return True

    def unblocked(self) -> None:
        """The broker takes messages again: send the answers that waited."""
        held, self._held = self._held, []
        for tag, reply in held:
            self.answer(tag, reply)
        if self._idle is not None and not self.unsettled:
            self._idle()

    def cancel_unanswered(self, consumer_tag: str) -> None:
        """
        Cancel the consumer at a broker that does not answer now, since it blocks: it reads this
        when it reads again. What it delivers until then is given back.
        """
        self.lane.write(self.encoder.cancel(consumer_tag))

    def refuse(self) -> None:
        """Hand nothing on any more; ``give_back`` returns it to the queue."""
        self._refused = []

    def give_back(self) -> None:
        """
        Return what came since ``refuse``. Not before the consumer is cancelled: until then the
        broker would send it here again.
        """
        self._given_back = True
        refused, self._refused = self._refused or [], []
        if self.open:
            for tag in refused:
                self.reject(tag, requeue=True)

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Call *idle* when nothing is unsettled; now, if nothing is. Maybe more than once."""
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
        # A multiple ack takes all tags below along: it must stop short of the first unsettled one.
        # Behind what is acked now there is nothing to look for.
        oldest, newest = self._oldest_unsettled, max(acked)
        while oldest not in self.unsettled and oldest <= newest:
            oldest += 1
        self._oldest_unsettled = oldest
        below = [tag for tag in acked if tag < oldest]
        frames = [self.encoder.ack(tag) for tag in acked if tag > oldest]
        if below:
            frames.append(self.encoder.ack(max(below), multiple=True))
        return b"".join(frames)

    # --- confirms and the end

    def _confirm(self, tag: int, outgoing: Outgoing, outcome: object) -> None:
        delivery = self._answers.pop(tag, None)
        if delivery is not None:
            if outcome is False:
                self.reject(delivery, requeue=True)
            else:
                self.ack(delivery)
                if outgoing.settled is not None:
                    conclude = partial(super()._confirm, tag, outgoing, outcome)
                    self.lane.flush()  # the acks leave before the question of _ask
                    self._conclude_soon(conclude)
                    return
        super()._confirm(tag, outgoing, outcome)

    def _conclude_soon(self, conclude: Callable[[], None]) -> None:
        self._concluding.append(conclude)
        if self._asking is None:
            self._asking = self.loop.create_task(self._ask())

    async def _ask(self) -> None:
        """
        Conclude answers when the broker has dealt with the acks that were written: it may never
        read those that were only written when this process ends. An answer to whatever we ask on
        the channel tells. This question changes nothing, and ends with the connection.
        """
        try:
            while self._concluding:
                concluding, self._concluding = self._concluding, []
                try:
                    with quietly(), suppress(Exception), errors():  # then no delivery is left
                        await self.amqp.confirm_delivery()
                finally:
                    for conclude in concluding:
                        conclude()
        finally:
            self._asking = None

    def _end(self, refused: Refused | None) -> None:
        if not self.open:
            return
        super()._end(refused)
        self.amqp.on_consumer_cancel_callbacks.discard(self._on_cancelled)
        held, self._held = self._held, []
        for _, reply in held:
            self._elsewhere(reply)
        self.unsettled.clear()
        self._answers.clear()
        if self._idle is not None:
            self._idle()


class ListenerChannel(ConsumerChannel):
    """
    A channel whose messages are acked when they were heard, with whatever is written next: nobody
    waits for these acks. No account is kept of them: they come in order, so one ack of the last is
    for all before it.
    """

    _heard_up_to = 0

    def __init__(self, *args: Any, heard: Heard, **kwargs: Any) -> None:
        super().__init__(*args, received=lambda delivery: heard(delivery.message), **kwargs)
        self._heard = heard

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, message: Message
    ) -> None:
        if self._refused is not None or not self.open:
            super().delivered(tag, redelivered, exchange, routing_key, message)
            return
        if not self._heard_up_to:
            self.lane.write_in_company(self._joined_acks)
        self._heard_up_to = tag
        try:
            self._heard(message)
        except Exception:
            log.exception(
                "the handler of a message (exchange %r, key %r) failed", exchange, routing_key
            )

    def _joined_acks(self) -> bytes:
        tag, self._heard_up_to = self._heard_up_to, 0
        return self.encoder.ack(tag, multiple=True) if self.open else b""

"""
The channel of one connection to the broker in this process: publishes and settles messages, sends
answers. No I/O.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from ...exceptions import AioRpcError, ConnectionLost, UnserializableValueError
from ..codec.encoder import Encoder
from ..outgoing import (
    Outgoing,
    Returned,
    SizeLimit,
    check,
    check_size,
    refuse,
    resend,
    settle,
    settle_soon,
)
from .broker import MemoryBroker
from .queue import Deliver, Entry, MemoryConsumer, MemoryQueue

__all__ = ["MemoryChannel"]

#: Encodes messages only to check them.
_ENCODER: Final = Encoder(channel=0, frame_max=0)


#: The delivery that a message answers, and what is called if the broker refuses the message.
Answered = tuple[MemoryConsumer, Entry, Callable[[Entry], None]]


class MemoryChannel:
    """
    The counterpart of :class:`~.amqp.channel.Channel`: it sends messages until the connection is
    lost, and keeps the messages that have not settled.

    Args:
        limit: the largest body that may be sent.
        take_back: called with the messages to re-send when the connection is lost.
        elsewhere: sends an answer when the connection of its request is lost.
        returned: called with each returned mandatory message that was sent without confirms.

    Attributes:
        open: true until the connection is lost.
        consumers: all consumers of the channel, also cancelled consumers with unsettled deliveries.
        confirming: whether the broker's confirms arrive. Tests set it to false.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        limit: SizeLimit,
        *,
        take_back: Callable[[Iterable[Outgoing]], None],
        elsewhere: Callable[[Outgoing], None],
        returned: Returned,
    ) -> None:
        self.broker = broker
        self.open = True
        self.confirming = True
        self.consumers: list[MemoryConsumer] = []
        self._limit = limit
        self._take_back = take_back
        self._elsewhere = elsewhere
        self._returned = returned
        #: Sent, unsettled messages, each with its outcome, and the delivery to ack first.
        self._sent: deque[tuple[Outgoing, AioRpcError | None, Answered | None]] = deque()
        self._settling = False
        #: Answers that wait until the broker accepts messages.
        self._held: list[tuple[Outgoing, Answered]] = []

    @property
    def ready(self) -> bool:
        """Whether the channel is open, and the broker accepts messages."""
        return self.open and not self.broker.blocked

    @property
    def idle(self) -> bool:
        """Whether every message has settled."""
        return not self._sent or not self.confirming

    async def drained(self) -> None:
        """Return at once, because messages reach the broker without a socket."""

    async def all_confirmed(self) -> None:
        """Return at once, because the broker in this process never closes a channel."""

    def consume(
        self,
        queue: MemoryQueue,
        deliver: Deliver,
        gone: Callable[[], None],
        prefetch: float,
        priority: int,
    ) -> MemoryConsumer:
        """Consume from *queue*; see :class:`.queue.MemoryConsumer`."""
        consumer = MemoryConsumer(queue, deliver, gone, prefetch, priority)
        self.keep(consumer)
        queue.add_consumer(consumer)
        return consumer

    def keep(self, consumer: MemoryConsumer) -> None:
        """
        Requeue the unsettled deliveries of *consumer* when the connection ends. Forget cancelled
        consumers without any.
        """
        here = (each for each in self.consumers if each.unacked or each in each.queue.consumers)
        self.consumers = [*here, consumer]

    def publish(self, outgoing: Outgoing, answered: Answered | None = None) -> None:
        """
        Send *outgoing*; ack *answered* when the broker has confirmed it.

        Raises:
            UnserializableValueError: *outgoing* is too large or cannot be encoded; nothing is sent.
        """
        message = outgoing.message
        if len(message.body) > self._limit.bytes:
            check_size(outgoing, self._limit)
        error = self.broker.publish(
            outgoing.exchange, outgoing.routing_key, message, outgoing.mandatory
        )
        if outgoing.confirm:
            self._sent.append((outgoing, error, answered))
            if not self._settling:
                self._settling = True
                self.broker.turns.soon(self._settle)
        elif outgoing.settled is not None:
            settle_soon(outgoing, None)
            if error is not None:
                settle_soon(outgoing, error)
        elif error is not None:
            asyncio.get_running_loop().call_soon(self._returned, message, error)

    def answer(
        self,
        consumer: MemoryConsumer,
        entry: Entry,
        reply: Outgoing,
        refused: Callable[[Entry], None],
    ) -> bool:
        """
        Send *reply*, then ack *entry*; see :meth:`.base.Delivery.answer`. Return whether *entry* is
        settled, now or later. *refused* is called if the broker does not confirm *reply*.
        """
        if not consumer.open:
            self._elsewhere(reply)
            return True
        try:
            if self.broker.blocked:
                check(reply, _ENCODER, self._limit)
                self._held.append((reply, (consumer, entry, refused)))
                return True
            self.publish(reply, (consumer, entry, refused) if reply.confirm else None)
        except UnserializableValueError as error:
            refuse(reply, error)
            return False
        if not reply.confirm:
            consumer.ack(entry)
        return True

    def unblocked(self) -> None:
        """Send the answers that waited, because the broker accepts messages again."""
        held, self._held = self._held, []
        for reply, (consumer, entry, refused) in held:
            self.answer(consumer, entry, reply, refused)

    def end(self) -> None:
        """End the channel: its connection is lost or closed."""
        self.open = False
        self.broker.disconnect(self, self.consumers)
        sent, self._sent = self._sent, deque()
        held, self._held = self._held, []
        # A generator: ``take_back`` has to stop sending on this channel before messages settle.
        again = (resend(outgoing) for outgoing, _, _ in sent)
        self._take_back(outgoing for outgoing in again if outgoing is not None)
        # Only the answers are sent: the broker has requeued their requests.
        for reply, _ in held:
            if not reply.confirm:
                settle(reply, ConnectionLost(f"{reply.description} was not sent yet"))
            self._elsewhere(reply)

    def settle_all(self) -> None:
        """Settle the messages that the broker has, before the connection is closed."""
        if self.confirming:
            self._settle(0.0)

    def _settle(self, now: float) -> None:
        """Settle messages, as if the broker's confirms and returns arrived now."""
        self._settling = False
        if not self.confirming:
            return
        for _ in range(len(self._sent)):
            outgoing, error, answered = self._sent.popleft()
            if answered is not None:
                consumer, entry, refused = answered
                if error is None:
                    consumer.ack(entry)
                else:
                    refused(entry)
            if error is not None or outgoing.settled is not None:
                settle(outgoing, error)

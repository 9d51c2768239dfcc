"""
One connection's way to the broker in this process: publishes, settles what was published, answers.
No I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from ...exceptions import AioRpcError, UnserializableValueError
from ..codec.encoder import Encoder
from ..outgoing import Outgoing, check, check_size, refuse, resend, settle, settle_soon
from .broker import MemoryBroker
from .queue import Entry, MemoryConsumer

__all__ = ["MemoryChannel"]

#: Encodes only to check.
_ENCODER: Final = Encoder(channel=0, frame_max=0)


class MemoryChannel:
    """
    What :class:`~.amqp.channel.Channel` is to RabbitMQ: it takes messages while the connection
    lasts, and knows which of them have not settled.

    Args:
        limit: bytes of body that may be sent.
        take_back: takes what is to be re-sent when the connection is lost.
        elsewhere: sends an answer whose connection is lost.

    Attributes:
        open: until the connection is lost.
        consumers: all that consumed on it; also cancelled ones, whose deliveries may be unsettled.
        confirming: whether the broker's confirms arrive. Tests clear it.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        limit: int,
        *,
        take_back: Callable[[Iterable[Outgoing]], None],
        elsewhere: Callable[[Outgoing], None],
    ) -> None:
        self.broker = broker
        self.open = True
        self.confirming = True
        self.consumers: list[MemoryConsumer] = []
        self._limit = limit
        self._take_back = take_back
        self._elsewhere = elsewhere
        #: Sent and not settled: with the outcome, and the delivery to ack first.
        self._sent: deque[tuple[Outgoing, AioRpcError | None, tuple[MemoryConsumer, Entry] | None]]
        self._sent = deque()
        self._settling = False
        #: Answers that wait until the broker takes messages.
        self._held: list[tuple[MemoryConsumer, Entry, Outgoing]] = []

    @property
    def ready(self) -> bool:
        """Whether it is open, and the broker takes messages."""
        return self.open and not self.broker.blocked

    async def drained(self) -> None:
        """Return at once: nothing stands between this channel and the broker."""

    def publish(
        self, outgoing: Outgoing, answered: tuple[MemoryConsumer, Entry] | None = None
    ) -> None:
        """
        Send *outgoing*; ack *answered* when the broker has confirmed it.

        Raises:
            UnserializableValueError: AMQP cannot carry it, or it is too large; nothing was sent.
        """
        message = outgoing.message
        if len(message.body) > self._limit:
            check_size(outgoing, self._limit)
        error = self.broker.publish(
            outgoing.exchange, outgoing.routing_key, message, outgoing.mandatory
        )
        if outgoing.confirm:
            self._sent.append((outgoing, error, answered))
            if not self._settling:
                self._settling = True
                self.broker.turns.soon(self._settle)
        elif error is not None or outgoing.settled is not None:
            settle_soon(outgoing, None)
            if error is not None:
                settle_soon(outgoing, error)

    def answer(self, consumer: MemoryConsumer, entry: Entry, reply: Outgoing) -> bool:
        """
        Send *reply*, then ack *entry*; see :meth:`.base.Delivery.answer`. Return whether that acks
        it, now or later.
        """
        if not consumer.open:
            self._elsewhere(reply)
            return True
        try:
            if self.broker.blocked:
                check(reply, _ENCODER, self._limit)
                self._held.append((consumer, entry, reply))
                return True
            self.publish(reply, (consumer, entry) if reply.confirm else None)
        except UnserializableValueError as error:
            refuse(reply, error)
            return False
        if not reply.confirm:
            consumer.ack(entry)
        return True

    def unblocked(self) -> None:
        """The broker takes messages again: send the answers that waited."""
        held, self._held = self._held, []
        for consumer, entry, reply in held:
            self.answer(consumer, entry, reply)

    def end(self) -> None:
        """The connection is lost, or closed."""
        self.open = False
        self.broker.disconnect(self, self.consumers)
        sent, self._sent = self._sent, deque()
        held, self._held = self._held, []
        # A generator, since it settles messages: ``take_back`` first stops sending on this channel.
        again = (resend(outgoing) for outgoing, _, _ in sent)
        self._take_back(outgoing for outgoing in again if outgoing is not None)
        # The broker requeued what they answer: only the answers are sent.
        for _, _, reply in held:
            self._elsewhere(reply)

    def settle_all(self) -> None:
        """Settle what the broker has, before the connection is closed."""
        if self.confirming:
            self._settle(0.0)

    def _settle(self, now: float) -> None:
        """The broker's confirms and returns arrive."""
        self._settling = False
        if not self.confirming:
            return
        for _ in range(len(self._sent)):
            outgoing, error, answered = self._sent.popleft()
            if answered is not None:
                answered[0].ack(answered[1])
            if error is not None or outgoing.settled is not None:
                settle(outgoing, error)

"""
Sending over ``memory://``: to the broker while connected, else into the outbox, and from there; and
what the senders are told. No I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ...exceptions import AioRpcError, ConnectionLost, UnserializableValueError
from ..base import Outgoing
from ..outbox import Outbox, settle, settle_soon
from .broker import MemoryBroker
from .message import carried
from .queue import Consumer, Entry

__all__ = ["Sender"]


class Sender:
    """
    Attributes:
        broker: where messages go; ``None`` while they have to wait.
        outbox: where they wait.
        mute: confirms do not arrive.
    """

    def __init__(
        self, url: str, max_message_size: int | None, *, on_crowded: Callable[[], None]
    ) -> None:
        self.broker: MemoryBroker | None = None
        self.outbox = Outbox(f"not connected to {url}", on_crowded)
        self.mute = False
        self._closed: ConnectionLost | None = None
        self._max_message_size = max_message_size or 1 << 62
        #: Sent, and its sender not told yet: with the error, and the delivery that it answers.
        self._sent: deque[tuple[Outgoing, AioRpcError | None, tuple[Consumer, Entry] | None]]
        self._sent = deque()
        self._settling = False
        #: Answers that wait for the broker to take messages again.
        self._held: list[tuple[Consumer, Entry, Outgoing]] = []

    def send(self, outgoing: Outgoing, answers: tuple[Consumer, Entry] | None = None) -> bool:
        """
        Send it, or keep it for later; ``False`` if it can never be sent. With *answers*, that entry
        is acked when the message is confirmed.

        Raises:
            UnserializableValueError: AMQP cannot carry it, and it has no ``settled`` to be told so.
        """
        broker = self.broker
        message = outgoing.message
        try:
            if len(message.body) > self._max_message_size:
                raise _too_large(outgoing, self._max_message_size)
            if broker is None:
                carried(message)  # whatever is wrong with it is said now
                self._keep(outgoing)
                return True
            error = broker.publish(
                outgoing.exchange, outgoing.routing_key, message, outgoing.mandatory
            )
        except UnserializableValueError as refusal:
            if outgoing.settled is None:
                raise
            settle_soon(outgoing, refusal)
            return False
        if outgoing.confirm or outgoing.settled is not None or error is not None:
            self._sent.append((outgoing, error, answers))
            if not self._settling:
                self._settling = True
                broker.soon(self._settle)
        return True

    def _keep(self, outgoing: Outgoing) -> None:
        if self._closed is not None:
            settle_soon(outgoing, self._closed)
        else:
            self.outbox.add(outgoing)

    def answer(self, consumer: Consumer, entry: Entry, reply: Outgoing) -> bool:
        """See :meth:`.base.Delivery.answer`; ``False`` if *reply* can never be sent."""
        if not consumer.open:
            return self.send(reply)
        if self.broker is None:  # connected, but blocked: the ack has to wait as well
            self._held.append((consumer, entry, reply))
            return True
        if reply.confirm:
            return self.send(reply, (consumer, entry))
        sent = self.send(reply)
        if sent:
            consumer.ack(entry)
        return sent

    def retract(self, outgoing: Outgoing) -> bool:
        """See :meth:`.base.Transport.retract`."""
        outgoing.retracted()
        return self.outbox.discard(outgoing)

    # --- the connection's life

    def resume(self, broker: MemoryBroker) -> None:
        """The broker takes messages: send what waited."""
        self.broker = broker
        held, self._held = self._held, []
        for consumer, entry, reply in held:
            try:
                self.answer(consumer, entry, reply)
            except UnserializableValueError as error:
                settle(reply, error)
                consumer.reject(entry, requeue=False)
        while self.broker is not None and (outgoing := self.outbox.take()) is not None:
            try:
                self.send(outgoing)
            except UnserializableValueError as error:  # what `again` made of it
                settle(outgoing, error)

    def pause(self) -> None:
        """The broker takes no messages."""
        self.broker = None

    def lose(self) -> None:
        """The connection broke: what was not confirmed goes again, if its sender agrees."""
        self.broker = None
        self.mute = False
        sent, self._sent = self._sent, deque()
        returning = [again for outgoing, _, _ in sent if (again := _again(outgoing)) is not None]
        # Their deliveries went back to the queue: only the answers are sent.
        returning += [outgoing for _, _, outgoing in self._held]
        self._held.clear()
        self.outbox.put_back(returning)

    def close(self, error: ConnectionLost) -> None:
        """Tell everybody, and take no more."""
        if not self.mute:
            self._settle(0.0)
        self.broker = None
        self._closed = error
        unsettled = [outgoing for outgoing, _, _ in self._sent]
        unsettled += [outgoing for _, _, outgoing in self._held]
        self._sent.clear()
        self._held.clear()
        for outgoing in unsettled:
            settle(outgoing, error)
        self.outbox.fail(error)

    def _settle(self, now: float) -> None:
        """The broker's confirms and returns arrive."""
        self._settling = False
        if self.mute:
            return
        for _ in range(len(self._sent)):
            outgoing, error, answers = self._sent.popleft()
            if answers is not None:
                answers[0].ack(answers[1])
            if error is None and outgoing.settled is None:
                continue  # all is well, and nobody asked
            if outgoing.confirm:
                settle(outgoing, error)
                continue
            settle(outgoing, None)  # it was written
            if error is not None:
                settle(outgoing, error)


def _again(outgoing: Outgoing) -> Outgoing | None:
    """*outgoing* as it goes again; where it does not, its sender is told."""
    if not outgoing.confirm:
        settle_soon(outgoing, None)  # it was written
        return None
    message = outgoing.once_more()
    if message is None:
        settle_soon(
            outgoing,
            ConnectionLost(
                f"the connection broke before a message to exchange {outgoing.exchange!r}, key "
                f"{outgoing.routing_key!r}, was confirmed; it may have been delivered"
            ),
        )
        return None
    outgoing.message = message
    return outgoing


def _too_large(outgoing: Outgoing, limit: int) -> UnserializableValueError:
    return UnserializableValueError(
        f"a message to exchange {outgoing.exchange!r}, key {outgoing.routing_key!r}, has "
        f"{len(outgoing.message.body)} bytes, and MAX_MESSAGE_SIZE is {limit}: send less, send it "
        "in parts, or raise the limit"
    )

"""
The channels of the simulated transport: one to send on, and one for each consumer. They follow
``amqp.channel`` and ``amqp.consumer``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from aiorpc.exceptions import AioRpcError, ConnectionLost, Overloaded, UnserializableValueError
from aiorpc.transports.incoming import ConsumerOptions, Delivery
from aiorpc.transports.memory.message import carried
from aiorpc.transports.memory.queue import Entry, MemoryConsumer
from aiorpc.transports.outgoing import (
    Outgoing,
    SizeLimit,
    check_size,
    refuse,
    resend,
    settle,
    settle_soon,
)
from aiorpc.wire.copies import was_resent
from aiorpc.wire.message import Message

from .network import Link

__all__ = ["Consuming", "Publishing", "SimulatedDelivery"]

#: Answers that a channel without a prefetch count keeps.
UNREAD = 1000


class Publishing:
    """The channel on which a transport sends, like ``amqp.channel.Channel``."""

    def __init__(self, link: Link, limit: SizeLimit) -> None:
        self.link = link
        self.open = True
        self.unconfirmed: dict[int, Outgoing] = {}
        self.lanes = self._up, self._down = link.lanes()
        self._limit = limit
        self._published = 0
        self._settled = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self.open and not self.link.blocked and not self.link.lost.done()

    @property
    def idle(self) -> bool:
        return not self.unconfirmed

    async def drained(self) -> None:
        """A simulated socket takes everything."""

    async def all_confirmed(self) -> None:
        while self.unconfirmed and self.open:
            self._settled.clear()
            await self._settled.wait()

    def publish(self, outgoing: Outgoing) -> None:
        check_size(outgoing, self._limit)
        message = carried(outgoing.message).message
        self._published = tag = self._published + 1
        if outgoing.is_request:
            self.link.network.watcher.sending(outgoing, was_resent(message))
        answers = outgoing.confirm or outgoing.mandatory
        if answers:
            self.unconfirmed[tag] = outgoing
        if not outgoing.confirm and outgoing.settled is not None:
            settle_soon(outgoing, None)
        self._up.send(
            "publish",
            self._at_broker,
            tag,
            outgoing.exchange,
            outgoing.routing_key,
            message,
            outgoing.mandatory,
            answers,
        )

    def _at_broker(
        self,
        tag: int,
        exchange: str,
        routing_key: str,
        message: Message,
        mandatory: bool,
        answers: bool,
    ) -> None:
        network = self.link.network
        error: AioRpcError | None
        if answers and network.watcher.refuses(self.link):
            error = Overloaded("the broker refused a message (basic.nack)")
        else:
            error = network.broker.publish(exchange, routing_key, message, mandatory)
        if answers:
            self._down.send("confirm", self._confirmed, tag, error)

    def _confirmed(self, tag: int, error: AioRpcError | None) -> None:
        outgoing = self.unconfirmed.pop(tag, None)
        if outgoing is None:
            return
        if error is None:
            if outgoing.confirm and outgoing.settled is not None:
                settle(outgoing, None)
        elif outgoing.confirm or not isinstance(error, Overloaded):
            settle(outgoing, error)
        if not self.unconfirmed:
            self._settled.set()

    def end(self, take_back: Callable[[Any], None]) -> None:
        """The link is lost: re-send the unconfirmed messages whose senders agree."""
        self.open = False
        unconfirmed, self.unconfirmed = self.unconfirmed, {}
        self._settled.set()
        again = (resend(outgoing) for outgoing in unconfirmed.values())
        take_back(outgoing for outgoing in again if outgoing is not None)


class SimulatedDelivery(Delivery, eq=False):
    """A message on a consuming channel; *entry* is ``None`` once it was settled."""

    channel: Consuming
    consumer: MemoryConsumer
    entry: Entry | None

    @property
    def stale(self) -> bool:
        return not self.channel.open or self.channel.link.lost.done()

    def ack(self) -> None:
        entry, self.entry = self.entry, None
        if entry is not None and self.channel.open:
            self.channel.up.send("ack", self.consumer.ack, entry)

    def reject(self, *, requeue: bool) -> None:
        entry, self.entry = self.entry, None
        if entry is not None and self.channel.open:
            self.channel.up.send("reject", partial(self.consumer.reject, entry, requeue=requeue))

    def requeue(self) -> None:
        self.reject(requeue=True)

    def answer(self, reply: Outgoing) -> bool:
        if self.entry is None:
            raise RuntimeError("the delivery was acked, rejected or answered before")
        current = self.channel.open
        if reply.confirm and current:
            self._answer_confirmed(reply)
        elif self.channel.answer(self.consumer, self.entry, reply):
            self.entry = None
        return current

    def _answer_confirmed(self, reply: Outgoing) -> None:
        channel = self.channel
        if not channel.sendable(reply):
            return
        entry, self.entry = self.entry, None

        def settled(error: AioRpcError | None) -> None:
            self.entry = entry
            reply.closes = apart.closes
            if error is None and self.stale:
                error = ConnectionLost(f"the delivery that {reply.description} answers is lost")
            if error is not None:
                settle(reply, error)
                return
            self.ack()
            if reply.settled is not None:
                channel.after_acks(partial(settle, reply, None))

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


class Consuming:
    """A channel with one consumer, like ``amqp.consumer.ConsumerChannel``."""

    def __init__(
        self, link: Link, options: ConsumerOptions, limit: SizeLimit, send: Callable[..., None]
    ) -> None:
        self.link = link
        self.options = options
        self.open = True
        self.elsewhere = send
        self.lanes = self.up, self._down = link.lanes()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.consumer: MemoryConsumer | None = None
        self._limit = limit
        self._unread: deque[Outgoing] = deque(maxlen=options.prefetch or UNREAD)
        self._held: list[tuple[MemoryConsumer, Entry, Outgoing]] = []
        self._refused: list[SimulatedDelivery] | None = None
        self._requeues = False
        self._waiting: dict[Callable[[], None], None] = {}

    # --- at the broker

    def consume(self, consumed_before: bool, reconnects: int) -> bool:
        """Declare and consume; return whether the queue was deleted meanwhile."""
        options, broker = self.options, self.link.network.broker
        gone = options.keep and consumed_before and options.queue.name not in broker.queues
        queue = broker.declare_queue(options.queue, self.link)
        arguments = {} if options.arguments is None else options.arguments(reconnects)
        self.consumer = consumer = MemoryConsumer(
            queue,
            self._deliver,
            lambda: self._down.send("cancelled", self._cancelled),
            options.prefetch or float("inf"),
            arguments.get("x-priority", 0),
        )
        self.link.consumers = [
            each for each in self.link.consumers if each.unacked or each in each.queue.consumers
        ]
        self.link.consumers.append(consumer)
        queue.add_consumer(consumer)
        return gone

    def stop_consuming(self) -> None:
        if self.consumer is not None:
            self.consumer.queue.remove_consumer(self.consumer)

    def close_at_broker(self) -> None:
        """Close the channel, as RabbitMQ does when an ack takes too long."""
        consumer = self.consumer
        if consumer is None or not self.open or not self.link.here:
            return
        self.up.sever(0.0)
        consumer.open = False
        unacked, consumer.unacked = consumer.unacked, set()
        consumer.queue.remove_consumer(consumer)
        consumer.queue.requeue(unacked)
        self._down.send("close", self.end)

    def _deliver(self, consumer: MemoryConsumer, entry: Entry) -> None:
        self._down.send(
            "deliver", self._delivered, consumer, entry, entry.carried.copy(), entry.redelivered
        )

    # --- in the process

    def _delivered(
        self, consumer: MemoryConsumer, entry: Entry, message: Message, redelivered: bool
    ) -> None:
        if not self.open:
            return
        if self.options.listens and self._refused is None:
            try:
                self.options.handler(message)
            finally:
                self.up.send("ack", consumer.ack, entry)
            return
        delivery = SimulatedDelivery(
            message, entry.exchange, entry.routing_key, redelivered, self, consumer, entry
        )
        if self._refused is not None:
            self._refused.append(delivery)
            if self._requeues:
                self.requeue_refused()
            return
        self.options.handler(delivery)

    def refuse(self) -> None:
        self._refused = []

    def requeue_refused(self) -> None:
        self._requeues = True
        refused, self._refused = self._refused or [], []
        for delivery in refused:
            self.options.requeue(delivery)

    def _cancelled(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def sendable(self, reply: Outgoing) -> bool:
        try:
            check_size(reply, self._limit)
            carried(reply.message)
        except UnserializableValueError as error:
            refuse(reply, error)
            return False
        return True

    def answer(self, consumer: MemoryConsumer, entry: Entry, reply: Outgoing) -> bool:
        """Publish *reply*, then ack; return whether the delivery settles."""
        if not self.open:
            self.elsewhere(reply)
            return True
        if not self.sendable(reply):
            return False
        if self.link.blocked:
            self._held.append((consumer, entry, reply))
            return True
        broker, message = self.link.network.broker, carried(reply.message).message
        self.up.send("answer", broker.publish, reply.exchange, reply.routing_key, message, False)
        self._unread.append(reply)
        self.up.send("ack", consumer.ack, entry)
        return True

    def unblocked(self) -> None:
        held, self._held = self._held, []
        for consumer, entry, reply in held:
            self.answer(consumer, entry, reply)

    def after_acks(self, function: Callable[[], None]) -> None:
        """Call *function* when the broker has read the acks, or the channel has ended."""
        self._waiting[function] = None

        def told() -> None:
            if function in self._waiting:
                del self._waiting[function]
                function()

        self.up.send("read", lambda: self._down.send("read", told))

    def end(self) -> None:
        """The link is lost, or the broker closed the channel: keep the answers it may not have."""
        if not self.open:
            return
        self.open = False
        self._cancelled()
        held, self._held = self._held, []
        for _, _, reply in held:
            settle(reply, ConnectionLost(f"{reply.description} was not sent yet"))
            self.elsewhere(reply)
        unread, self._unread = list(self._unread), deque(maxlen=self._unread.maxlen)
        for reply in unread:
            settle(reply, ConnectionLost(f"{reply.description} may not have arrived"))
        waiting, self._waiting = list(self._waiting), {}
        for function in waiting:
            function()
        self.link.closed(self.lanes)

"""
What a transport of ``memory://`` gives to its users: subscriptions, and deliveries. No I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ...wire.message import Queue
from ..base import Delivery, Heard, Received, Subscription
from ..outgoing import Outgoing
from .channel import MemoryChannel
from .queue import Deliver, Entry, MemoryConsumer

__all__ = ["MemoryDelivery", "MemorySubscription", "delivering", "hearing"]

log = logging.getLogger(__name__)


class MemoryDelivery(Delivery, eq=False):
    """A message that a queue handed out; ``entry`` is its place there, until it is settled."""

    channel: MemoryChannel
    consumer: MemoryConsumer
    entry: Entry | None

    @property
    def stale(self) -> bool:
        return not self.consumer.open

    def ack(self) -> None:
        entry, self.entry = self.entry, None
        if entry is not None:
            self.consumer.ack(entry)

    def reject(self, *, requeue: bool) -> None:
        entry, self.entry = self.entry, None
        if entry is not None:
            self.consumer.reject(entry, requeue=requeue)

    def answer(self, reply: Outgoing) -> bool:
        entry = self.entry
        if entry is None:
            raise RuntimeError("the delivery was acked, rejected or answered before")
        current = self.consumer.open
        if self.channel.answer(self.consumer, entry, reply):
            self.entry = None
        return current


def delivering(channel: MemoryChannel, received: Received) -> Deliver:
    """Return what gives each message to *received*, as a delivery that can be answered."""

    def deliver(consumer: MemoryConsumer, entry: Entry) -> None:
        received(
            MemoryDelivery(
                entry.carried.copy(),
                entry.exchange,
                entry.routing_key,
                entry.redelivered,
                channel,
                consumer,
                entry,
            )
        )

    return deliver


def hearing(channel: MemoryChannel, heard: Heard) -> Deliver:
    """Return what gives each message to *heard*, and acks it."""

    def deliver(consumer: MemoryConsumer, entry: Entry) -> None:
        try:
            heard(entry.carried.copy())
        except Exception:
            log.exception(
                "the handler of a message (exchange %r, key %r) failed",
                entry.exchange,
                entry.routing_key,
            )
        consumer.ack(entry)

    return deliver


class MemorySubscription(Subscription):
    """
    See :meth:`.base.Transport.subscribe` for what *prefetch*, *keep*, *gone* and *arguments* mean.

    Args:
        deliver: returns what takes the deliveries of one connection.
        cancelled: called when the subscription was cancelled.
        cancelled_by_broker: called when the queue was deleted.
    """

    def __init__(
        self,
        queue: Queue,
        deliver: Callable[[MemoryChannel], Deliver],
        *,
        cancelled: Callable[[MemorySubscription], None],
        cancelled_by_broker: Callable[[MemorySubscription], None],
        prefetch: int,
        keep: bool,
        gone: Callable[[], None] | None,
        arguments: Callable[[int], dict[str, Any]] | None,
    ) -> None:
        self.queue = queue
        self._deliver = deliver
        self._on_cancelled = cancelled
        self._on_cancelled_by_broker = cancelled_by_broker
        self._prefetch = prefetch
        self._keep = keep
        self._gone = gone
        self._arguments = arguments
        self._consumer: MemoryConsumer | None = None
        self._consumed_before = False

    @property
    def consuming(self) -> bool:
        return self._consumer is not None

    async def cancel(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)
        self._on_cancelled(self)

    def consume(self, channel: MemoryChannel, peer: object, reconnects: int) -> MemoryConsumer:
        """
        Declare the queue for *peer*, and consume from it.

        Raises:
            ConfigurationError: it exists with other flags, or is exclusive to another peer.
        """
        broker = channel.broker
        gone = self._keep and self._consumed_before and self.queue.name not in broker.queues
        queue = broker.declare_queue(self.queue, peer)
        if gone:
            log.warning(
                "queue %s was gone on %s; it is declared again", self.queue.name, broker.url
            )
            self._call_gone()
        arguments = {} if self._arguments is None else self._arguments(reconnects)
        self._consumed_before = True
        self._consumer = MemoryConsumer(
            queue,
            self._deliver(channel),
            self._gone_at_broker,
            self._prefetch,
            arguments.get("x-priority", 0),
        )
        queue.add_consumer(self._consumer)
        return self._consumer

    def disconnected(self) -> None:
        """The connection is lost, and the consumer with it."""
        self._consumer = None

    def _gone_at_broker(self) -> None:
        # A consumer that we cancelled is not in its queue any more, so it cannot be ours here.
        self._consumer = None
        self._on_cancelled_by_broker(self)

    def _call_gone(self) -> None:
        if self._gone is not None:
            try:
                self._gone()
            except Exception:
                log.exception("the `gone` callback of queue %s failed", self.queue.name)

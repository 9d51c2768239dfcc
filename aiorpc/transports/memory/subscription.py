"""
What a transport of ``memory://`` hands to its users: subscriptions, and the deliveries they bring.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from ...wire.message import Queue
from ..base import Delivery, Heard, Outgoing, Received, Subscription
from .broker import MemoryBroker
from .queue import Consumer, Deliver, Entry

__all__ = ["MemoryDelivery", "MemorySubscription", "delivering", "hearing"]

log = logging.getLogger(__name__)


class Host(Protocol):
    """What deliveries and subscriptions need of their transport."""

    def answer(self, consumer: Consumer, entry: Entry, reply: Outgoing) -> bool:
        """See :meth:`.base.Delivery.answer`; ``False`` if *reply* can never be sent."""
        ...

    def forget(self, subscription: MemorySubscription) -> None:
        """*subscription* was cancelled."""

    def consume_again(self, subscription: MemorySubscription) -> None:
        """The broker cancelled the consumer of *subscription*."""

    def blocked_changed(self) -> None:
        """See :class:`.broker.Peer`."""


class MemoryDelivery(Delivery, eq=False):
    """A message that a queue handed out; ``entry`` is its place there, until it is settled."""

    transport: Host
    consumer: Consumer
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
        """
        As in :class:`~.base.Delivery`.

        Raises:
            RuntimeError: it was settled before.
            UnserializableValueError: the reply cannot be encoded, or is too large, and has no
                ``settled`` to be told so. The delivery can still be settled.
        """
        entry = self.entry
        if entry is None:
            raise RuntimeError("the delivery was acked, rejected or answered before")
        current = self.consumer.open
        if self.transport.answer(self.consumer, entry, reply):
            self.entry = None
        return current


def delivering(transport: Host, received: Received) -> Deliver:
    """Each message as a delivery of *transport*, which *received* settles."""

    def deliver(consumer: Consumer, entry: Entry, now: float) -> None:
        received(
            MemoryDelivery(
                entry.carried.copy(),
                entry.exchange,
                entry.routing_key,
                entry.redelivered,
                now,
                transport,
                consumer,
                entry,
            )
        )

    return deliver


def hearing(heard: Heard) -> Deliver:
    """Each message told to *heard*, and acked."""

    def deliver(consumer: Consumer, entry: Entry, now: float) -> None:
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
    See :meth:`.base.Transport.subscribe` for what the arguments mean.

    Args:
        deliver: takes what the queue hands out.
    """

    def __init__(
        self,
        transport: Host,
        queue: Queue,
        deliver: Deliver,
        *,
        prefetch: int,
        keep: bool,
        gone: Callable[[], None] | None,
        arguments: Callable[[int], dict[str, Any]] | None,
    ) -> None:
        self.queue = queue
        self._transport = transport
        self._deliver = deliver
        self._prefetch = prefetch
        self._keep = keep
        self._gone = gone
        self._arguments = arguments
        self._consumer: Consumer | None = None
        self._consumed_before = False
        self._cancelled = False

    @property
    def consuming(self) -> bool:
        return self._consumer is not None

    async def cancel(self) -> None:
        self._cancelled = True
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)
        self._transport.forget(self)

    def consume(self, broker: MemoryBroker, reconnects: int) -> Consumer:
        """
        Declare the queue and consume from it.

        Raises:
            ConfigurationError: it is there with other flags, or is somebody else's.
        """
        gone = self._keep and self._consumed_before and self.queue.name not in broker.queues
        queue = broker.declare_queue(self.queue, self._transport)
        if gone:
            log.warning("queue %s was gone on %s; it is declared anew", self.queue.name, broker.url)
            self._tell_gone()
        arguments = {} if self._arguments is None else self._arguments(reconnects)
        self._consumed_before = True
        self._consumer = broker.consume(
            queue,
            self._deliver,
            self._on_cancelled,
            prefetch=self._prefetch,
            priority=arguments.get("x-priority", 0),
        )
        return self._consumer

    def disconnected(self) -> None:
        """The connection is lost, and the consumer with it."""
        self._consumer = None

    def _on_cancelled(self) -> None:
        self._consumer = None
        if not self._cancelled:
            self._transport.consume_again(self)

    def _tell_gone(self) -> None:
        if self._gone is not None:
            try:
                self._gone()
            except Exception:
                log.exception("the owner of queue %s failed when told it is gone", self.queue.name)

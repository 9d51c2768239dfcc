"""
What one transport has declared and subscribed at the broker in this process. No I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ...exceptions import ConfigurationError
from ...wire.message import Exchange, Queue
from .channel import MemoryChannel
from .queue import MemoryConsumer
from .subscription import MemorySubscription

__all__ = ["MemoryTopology"]

log = logging.getLogger(__name__)


class MemoryTopology:
    """
    Exchanges, queues and subscriptions of *peer*; they are restored after every reconnect.

    Attributes:
        subscriptions: those that were not cancelled.
    """

    def __init__(self, peer: object) -> None:
        self.subscriptions: dict[MemorySubscription, None] = {}
        self._peer = peer
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        #: Of this connection; also cancelled ones, whose deliveries may not be settled yet.
        self._consumers: set[MemoryConsumer] = set()
        self._channel: MemoryChannel | None = None
        self._reconnects = 0

    def restore(self, channel: MemoryChannel, reconnects: int) -> None:
        """Declare and consume on *channel*, whose connection is number *reconnects*, from 0."""
        self._channel = channel
        self._reconnects = reconnects
        for exchange in self._exchanges.values():
            self._try(channel.broker.declare_exchange, exchange)
        for queue in self._queues.values():
            self._try(channel.broker.declare_queue, queue, self._peer)
        for subscription in list(self.subscriptions):
            self._try(self._consume, channel, subscription)

    def disconnect(self) -> None:
        """The connection is lost: let the broker requeue what is unacked."""
        channel, self._channel = self._channel, None
        if channel is not None:
            consumers, self._consumers = self._consumers, set()
            for subscription in self.subscriptions:
                subscription.disconnected()
            channel.broker.disconnect(self._peer, consumers)

    def declare(
        self, channel: MemoryChannel, exchanges: Sequence[Exchange], queues: Sequence[Queue]
    ) -> None:
        """
        Declare them now and after every reconnect.

        Raises:
            ConfigurationError: one exists with other flags, or is exclusive to another peer.
        """
        for exchange in exchanges:
            channel.broker.declare_exchange(exchange)
            self._exchanges[exchange.name] = exchange
        for queue in queues:
            channel.broker.declare_queue(queue, self._peer)
            self._queues[queue.name] = queue

    def delete(self, queue: str) -> None:
        """Delete *queue* if it exists and belongs to no other peer; do not declare it again."""
        self._queues.pop(queue, None)
        if self._channel is not None:
            broker = self._channel.broker
            there = broker.queues.get(queue)
            if there is not None and there.owner in (None, self._peer):
                broker.delete_queue(there)

    # --- subscriptions

    def subscribe(self, channel: MemoryChannel, subscription: MemorySubscription) -> None:
        """
        Consume now and after every reconnect.

        Raises:
            ConfigurationError: the queue exists with other flags, or is exclusive to another peer.
        """
        self._consume(channel, subscription)
        self.subscriptions[subscription] = None

    def cancelled(self, subscription: MemorySubscription) -> None:
        """*subscription* was cancelled: do not consume again."""
        self.subscriptions.pop(subscription, None)
        self._consumers = {
            each for each in self._consumers if each.unacked or each in each.queue.consumers
        }

    def cancelled_by_broker(self, subscription: MemorySubscription) -> None:
        """The broker cancelled the consumer of *subscription*: consume again."""
        channel = self._channel
        if channel is None:
            return
        log.warning(
            "the broker cancelled the consumer of %s on %s (was the queue deleted?); "
            "consuming again",
            subscription.queue.name,
            channel.broker.url,
        )

        def consume(now: float) -> None:
            if channel is self._channel and subscription in self.subscriptions:
                self._try(self._consume, channel, subscription)

        channel.broker.turns.soon(consume)

    def _consume(self, channel: MemoryChannel, subscription: MemorySubscription) -> None:
        self._consumers.add(subscription.consume(channel, self._peer, self._reconnects))

    def _try(self, restore: Callable[..., Any], *args: Any) -> None:
        try:
            restore(*args)
        except ConfigurationError as error:
            log.error("it could not be declared again: %s", error)
        except Exception:
            log.exception("what was declared or subscribed could not be restored")

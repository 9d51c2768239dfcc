"""
Subscriptions and deliveries of ``memory://``. No I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from ...exceptions import ConfigurationError
from ...logs import logger
from ...wire.message import Message
from ..incoming import ConsumerOptions, Delivery, Subscription, oversized
from ..outgoing import Outgoing
from .channel import MemoryChannel
from .queue import Deliver, Entry, MemoryConsumer

__all__ = ["MemoryDelivery", "MemorySubscription", "restore"]

log = logger(__name__)


class MemoryDelivery(Delivery, eq=False):
    """A message that a queue delivered; ``entry`` is its place there, until it is settled."""

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

    def requeue(self) -> None:
        self.reject(requeue=True)

    def answer(self, reply: Outgoing) -> bool:
        entry = self.entry
        if entry is None:
            raise RuntimeError("the delivery was acked, rejected or answered before")
        current = self.consumer.open
        if self.channel.answer(self.consumer, entry, reply, self._refused):
            self.entry = None
        return current

    def _refused(self, entry: Entry) -> None:
        """Leave the delivery unsettled, because the broker refused its answer."""
        self.entry = entry


class MemorySubscription(Subscription):
    """
    A consumer of a queue of the broker in this process.

    Args:
        limit: bytes of the largest body to deliver.
        cancelled: called when the subscription was cancelled.
    """

    def __init__(
        self,
        options: ConsumerOptions,
        limit: int,
        cancelled: Callable[[MemorySubscription], object],
    ) -> None:
        super().__init__(options)
        self._limit = limit
        self._on_cancelled = cancelled
        self._consumer: MemoryConsumer | None = None
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
        self._on_cancelled(self)

    def consume(self, channel: MemoryChannel, reconnects: int) -> None:
        """
        Declare the queue, and consume from it on *channel*.

        Raises:
            ConfigurationError: the queue exists with other flags, or is exclusive to another
                connection.
        """
        options, broker = self.options, channel.broker
        gone = options.keep and self._consumed_before and self.queue.name not in broker.queues
        queue = broker.declare_queue(self.queue, channel)
        if gone:
            self._declared_again(broker.url)
        arguments = {} if options.arguments is None else options.arguments(reconnects)
        self._consumed_before = True
        self._consumer = channel.consume(
            queue,
            _handing(options, channel, self._limit),
            partial(self._gone, channel, reconnects),
            options.prefetch or math.inf,
            arguments.get("x-priority", 0),
        )

    def disconnected(self) -> None:
        """Forget the consumer, because its connection is lost."""
        self._consumer = None

    def _gone(self, channel: MemoryChannel, reconnects: int) -> None:
        """Consume again, because the queue was deleted."""
        # This is not a cancelled consumer: a cancelled consumer is not in its queue any more.
        self._consumer = None
        self._cancelled_by_broker(channel.broker.url)

        def consume(now: float) -> None:
            if channel.open and not self._cancelled:
                restore(self.consume, channel, reconnects)

        channel.broker.turns.soon(consume)


def _handing(options: ConsumerOptions, channel: MemoryChannel, limit: int) -> Deliver:
    """Return the function that passes each message to the handler in *options*."""
    handler = options.handler

    def deliver(consumer: MemoryConsumer, entry: Entry) -> None:
        message = _read(consumer, entry, limit)
        if message is None:
            return
        handler(
            MemoryDelivery(
                message,
                entry.exchange,
                entry.routing_key,
                entry.redelivered,
                channel,
                consumer,
                entry,
            )
        )

    def hear(consumer: MemoryConsumer, entry: Entry) -> None:
        message = _read(consumer, entry, limit)
        if message is None:
            return
        try:
            handler(message)
        except Exception:
            log.exception(
                "the handler of a message (exchange %r, key %r) failed",
                entry.exchange,
                entry.routing_key,
            )
        finally:
            consumer.ack(entry)

    return hear if options.listens else deliver


def _read(consumer: MemoryConsumer, entry: Entry, limit: int) -> Message | None:
    """Return the message to deliver. If its body is larger than *limit* bytes, see `oversized`."""
    message = entry.carried.copy()
    if len(message.body) <= limit:
        return message
    size = len(message.body)
    answerable = oversized(message, size, limit, entry.exchange, entry.routing_key)
    if answerable is None:
        consumer.reject(entry, requeue=False)
    return answerable


def restore(declare: Callable[..., object], *args: object) -> None:
    """Call *declare* after a reconnect. Log its error, so that later declarations still run."""
    try:
        declare(*args)
    except ConfigurationError as error:
        log.error("after a reconnect, a queue or exchange could not be declared again: %s", error)
    except Exception:
        log.exception("after a reconnect, a declaration or subscription could not be restored")

"""
Deliveries, and the subscriptions that receive them. Imports no AMQP library; no I/O.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from operator import methodcaller
from typing import Any

import msgspec

from ..logs import logger
from ..wire.message import Message, Queue
from ..wire.names import OVERSIZED
from .outgoing import Outgoing

__all__ = [
    "REQUEUE",
    "ConsumerOptions",
    "Delivery",
    "Heard",
    "Received",
    "Subscription",
    "oversized",
]

log = logger(__name__)


class Delivery(msgspec.Struct, eq=False):
    """
    A received message. The broker keeps the message until it is acked or rejected.

    Every method returns at once. If the connection of the delivery is lost, the broker requeues
    the message, and ack and reject do nothing. A second ack or reject also does nothing. An
    ``answer`` after an ack or reject raises ``RuntimeError``.

    An abstract class, but a struct, because there is an instance for every message (ADR 6).
    """

    message: Message
    exchange: str
    routing_key: str
    redelivered: bool

    @property
    def stale(self) -> bool:
        """Whether the delivery's connection is lost: the broker then redelivers the message."""
        raise NotImplementedError

    @property
    def may_return(self) -> bool:
        """
        Whether the broker may redeliver the message, even if it is settled here: the delivery is
        stale, or the broker cancelled its consumer (a quorum queue of RabbitMQ 4.3 does this after
        ``consumer_timeout``, and ignores a later ack).
        """
        return self.stale

    def ack(self) -> None:
        """Ack the message: the broker deletes it."""
        raise NotImplementedError

    def reject(self, *, requeue: bool) -> None:
        """
        Reject the message (to the dead-letter exchange if the queue has one), or requeue it. A
        quorum queue counts a requeue as a failed delivery.
        """
        raise NotImplementedError

    def requeue(self) -> None:
        """
        Requeue the message, which was not worked on. Since RabbitMQ 4.3, a quorum queue does not
        count this as a failed delivery.
        """
        raise NotImplementedError

    def answer(self, reply: Outgoing) -> bool:
        """
        Send *reply*, then ack, on one channel, so that the ack never overtakes the reply.

        With ``reply.confirm`` the ack waits for the reply's confirm. ``reply.settled`` is called
        when the broker has read the ack, so ``settled`` may end this process. If the connection is
        lost, the transport sends only the reply, on the next connection.

        Returns:
            False if the broker may redeliver the message; see :attr:`may_return`.

        Raises:
            RuntimeError: the delivery was acked, rejected or answered before.
            UnserializableValueError: the reply is too large or cannot be encoded, and has no
                ``settled``. The delivery can still be acked, rejected or answered.
        """
        raise NotImplementedError


#: Handles one delivery. The handler must not block. The transport logs its errors.
Received = Callable[[Delivery], None]
#: Requeues a delivery, which was not worked on.
REQUEUE: Received = methodcaller("requeue")
#: Handles one message; the transport acks it. The handler must not block; its errors are logged.
Heard = Callable[[Message], None]


def oversized(
    head: Message, size: int, limit: int, exchange: str, routing_key: str
) -> Message | None:
    """
    Log that a message of *size* bytes is larger than *limit*. Return what to deliver instead of the
    message; ``None`` to reject the message.

    Requests and replies are delivered without their body. Their handlers treat the header that we
    add as an error, so the caller gets an error now, and does not wait for its deadline.
    """
    answerable = head.correlation_id is not None
    log.warning(
        "a message of %d bytes (exchange %r, key %r) is larger than MAX_MESSAGE_SIZE (%d): %s",
        size,
        exchange,
        routing_key,
        limit,
        "it is answered without its body" if answerable else "it is rejected",
    )
    if not answerable:
        return None
    headers = {**(head.headers or {}), OVERSIZED: size}
    return msgspec.structs.replace(head, body=b"", headers=headers)


class ConsumerOptions(msgspec.Struct, frozen=True):
    """
    The arguments of :meth:`.base.Transport.subscribe` or :meth:`.base.Transport.listen`.

    Attributes:
        handler: a ``Heard`` if ``listens``, else a ``Received``.
    """

    queue: Queue
    handler: Callable[[Any], None]
    listens: bool
    prefetch: int
    keep: bool
    gone: Callable[[], None] | None
    requeue: Received
    arguments: Callable[[int], dict[str, Any]] | None


class Subscription(AbstractAsyncContextManager["Subscription"]):
    """
    A consumer on one queue; the transport consumes again after every reconnect. The end of the
    ``async with`` block cancels the subscription.
    """

    def __init__(self, options: ConsumerOptions) -> None:
        self.queue = options.queue
        self.options = options

    @property
    @abstractmethod
    def consuming(self) -> bool:
        """Whether the broker has a consumer of this subscription now."""

    @abstractmethod
    async def cancel(self) -> None:
        """
        Stop the deliveries. Earlier deliveries can still be settled until the transport closes.
        Idempotent; bounded, also if the broker does not answer; safe while disconnected.
        """

    async def __aexit__(self, *exc_info: object) -> None:
        await self.cancel()

    def _declared_again(self, url: object) -> None:
        """Log that the queue was lost on the broker at *url*, and call ``gone``."""
        log.warning(
            "queue %s on %s was lost (it was deleted, or its node is down); declared queue %s",
            self.options.queue.name,
            url,
            self.queue.name,
        )
        if self.options.gone is not None:
            try:
                self.options.gone()
            except Exception:
                log.exception("the callback for the deleted queue %s failed", self.queue.name)

    def _cancelled_by_broker(self, url: object) -> None:
        log.warning(
            "the broker cancelled the consumer of %s on %s: the queue was deleted, its node is "
            "down, or a message was not acked within consumer_timeout; consuming again",
            self.queue.name,
            url,
        )

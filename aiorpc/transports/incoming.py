"""
What arrives: deliveries, and the subscriptions that bring them. Imports no AMQP library, no I/O.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from ..wire.message import Message, Queue
from .outgoing import Outgoing

__all__ = ["ConsumerOptions", "Delivery", "Heard", "Received", "Subscription"]

log = logging.getLogger(__name__)


class Delivery(msgspec.Struct, eq=False):
    """
    A message that reached us. The broker keeps it until it is acked or rejected.

    Every method returns at once. If the connection that brought the message is lost, the broker
    requeues it: ack and reject then do nothing. A second ack or reject does nothing either; an
    ``answer`` after one is a ``RuntimeError``.

    Abstract, but a struct: one is made for every message (ADR 6).
    """

    message: Message
    exchange: str
    routing_key: str
    redelivered: bool

    @property
    def stale(self) -> bool:
        """Whether the connection that brought it is lost, so that the broker delivers it again."""
        raise NotImplementedError

    def ack(self) -> None:
        """Let the broker forget the message."""
        raise NotImplementedError

    def reject(self, *, requeue: bool) -> None:
        """Requeue the message, or drop it (to the dead letters, where the queue has any)."""
        raise NotImplementedError

    def answer(self, reply: Outgoing) -> bool:
        """
        Send *reply*, then ack, on one channel, so that the ack never overtakes the reply.

        With ``reply.confirm`` the ack waits for the reply's confirm. ``reply.settled`` is called
        when the broker has the ack, so it may end this process. If the connection is lost, only
        the reply is sent, on the next one.

        Returns:
            False if the connection is lost, so that the broker delivers the message again.

        Raises:
            RuntimeError: the delivery was acked, rejected or answered before.
            UnserializableValueError: the reply cannot be encoded, or is too large, and has no
                ``settled``. The delivery can still be acked, rejected or answered.
        """
        raise NotImplementedError


#: Handles one delivery. It must not block; what it raises is logged.
Received = Callable[[Delivery], None]
#: Handles one message, which is acked for it. It must not block; what it raises is logged.
Heard = Callable[[Message], None]


class ConsumerOptions(msgspec.Struct, frozen=True):
    """
    What :meth:`.base.Transport.subscribe` or :meth:`.base.Transport.listen` was called with.

    Attributes:
        handler: a ``Heard`` if ``listens``, else a ``Received``.
    """

    queue: Queue
    handler: Callable[[Any], None]
    listens: bool
    prefetch: int
    keep: bool
    gone: Callable[[], None] | None
    arguments: Callable[[int], dict[str, Any]] | None


class Subscription(AbstractAsyncContextManager["Subscription"]):
    """
    A consumer on one queue; the transport consumes again after every reconnect. The end of its
    ``async with`` block cancels it.
    """

    def __init__(self, options: ConsumerOptions) -> None:
        self.queue = options.queue
        self.options = options

    @property
    @abstractmethod
    def consuming(self) -> bool:
        """Whether the broker has it as a consumer now."""

    @abstractmethod
    async def cancel(self) -> None:
        """
        Take no more deliveries. Those that arrived can still be settled until the transport closes.
        Idempotent; bounded, also if the broker does not answer; safe while disconnected.
        """

    async def __aexit__(self, *exc_info: object) -> None:
        await self.cancel()

    def _declared_again(self, url: object) -> None:
        """Log that the queue was deleted on the broker at *url*, and call ``gone``."""
        log.warning("queue %s was deleted on %s; declared it again", self.queue.name, url)
        if self.options.gone is not None:
            try:
                self.options.gone()
            except Exception:
                log.exception("the callback for the deleted queue %s failed", self.queue.name)

    def _cancelled_by_broker(self, url: object) -> None:
        log.warning(
            "the broker cancelled the consumer of %s on %s (was the queue deleted?); "
            "consuming again",
            self.queue.name,
            url,
        )

"""
Takes messages from queues without consumers, so that a test can check them. The fixture
``get_message_from_queue`` uses this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..transports.base import Delivery, Transport
from ..wire.message import Message, Queue
from ..wire.protocol import Wire

__all__ = ["QueueMessage", "get_message"]


@dataclass(frozen=True)
class QueueMessage:
    """
    A message that was taken from a queue.

    Attributes:
        message: the body as bytes, and the AMQP properties.
    """

    message: Message
    exchange: str
    routing_key: str
    redelivered: bool
    _wire: Wire

    @property
    def payload(self) -> Any:
        """
        Return the decoded body.

        Raises:
            MalformedRequest: the body cannot be decoded; ``message.body`` has the bytes.
        """
        return self._wire.payloads.decode(self.message)[0]

    @property
    def headers(self) -> Mapping[str, Any]:
        """Return all headers, as they were sent."""
        return self.message.headers or {}


async def get_message(
    transport: Transport, wire: Wire, queue: str, *, ack: bool = True, timeout: float = 5.0
) -> QueueMessage:
    """
    Wait for a message in *queue*, and take it.

    Args:
        ack: whether to ack the message. Otherwise it is requeued.
        timeout: seconds to wait for the message.

    Raises:
        ConfigurationError: the queue does not exist.
        TimeoutError: no message arrived within *timeout*.
    """
    arrived: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()

    def received(delivery: Delivery) -> None:
        if arrived.done():
            delivery.requeue()
        else:
            arrived.set_result(delivery)

    try:
        async with asyncio.timeout(timeout):
            # With a prefetch of 1, no second message leaves the queue. The subscription ends before
            # the requeue; otherwise it would get the message again.
            async with await transport.subscribe(Queue(queue, passive=True), received, prefetch=1):
                taken = await arrived
    except TimeoutError:
        raise TimeoutError(
            f"queue {queue!r} on {transport.url} had no message within {timeout:g} s "
            f"({transport.state.value})"
        ) from None
    if ack:
        taken.ack()
    else:
        taken.requeue()
    return QueueMessage(taken.message, taken.exchange, taken.routing_key, taken.redelivered, wire)

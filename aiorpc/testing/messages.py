"""
Takes messages from queues without consumers, so that a test can check them. The fixture
``get_message_from_queue`` uses this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..exceptions import ConfigurationError
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
        timeout: seconds to wait for the queue and the message.

    Raises:
        ConfigurationError: the queue does not exist, and did not appear within *timeout*.
        TimeoutError: no message arrived within *timeout*.
    """
    ends_at = asyncio.get_running_loop().time() + timeout
    await _wait_for(transport, queue, ends_at, timeout)
    try:
        async with asyncio.timeout_at(ends_at):
            taken = await _first(transport, queue)
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


async def _wait_for(transport: Transport, queue: str, ends_at: float, timeout: float) -> None:
    """Wait until *queue* exists. A service declares ``<queue>.parked`` with its first message."""
    loop = asyncio.get_running_loop()
    while (state := await transport.inspect(queue, max(0.04, ends_at - loop.time()))) is not None:
        if state.exists:
            return
        if loop.time() >= ends_at:
            raise ConfigurationError(
                f"queue {queue!r} does not exist on {transport.url}, and did not appear within "
                f"{timeout:g} s (404). Check the name, or wait longer with timeout="
            )
        await asyncio.sleep(0.05)  # the broker has no event for a new queue


async def _first(transport: Transport, queue: str) -> Delivery:
    """Return the next message of *queue*, unsettled, after the subscription has ended."""
    arrived: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()

    def received(delivery: Delivery) -> None:
        if arrived.done():
            delivery.requeue()
        else:
            arrived.set_result(delivery)

    # With a prefetch of 1, no second message leaves the queue. The subscription ends before the
    # requeue; otherwise it would get the message again.
    async with await transport.subscribe(Queue(queue, passive=True), received, prefetch=1):
        return await arrived

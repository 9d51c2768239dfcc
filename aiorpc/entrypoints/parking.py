"""
Parks a message that failed for good. Awaits the broker's confirm.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.structs import replace

from .. import figures
from ..exceptions import ConnectionLost, Overloaded, Unroutable, UnserializableValueError
from ..extensions import Host
from ..logs import logger, named
from ..transports.base import Delivery, Outgoing
from ..wire.message import Message, Queue
from ..wire.names import parked_queue
from ..wire.parked import Parking, parked
from ..wire.queues import has_type, of_same_type, of_type

__all__ = ["PAUSES", "park"]

log = logger("aiorpc.attempts")

#: Seconds to wait until the broker confirms a parked message, or declares the queue for it.
PARKING = 30.0
#: Seconds to wait before each attempt to send a message that the broker refuses. A quorum queue
#: refuses messages while it has no leader.
PAUSES = (0.0, 1.0, 5.0)
#: Further pauses, unless messages wait in the queue: then it is full. On a busy cluster of RabbitMQ
#: 3.10, a quorum queue had no leader for 10 s.
ELECTION = (5.0, 10.0, 10.0)
#: Seconds to wait for the number of messages in the parked queue.
LOOK = 1.0
_REQUEUED = "a message of queue %s is requeued, not parked: %s"
_NOT_PARKED = (
    "%s; but it cannot be parked (%s) and is rejected, to the dead-letter exchange if the queue "
    "has one"
)


async def park(
    host: Host,
    source: Queue,
    delivery: Delivery,
    text: str,
    why: Parking,
    *,
    failed: Callable[[Delivery], None] | None = None,
) -> bool:
    """
    Send a copy of a message of the queue *source* to its parked queue, and log *text*.

    Args:
        why: the method and its error, for the headers of the copy.
        failed: called before the message is rejected, because it cannot be parked.

    Returns:
        Whether the broker has confirmed the copy, so that the caller settles *delivery*. Otherwise
        *delivery* is requeued or rejected here.
    """
    fields = named(host.service_name, why.method.rpartition(".")[2])
    try:
        await _send_copy(host, source, delivery, why)
    except ConnectionLost as error:
        log.warning(_REQUEUED, source.name, error, extra=fields)
        delivery.requeue()
    except Exception as error:  # noqa: BLE001 - unsettled, it would use up the prefetch
        log.error(_NOT_PARKED, text, error, extra=fields)
        if failed is not None:
            failed(delivery)
        delivery.reject(requeue=False)
    else:
        figures.count("parked", source.name)
        log.error("%s", text, extra=fields)
        return True
    return False


async def _send_copy(host: Host, source: Queue, delivery: Delivery, why: Parking) -> None:
    why = replace(
        why,
        queue=source.name,
        exchange=delivery.exchange,
        routing_key=delivery.routing_key,
        at=datetime.now(UTC),
    )
    try:
        await _send(host, source, parked(delivery.message, why))
    except UnserializableValueError:  # the headers do not fit into one frame
        brief = replace(why, reason=f"{why.error}: too long to be kept", stack=None)
        await _send(host, source, parked(delivery.message, brief))


async def _parked_queue(host: Host, source: Queue) -> Queue:
    """Return the queue for parked messages, of the same type as *source*."""
    queue = of_same_type(parked_queue(source.name), source.name, host.settings.queue_options)
    if not has_type(queue):
        there = dataclasses.replace(source, passive=True)
        queue = of_type(queue, await host.transport.type_of(there))
    if queue.arguments.get("x-queue-type") == "quorum":
        # A look at a message may count as a failed delivery, and must not delete it.
        queue = dataclasses.replace(
            queue, arguments={**queue.arguments, "x-delivery-limit": -1}, accept_existing=True
        )
    return queue


async def _send(host: Host, source: Queue, message: Message) -> None:
    """Send *message* to be parked; if the queue refuses it, again after each pause."""
    name = parked_queue(source.name).name
    for number, pause in enumerate((*PAUSES, *ELECTION), 1):
        await asyncio.sleep(pause)
        full = number >= len(PAUSES) and await _is_full(host, name)
        try:
            return await _try(host, source, message)
        except Overloaded as refused:
            if full or number == len(PAUSES) + len(ELECTION):
                raise
            log.debug("queue %s refuses a message: %s", name, refused)


async def _is_full(host: Host, queue: str) -> bool:
    """
    Return whether messages wait in *queue*. A queue without a leader shows none, or does not
    answer.
    """
    state = await host.transport.inspect(queue, LOOK)
    return state is not None and state.messages > 0


async def _try(host: Host, source: Queue, message: Message) -> None:
    """Send *message* to the parked queue, and declare the queue if it does not exist."""
    name = parked_queue(source.name).name

    def outgoing() -> Outgoing:
        return Outgoing(exchange="", routing_key=name, message=message, mandatory=True)

    try:
        await host.transport.publish(outgoing(), PARKING)
    except Unroutable:
        await _declare(host, source)
        await host.transport.publish(outgoing(), PARKING)


async def _declare(host: Host, source: Queue) -> None:
    transport = host.transport
    try:
        async with asyncio.timeout(PARKING):
            await transport.declare(queues=[await _parked_queue(host, source)])
    except TimeoutError:
        raise ConnectionLost(
            f"queue {parked_queue(source.name).name} could not be declared on {transport.url} "
            f"within {PARKING:g} s: {transport.condition()}"
        ) from None

"""
Parks a message that failed for good. Awaits the broker's confirm.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .. import figures
from ..exceptions import ConfigurationError, ConnectionLost, UnserializableValueError
from ..extensions import Host
from ..logs import logger, named
from ..transports.base import Delivery, Outgoing
from ..wire.copies import parked
from ..wire.message import Message, Queue
from ..wire.names import parked_queue
from ..wire.queues import of_same_type

__all__ = ["park"]

log = logger("aiorpc.attempts")

#: Seconds to wait until the broker confirms a parked message.
PARKING = 30.0
_REQUEUED = "a message of queue %s is requeued, not parked: %s"
_NOT_PARKED = (
    "%s; but it cannot be parked (%s) and is rejected, to the dead-letter exchange if the queue "
    "has one"
)


async def park(
    host: Host,
    source: str,
    delivery: Delivery,
    text: str,
    *,
    method: str = "",
    reason: str | None = None,
    stack: str | None = None,
    failed: Callable[[Delivery], None] | None = None,
) -> bool:
    """
    Send a copy of a message of the queue *source* to its parked queue, and log *text*.

    Args:
        method: the name of the method, for the log, if it is known.
        failed: called before the message is rejected, because it cannot be parked.
        reason, stack: of the error, for the headers of the copy. The default reason is *text*.

    Returns:
        Whether the broker has confirmed the copy, so that the caller settles *delivery*. Otherwise
        *delivery* is requeued or rejected here.
    """
    fields = named(host.service_name, method)
    try:
        await _send_copy(host, source, delivery, reason or text, stack)
    except ConnectionLost as error:
        log.warning(_REQUEUED, source, error, extra=fields)
        delivery.requeue()
    except Exception as error:  # noqa: BLE001 - unsettled, it would use up the prefetch
        log.error(_NOT_PARKED, text, error, extra=fields)
        if failed is not None:
            failed(delivery)
        delivery.reject(requeue=False)
    else:
        figures.count("parked", source)
        log.error("%s", text, extra=fields)
        return True
    return False


async def _send_copy(
    host: Host, source: str, delivery: Delivery, reason: str, stack: str | None
) -> None:
    copy = partial(parked, delivery.message, delivery.exchange, delivery.routing_key)
    queue = await _declared(host, source)
    try:
        await _send(host, queue, copy(reason, stack))
    except UnserializableValueError:  # the headers do not fit into one frame
        await _send(host, queue, copy("", None))


async def _declared(host: Host, source: str) -> Queue:
    """Declare the parked queue of the queue *source*, and return it."""
    queue = of_same_type(parked_queue(source), source, host.settings.queue_options)
    with suppress(ConfigurationError):  # the queue exists with other arguments
        await host.transport.declare(queues=[queue])
    return queue


async def _send(host: Host, queue: Queue, message: Message) -> None:
    outgoing = Outgoing(exchange="", routing_key=queue.name, message=message, mandatory=True)
    await host.transport.publish(outgoing, PARKING)

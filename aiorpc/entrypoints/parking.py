"""
Parks a message that failed for good. Awaits the broker's confirm.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from ..exceptions import ConfigurationError, ConnectionLost, UnserializableValueError
from ..extensions import Host
from ..logs import logger
from ..transports.base import Delivery, Outgoing
from ..wire.copies import parked
from ..wire.message import Message, Queue
from ..wire.names import parked_queue

__all__ = ["park"]

log = logger("aiorpc.attempts")

#: Seconds to wait until the broker confirms a parked message.
PARKING = 30.0
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
    reason: str | None = None,
    stack: str | None = None,
) -> bool:
    """
    Send a copy of a message of the queue *source* to its parked queue, and log *text*.

    Args:
        reason: why the message failed, for its headers; by default *text*.
        stack: the stack of the error, for its headers.

    Returns:
        Whether the broker has confirmed the copy, so that the caller settles *delivery*. Otherwise
        *delivery* is requeued or rejected here.
    """
    queue = parked_queue(source)
    copy = partial(parked, delivery.message, delivery.exchange, delivery.routing_key)
    try:
        with suppress(ConfigurationError):  # the queue exists with other arguments
            await host.transport.declare(queues=[queue])
        try:
            await _send(host, queue, copy(reason or text, stack))
        except UnserializableValueError:  # the headers do not fit into one frame
            await _send(host, queue, copy("", None))
    except ConnectionLost as error:
        log.warning("a message of queue %s is requeued, not parked: %s", source, error)
        delivery.requeue()
    except Exception as error:  # noqa: BLE001 - unsettled, it would use up the prefetch
        log.error(_NOT_PARKED, text, error)
        delivery.reject(requeue=False)
    else:
        log.error("%s", text)
        return True
    return False


async def _send(host: Host, queue: Queue, message: Message) -> None:
    outgoing = Outgoing(exchange="", routing_key=queue.name, message=message, mandatory=True)
    await host.transport.publish(outgoing, PARKING)

"""
Counts the attempts at a message; after ``MAX_ATTEMPTS``, parks it. Awaits only the parking.

If a message crashes its process, the broker delivers it to another process, which crashes too. A
quorum queue counts failed deliveries. A classic queue does not, it only sets ``redelivered``. So we
replace a redelivered message of a classic queue by a copy with a count: the broker confirms the
copy, we ack the original, and the copy runs. A message that is delivered once costs nothing.

When a host stops, it requeues messages. This does not count: on a classic queue, the first
redelivery does not count. Before RabbitMQ 4.3, a quorum queue counts a requeue, and drops a message
at its limit. So instead of a second requeue, and instead of any requeue of a copy, the host sends a
copy with the same count: the queue counts the deliveries of the copy from 0.

The broker may deliver a copy before it confirms the copy. The copy runs after its confirm and the
ack of the original. Otherwise a crash would make the broker redeliver the copy and the original.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial

from msgspec.structs import replace

from ..context import Deadline, new_id
from ..exceptions import AioRpcError, DeliveryUncertain
from ..extensions import Host
from ..logs import logger
from ..transports.base import REQUEUE, Delivery, Outgoing
from ..wire.copies import (
    attempts_of,
    copy_id_of,
    counted,
    counted_by_broker,
    failures_of,
    original_key_of,
)
from ..wire.message import Queue
from ..wire.names import parked_queue
from ..wire.parked import Parking
from .parking import park

__all__ = ["Attempts"]

log = logger("aiorpc.attempts")

#: The maximum number of remembered copies that are not worked on.
NEEDLESS = 1000


@dataclass(eq=False, repr=False)
class Attempts:
    """
    Counts the attempts at the messages of one queue.

    Args:
        work: starts the work on a delivery that is counted or needs no count.
        as_it_came: publish a copy with the exchange and routing key of its original. Otherwise
            publish it to this queue only, because an event also goes to other queues.
        why: returns the method of a delivery and its sensitive arguments, for a parked message.
        parked: settles a parked message; by default, the message is acked.
        rejected: called before a message is rejected, because it cannot be parked.
    """

    host: Host
    queue: Queue
    work: Callable[[Delivery], None]
    _: KW_ONLY
    why: Callable[[Delivery], Parking] = lambda delivery: Parking()
    as_it_came: bool = False
    parked: Callable[[Delivery, AioRpcError], None] | None = None
    rejected: Callable[..., None] | None = None
    #: Unconfirmed copies, by id. The value is the delivery of the copy, or None before it arrives.
    _unconfirmed: dict[str, Delivery | None] = field(default_factory=dict, init=False)
    #: Copies that did not replace their original, and may still arrive.
    _needless: deque[str] = field(default_factory=partial(deque, maxlen=NEEDLESS), init=False)

    def takes(self, delivery: Delivery, deadline: Deadline | None = None) -> bool:
        """
        Count or park a message that was delivered or sent before.

        Returns:
            True if the message was counted or parked, or *work* is called later; False: call *work*
            now.
        """
        message = delivery.message
        copy = copy_id_of(message)
        if copy is not None and copy in self._unconfirmed:
            self._unconfirmed[copy] = delivery
            return True
        if copy in self._needless and not delivery.redelivered:
            # Redelivered: another process had the copy, and may have acked the original for it.
            delivery.ack()
            return True
        if not delivery.redelivered or delivery.stale:
            return False
        least, most = failures_of(message, redelivered=True)
        if least and most >= self.host.settings.max_attempts:
            parking = self._park(delivery, most)
            self.host.spawn(parking, f"park a message of {self.queue.name}", settles=True)
        elif counted_by_broker(message) is None:
            self._send_copy(delivery, least, deadline, self.work)
        else:
            return False
        return True

    def requeue(self, delivery: Delivery, deadline: Deadline | None = None) -> None:
        """Requeue the message, because this host stops. This is not a failed attempt."""
        message = delivery.message
        counted = delivery.redelivered and counted_by_broker(message)
        if delivery.stale or (attempts_of(message) is None and not counted):
            delivery.requeue()
        else:
            failed, _ = failures_of(message, delivery.redelivered)
            self._send_copy(delivery, failed, deadline, REQUEUE)

    def _send_copy(
        self,
        delivery: Delivery,
        failed: int,
        deadline: Deadline | None,
        instead: Callable[[Delivery], None],
    ) -> None:
        """
        Send a copy of the message, and ack *delivery* when the copy is confirmed. If the copy
        cannot be sent, call *instead*.
        """
        copy = new_id()
        self._unconfirmed[copy] = None
        exchange, routing_key = "", self.queue.name
        if self.as_it_came:
            exchange, routing_key = delivery.exchange, delivery.routing_key
        delivery.answer(
            Outgoing(
                exchange=exchange,
                routing_key=routing_key,
                message=counted(
                    delivery.message,
                    delivery.exchange,
                    delivery.routing_key,
                    copy,
                    failed,
                    deadline,
                ),
                confirm=True,
                settled=partial(self._copy_sent, copy, delivery, instead),
            )
        )

    def _copy_sent(
        self,
        copy: str,
        delivery: Delivery,
        instead: Callable[[Delivery], None],
        error: AioRpcError | None,
    ) -> None:
        arrived = self._unconfirmed.pop(copy)
        if error is None:
            if arrived is not None and not arrived.stale:
                self.work(arrived)
            return
        if arrived is not None:
            arrived.ack()
        else:
            self._needless.append(copy)
        if delivery.stale:
            return  # the broker redelivers the original, which was not acked
        log.warning(
            "a message of queue %s is not counted, because a copy of it cannot be sent: %s",
            self.queue.name,
            error,
        )
        instead(delivery)

    async def _park(self, delivery: Delivery, failed: int) -> None:
        key = original_key_of(delivery.message) or delivery.routing_key
        text = (
            f"{key}: delivered {failed + 1} times; each time the process or its connection was "
            "lost before the ack; the message is {} and not run again (MAX_ATTEMPTS). It may have "
            "run in part or completely"
        )
        error = DeliveryUncertain(text.format("rejected, because it could not be parked,"))
        refuse = None if self.rejected is None else partial(self.rejected, error=error)
        text = text.format(f"parked in queue {parked_queue(self.queue.name).name}")
        why = replace(self.why(delivery), reason=f"DeliveryUncertain: {text}")
        if not await park(self.host, self.queue, delivery, text, why, failed=refuse):
            return
        if self.parked is None:
            delivery.ack()
        else:
            self.parked(delivery, DeliveryUncertain(text))

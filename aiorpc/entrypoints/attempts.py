"""
Poison: a message that ends the process which works on it comes back, and would end the next one.

A classic queue counts nothing, it only says ``redelivered``. So a message that is delivered again
is published again with a count (confirmed, then the original is acked), and the copy is what runs.
Past ``MAX_ATTEMPTS`` it is parked. A message that is delivered once pays nothing for this.

The first redelivery counts as nothing, since it may be the work of a drain, which gives back
messages in their place. A drain gives back a copy, which has a count, as a copy of the same count.

A copy may be delivered here before its confirm. It waits for that, and until the broker has the ack
of the original: were it to end us before, both would come back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ..context import Deadline, new_id
from ..exceptions import (
    AioRpcError,
    ConfigurationError,
    ConnectionLost,
    DeliveryUncertain,
    UnserializableValueError,
)
from ..extensions import Host
from ..transports.base import Delivery, Outgoing
from ..wire.copies import (
    attempts_of,
    copy_id_of,
    counted,
    counted_by_broker,
    original_key_of,
    parked,
)
from ..wire.names import parked_queue

__all__ = ["Attempts"]

log = logging.getLogger("aiorpc.attempts")

#: Seconds for the broker to take a message that is parked.
PARKING = 30.0


class Attempts:
    """
    Counts the attempts at the messages of one queue.

    Args:
        work: takes a delivery that need not be counted (any more).
        as_it_came: whether a copy is published as its original was, else straight to the queue: an
            event has more queues than ours.
        give_up: settles a message that was parked; by default it is acked.
    """

    def __init__(
        self,
        host: Host,
        queue: str,
        work: Callable[[Delivery], None],
        *,
        as_it_came: bool = False,
        give_up: Callable[[Delivery, AioRpcError], None] | None = None,
    ) -> None:
        self._host = host
        self._queue = queue
        self._work = work
        self._as_it_came = as_it_came
        self._give_up = give_up
        self._most = host.settings.max_attempts
        #: Copies that are not confirmed yet, by id, and their deliveries, if they came already.
        self._unconfirmed: dict[str, Delivery | None] = {}

    def takes(self, delivery: Delivery, deadline: Deadline | None = None) -> bool:
        """
        For a delivery that was delivered or sent before: count it, or park it. Whether it is taken
        care of; else it is to be worked on now.
        """
        message = delivery.message
        copy = copy_id_of(message)
        if copy is not None and copy in self._unconfirmed:
            self._unconfirmed[copy] = delivery
            return True
        if not delivery.redelivered or counted_by_broker(message) or delivery.stale:
            return False
        known = attempts_of(message)
        failed = 0 if known is None else known + 1
        if failed < self._most:
            self._send_again(delivery, failed, deadline, self._work)
        else:
            self._host.spawn(self._park(delivery, failed), f"park a message of {self._queue}")
        return True

    def give_back(self, delivery: Delivery, deadline: Deadline | None = None) -> None:
        """Let somebody else work on it: we stop. That is no failed attempt."""
        known = attempts_of(delivery.message)
        if known is None or delivery.stale:
            delivery.reject(requeue=True)
        else:
            self._send_again(delivery, known, deadline, _requeue)

    def _send_again(
        self,
        delivery: Delivery,
        failed: int,
        deadline: Deadline | None,
        instead: Callable[[Delivery], None],
    ) -> None:
        """
        Publish a copy in place of *delivery*, whose ack waits for the confirm. *instead* is done
        where it cannot be sent.
        """
        copy = new_id()
        self._unconfirmed[copy] = None
        exchange, routing_key = "", self._queue
        if self._as_it_came:
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
                settled=partial(self._sent_again, copy, delivery, instead),
            )
        )

    def _sent_again(
        self,
        copy: str,
        delivery: Delivery,
        instead: Callable[[Delivery], None],
        error: AioRpcError | None,
    ) -> None:
        arrived = self._unconfirmed.pop(copy)
        if isinstance(error, UnserializableValueError):  # it has what can be read, but not sent
            log.warning("a message of queue %s cannot be counted: %s", self._queue, error)
            instead(delivery)
        elif arrived is not None and not arrived.stale:
            self._work(arrived)

    async def _park(self, delivery: Delivery, failed: int) -> None:
        transport, queue = self._host.transport, parked_queue(self._queue)
        message = parked(delivery.message, delivery.exchange, delivery.routing_key)
        text = (
            f"{original_key_of(message)}: delivered {failed + 1} times, and each time the process "
            "that worked on it, or its connection, went away before that was known to be done; it "
            f"is parked in queue {queue.name} and not run again (MAX_ATTEMPTS). It may have run, "
            "in part or whole"
        )
        try:
            with suppress(ConfigurationError):  # it is there, with arguments of somebody's own
                await transport.declare(queues=[queue])
            await transport.publish(
                Outgoing(exchange="", routing_key=queue.name, message=message, mandatory=True),
                PARKING,
            )
        except ConnectionLost as error:
            log.warning("a message of queue %s is not parked yet: %s", self._queue, error)
            delivery.reject(requeue=True)
        except AioRpcError as error:
            log.error(
                "%s; but it cannot be parked (%s), and goes to the dead letters, if there are any",
                text,
                error,
            )
            delivery.reject(requeue=False)
        else:
            log.error("%s", text)
            if self._give_up is None:
                delivery.ack()
            else:
                self._give_up(delivery, DeliveryUncertain(text))


def _requeue(delivery: Delivery) -> None:
    delivery.reject(requeue=True)

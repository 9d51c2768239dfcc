"""
Runs messages again whose method failed, by a :class:`.Retry`; then parks them. Awaits the broker's
confirms of messages that it refused at first.

An attempt at once runs in this process. Before a delayed attempt, a copy of the message waits in a
queue of the broker, one for each target queue and delay, whose messages expire into the target. The
broker confirms the copy, then we ack the original. So a waiting message occupies no worker, and no
message is lost if this process ends at any moment; it may run once more than *retry* says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from ..config import hide
from ..exceptions import AioRpcError
from ..extensions import Host, Outcome
from ..logs import logger, named, one_line
from ..transports.base import Delivery, Outgoing
from ..wire.copies import original_key_of, retried
from ..wire.errors import reason_of
from ..wire.message import Queue
from ..wire.names import delay_queue, parked_queue
from ..wire.parked import Parking
from ..wire.queues import has_type, of_type
from .parking import PAUSES, park
from .retry import Retry

__all__ = ["Retries"]

log = logger("aiorpc.retries")

#: Seconds to wait until the broker confirms a copy that it refused at first.
CONFIRMING = 10.0


class Retries:
    """
    The retries of the messages of *queue*.

    Args:
        why: the method, ``service.method``, and its sensitive arguments.
        kind: the word for a message, for logs.
        work: starts the method with a message that was retried so many times.
        requeue: requeues a message because this host stops.
        dead_letter: reject a message after the last attempt, instead of parking it.
    """

    def __init__(
        self,
        host: Host,
        queue: Queue,
        retry: Retry,
        *,
        why: Parking,
        kind: str,
        work: Callable[[Delivery, int], None],
        requeue: Callable[[Delivery], None],
        dead_letter: bool,
    ) -> None:
        self._host = host
        self._queue = queue
        self._retry = retry
        self._why = why
        self._name = why.method
        self._kind = kind
        self._work = work
        self._requeue = requeue
        self._dead_letter = dead_letter
        self._delays = list[Queue]()

    async def declare(self) -> None:
        """
        Declare the queues for delayed messages, of the same type as the queue of the messages.

        Raises:
            ConfigurationError: the broker refuses them.
        """
        queue, delays, transport = self._queue, self._retry.delays, self._host.transport
        if delays and not has_type(queue):
            queue = of_type(queue, await transport.type_of(queue))
        self._delays = [delay_queue(queue, delay) for delay in delays]
        await transport.declare(queues=list({each.name: each for each in self._delays}.values()))

    def failed(self, delivery: Delivery, retries: int, outcome: Outcome) -> None:
        """Run the message again, now or later, or park it: it failed after so many *retries*."""
        if delivery.stale:
            return  # the broker redelivers it
        if retries < self._retry.immediate:
            self._work(delivery, retries + 1)
        elif retries < self._retry.attempts - 1:
            self._delay(delivery, retries + 1, outcome)
        else:
            self.give_up(delivery, reason_of(outcome), self._stack(outcome), retries + 1)

    def give_up(self, delivery: Delivery, reason: str, stack: str | None, attempts: int) -> None:
        """Park the message, or reject it, because it failed for good."""
        if self._dead_letter:
            log.error(
                "%s: %s %s failed %d times and is rejected, to the dead-letter exchange if queue "
                "%s has one: %s",
                *(self._name, self._kind, _key(delivery), attempts, self._queue.name, reason),
                extra=named(self._host.service_name, self._name.rpartition(".")[2]),
            )
            delivery.reject(requeue=False)
            return
        text = (
            f"{self._name}: {self._kind} {_key(delivery)} failed {attempts} times and is parked in "
            f"queue {parked_queue(self._queue.name).name}: {one_line(reason)}"
        )
        parking = self._park(delivery, text, reason, stack)
        self._host.spawn(parking, f"park a {self._kind}", settles=True)

    async def _park(self, delivery: Delivery, text: str, reason: str, stack: str | None) -> None:
        why = replace(self._why, reason=reason, stack=stack)
        try:
            parked = await park(self._host, self._queue, delivery, text, why)
        except asyncio.CancelledError:
            self._requeue(delivery)
            raise
        if parked:
            delivery.ack()

    def _delay(self, delivery: Delivery, retries: int, outcome: Outcome) -> None:
        queue = self._delays[retries - self._retry.immediate - 1]
        copy = Outgoing(
            exchange="",
            routing_key=queue.name,
            message=retried(delivery.message, delivery.exchange, delivery.routing_key, retries),
            mandatory=True,
        )
        copy.settled = partial(self._delayed, delivery, copy, retries, outcome)
        delivery.answer(copy)

    def _delayed(
        self,
        delivery: Delivery,
        copy: Outgoing,
        retries: int,
        outcome: Outcome,
        error: AioRpcError | None,
    ) -> None:
        if error is None:
            delay = self._retry.delays[retries - self._retry.immediate - 1] / 1000
            log.info(
                "%s: %s %s is retried in %g s (attempt %d of %d)",
                *(self._name, self._kind, _key(delivery), delay),
                *(retries + 1, self._retry.attempts),
            )
        elif not delivery.stale:
            log.warning("%s: a message cannot wait for its retry: %s", self._name, error)
            again = self._delay_apart(delivery, copy, retries, outcome)
            self._host.spawn(again, f"retry a {self._kind}", settles=True)

    async def _delay_apart(
        self, delivery: Delivery, copy: Outgoing, retries: int, outcome: Outcome
    ) -> None:
        """Declare the delay queue again, and send *copy* to it; if the broker refuses, give up."""
        transport = self._host.transport
        refused: AioRpcError | None = None
        try:
            for pause in PAUSES:
                await asyncio.sleep(pause)
                outgoing = Outgoing(
                    exchange="", routing_key=copy.routing_key, message=copy.message, mandatory=True
                )
                try:
                    await self.declare()
                    await transport.publish(outgoing, CONFIRMING)
                except AioRpcError as error:
                    refused = error
                else:
                    delivery.ack()
                    return
        except asyncio.CancelledError:
            self._requeue(delivery)
            raise
        reason = f"{reason_of(outcome)} (the broker refuses its delayed retry: {refused})"
        self.give_up(delivery, reason, self._stack(outcome), retries)

    def _stack(self, outcome: Outcome) -> str | None:
        from ..tracebacks import shortened  # imports sysconfig: only for the first parked message

        if outcome.error is None:
            return None
        text: str = hide(shortened(outcome.error, self._host.service_cls), outcome.secrets)
        return text


def _key(delivery: Delivery) -> str:
    """Return the routing key with which the message was sent first."""
    return original_key_of(delivery.message) or delivery.routing_key

"""
``@consume`` for messages of any queue, and the base class of entrypoints that consume a queue.
Awaits only the subscription.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from ..declarations import decorator_of
from ..exceptions import ConfigurationError, IncorrectSignature
from ..extensions import Ending, Entrypoint, Host, Outcome
from ..logs import logger
from ..transports.base import Delivery
from ..wire.arguments import Arguments
from ..wire.copies import identity_of, was_resent
from ..wire.message import Queue, checked
from .arguments import arguments_of
from .attempts import Attempts
from .decompression import decompresses

__all__ = ["Consumer", "QueueConsumer", "consume"]

log = logger("aiorpc.consumer")


@dataclass(kw_only=True, eq=False, repr=False)
class QueueConsumer(Entrypoint):
    """
    Starts a method with the payload of each message of one queue. Subclasses choose the queue.

    The entrypoint checks and converts the payload by the annotation of the method's argument,
    unless *validate* is false. It acks a message after the method returned or raised. It rejects a
    message that it cannot read, or whose payload does not fit the annotation, and logs one line. A
    rejected message goes to the dead-letter exchange, if the queue has one.

    With *requeue_on_error*, the entrypoint requeues a message when the method raises: at once and
    without limit, as in Nameko. A quorum queue counts these requeues, and has a delivery limit.
    Without *requeue_on_error*, a message that crashed MAX_ATTEMPTS processes is parked in the queue
    ``<queue>.parked``.
    """

    #: The word for a message of this entrypoint in logs and in :attr:`Call.kind`.
    kind = "message"

    #: A field of the subclasses, in Nameko's position.
    requeue_on_error = False

    validate: bool = True

    def queue_of(self, host: Host) -> Queue:
        """Return the queue to consume, which is declared with its exchange and binding."""
        raise NotImplementedError

    def queue_name(self, host: Host) -> str:
        return self.queue_of(host).name

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        arguments = self._arguments(host)
        queue = self.queue_of(host)
        intake = _Intake(self, host, queue.name, arguments)
        prefetch = host.settings.prefetch
        requeue = intake.attempts.requeue
        async with await host.transport.subscribe(
            queue, intake.received, prefetch=prefetch, requeue=requeue
        ):
            yield

    def _arguments(self, host: Host) -> Arguments:
        """
        Raises:
            ConfigurationError: the method cannot take a payload.
        """
        arguments = arguments_of(self, host, validate=self.validate)
        try:
            arguments.require_positional(1)
        except IncorrectSignature as exc:
            name = self.method_name
            raise ConfigurationError(
                f"{host.service_name}.{name} cannot take the payload of its {self.kind}s: {exc}. "
                f"Give it one argument for the payload: `def {name}(self, payload)`. If a "
                "decorator adds arguments, pass validate=False to the entrypoint"
            ) from None
        return arguments


class _Taken(msgspec.Struct, eq=False):
    """A message that was submitted to the host and is not settled yet."""

    delivery: Delivery

    @property
    def identity(self) -> tuple[Any, ...]:
        delivery = self.delivery
        return identity_of(delivery.message, delivery.exchange, delivery.routing_key)


class _Intake:
    """
    Receives the messages of one entrypoint.

    If the broker redelivers a message that still runs here, the message does not run again: its
    worker settles the new delivery. The broker redelivers after a lost connection, or if the worker
    takes longer than the broker's ``consumer_timeout``.
    """

    def __init__(
        self, entrypoint: QueueConsumer, host: Host, queue: str, arguments: Arguments
    ) -> None:
        self.entrypoint = entrypoint
        self.host = host
        self.queue = queue
        self.arguments = arguments
        self.attempts = Attempts(host, queue, self._work)
        #: In the order of delivery, so messages of a lost connection come first.
        self._taken: dict[_Taken, None] = {}

    def received(self, delivery: Delivery) -> None:
        if delivery.redelivered or was_resent(delivery.message):
            if self._still_runs(delivery):
                return
            if not self.entrypoint.requeue_on_error and self.attempts.takes(delivery):
                return
        self._work(delivery)

    def _still_runs(self, delivery: Delivery) -> bool:
        """
        Return whether the message of *delivery* runs here. If so, its worker settles *delivery*.

        Only a message with a stale delivery can be redelivered. Messages with equal contents are
        interchangeable: each redelivery joins one worker.
        """
        identity = None
        for taken in self._taken:
            if not taken.delivery.stale:
                return False  # the later ones are not stale either
            identity = identity or _Taken(delivery).identity
            if taken.identity == identity:
                del self._taken[taken]
                taken.delivery = delivery
                self._taken[taken] = None
                return True
        return False

    def _work(self, delivery: Delivery) -> None:
        host, entrypoint = self.host, self.entrypoint
        if decompresses(host, delivery, partial(self._work, delivery)):
            return
        try:
            payload, context = host.wire.payloads.decode(delivery.message)
            args, kwargs = self.arguments.bind((payload,), {})
        except Exception as exc:  # noqa: BLE001 - a body can be anything
            log.error(
                "%s.%s: %s %s of queue %s cannot be read and is rejected, to the dead-letter "
                "exchange if the queue has one: %s",
                host.service_name,
                entrypoint.method_name,
                entrypoint.kind,
                delivery.routing_key,
                self.queue,
                exc,
            )
            delivery.reject(requeue=False)
            return
        again = delivery.redelivered or was_resent(delivery.message)
        call = host.new_call(entrypoint, args, kwargs, context, entrypoint.kind, again)
        taken = _Taken(delivery)
        self._taken[taken] = None
        host.submit(entrypoint, call, partial(self._settle, taken))

    def _settle(self, taken: _Taken, outcome: Outcome) -> None:
        self._taken.pop(taken, None)
        delivery = taken.delivery
        if outcome.ending is Ending.ABANDONED:
            self.attempts.requeue(delivery)
        elif self.entrypoint.requeue_on_error and outcome.ending is not Ending.RETURNED:
            delivery.reject(requeue=True)
        else:
            delivery.ack()


@dataclass(eq=False, repr=False)
class Consumer(QueueConsumer):
    """Starts a method with the payload of each message of *queue*; see :class:`QueueConsumer`."""

    queue: Queue
    requeue_on_error: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checked("consume()", self.queue, Queue)

    def queue_of(self, host: Host) -> Queue:
        return self.queue


consume = decorator_of(Consumer)

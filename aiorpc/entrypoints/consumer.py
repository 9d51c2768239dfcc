"""
``@consume`` for messages of any queue, and the base class of entrypoints that consume a queue.
Awaits only the subscription.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from ..config import hide
from ..context import EMPTY, NO_CONTEXT
from ..declarations import decorator_of
from ..exceptions import ConfigurationError, IncorrectSignature
from ..extensions import Ending, Entrypoint, Host, Outcome
from ..logs import logger, named
from ..transports.base import Delivery
from ..wire.arguments import Arguments
from ..wire.copies import has_id, identity_of, retries_of, was_resent
from ..wire.errors import reason_of, text_of
from ..wire.message import Queue, checked
from ..wire.parked import Parking
from .arguments import arguments_of
from .attempts import Attempts
from .decompression import decompresses
from .retries import Retries
from .retry import Retry

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

    With *retry*, a message whose method raises runs again, and is parked after the last attempt; so
    is a message that the entrypoint cannot read. An error in *expected_exceptions* is not retried.

    With *requeue_on_error*, the entrypoint requeues a message when the method raises, without
    limit, as in Nameko. The first requeue is at once. Before the next, the message waits in this
    process: from 0.1 s to 10 s, longer after each failure in a row. A quorum queue counts these
    requeues, and has a delivery limit. Without *requeue_on_error*, a message that crashed
    MAX_ATTEMPTS processes is parked in the queue ``<queue>.parked``.

    With *max_concurrency*, at most this number of runs take place at a time in each process, and
    other messages wait at the broker.
    """

    #: The word for a message of this entrypoint in logs and in :attr:`Call.kind`.
    kind = "message"

    #: A field of the subclasses, in Nameko's position.
    requeue_on_error = False
    #: A field of the subclass for queues of any kind.
    dead_letter = False

    validate: bool = True
    retry: Retry | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_waiting is not None:
            raise ConfigurationError(
                f"max_waiting is an option of @rpc: {self.kind}s cannot be refused, and wait at "
                "the broker. Leave max_waiting out"
            )
        if self.retry is None:
            return
        if not isinstance(self.retry, Retry):
            raise ConfigurationError(
                f"retry must be an aiorpc.Retry, got {type(self.retry).__name__}: write "
                "retry=Retry(immediate=1, delays=(1, 10))"
            )
        if self.requeue_on_error:
            raise ConfigurationError(
                "retry and requeue_on_error exclude each other: retry parks a message after its "
                "last attempt, and requeue_on_error requeues it without limit. Choose one"
            )

    def queue_of(self, host: Host) -> Queue:
        """Return the queue to consume, which is declared with its exchange and binding."""
        raise NotImplementedError

    def queue_name(self, host: Host) -> str:
        return self.queue_of(host).name

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        arguments = self._arguments(host)
        queue = self.queue_of(host)
        intake = _Intake(self, host, queue, arguments)
        if intake.retries is not None:
            await intake.retries.declare()
        prefetch = host.settings.prefetch
        if self.max_concurrency is not None and not self.requeue_on_error:
            # Messages wait at the broker, where another instance may take them. (A failed message
            # waits here before its requeue, and must not keep others away.)
            prefetch = min(prefetch, self.max_concurrency)
        requeue = intake.attempts.requeue
        try:
            async with await host.transport.subscribe(
                queue, intake.received, prefetch=prefetch, requeue=requeue
            ):
                yield
        finally:
            intake.requeues.stop()

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


#: Messages whose handler ended before their redelivery, at most.
_ENDED = 256


class _Taken(msgspec.Struct, eq=False):
    """A message that was submitted to the host and is not settled yet."""

    delivery: Delivery
    #: How often the message was retried.
    retries: int = 0

    @property
    def identity(self) -> tuple[Any, ...]:
        delivery = self.delivery
        return identity_of(delivery.message, delivery.exchange, delivery.routing_key)


class _Intake:
    """
    Receives the messages of one entrypoint.

    If the broker redelivers a message that runs here, or ran here, the message does not run again:
    its worker settles the new delivery, or it is acked at once. The broker redelivers after a lost
    connection, or if the worker takes longer than the broker's ``consumer_timeout``.
    """

    def __init__(
        self, entrypoint: QueueConsumer, host: Host, queue: Queue, arguments: Arguments
    ) -> None:
        self.entrypoint = entrypoint
        self.host = host
        self.queue = queue.name
        self.arguments = arguments
        name = f"{host.service_name}.{entrypoint.method_name}"
        paths: Sequence[Sequence[str]] = ()
        if entrypoint.sensitive_arguments:
            from .sensitive import paths_in_payload  # few handlers have some

            paths = paths_in_payload(entrypoint, host)
        why = Parking(method=name, sensitive=paths)
        self.attempts = Attempts(host, queue, self._work, why=lambda _: why)
        self.requeues = Requeues()
        self.retries: Retries | None = None
        if entrypoint.retry is not None:
            self.retries = Retries(
                host,
                queue,
                entrypoint.retry,
                why=why,
                kind=entrypoint.kind,
                work=self._work,
                requeue=self.attempts.requeue,
                dead_letter=entrypoint.dead_letter,
            )
        #: In the order of delivery, so messages of a lost connection come first.
        self._taken: dict[_Taken, None] = {}
        #: The identities of messages that the broker may deliver again, although their handler
        #: ended: perhaps the original of a counted copy.
        self._ended: deque[tuple[Any, ...]] = deque(maxlen=_ENDED)

    def received(self, delivery: Delivery) -> None:
        if delivery.redelivered or was_resent(delivery.message):
            if self._still_runs(delivery):
                return
            if self._ended and self._has_ended(delivery):
                delivery.ack()
                return
            if not self.entrypoint.requeue_on_error and self.attempts.takes(delivery):
                return
        self._work(delivery)

    def _still_runs(self, delivery: Delivery) -> bool:
        """
        Return whether the message of *delivery* runs here. If so, its worker settles *delivery*.

        Messages with equal contents are interchangeable: each redelivery joins one worker.
        """
        identity = None
        for taken in self._taken:
            if not taken.delivery.may_return:
                return False  # nor may the later ones
            identity = identity or _Taken(delivery).identity
            if taken.identity == identity:
                del self._taken[taken]
                taken.delivery.ack()
                taken.delivery = delivery
                self._taken[taken] = None
                return True
        return False

    def _has_ended(self, delivery: Delivery) -> bool:
        """Return whether the handler of this message ended here. True once for each message."""
        try:
            self._ended.remove(_hashed(delivery))
        except ValueError:
            return False
        return True

    def _work(self, delivery: Delivery, retries: int | None = None) -> None:
        host, entrypoint = self.host, self.entrypoint
        if decompresses(host, delivery, partial(self._work, delivery, retries)):
            return
        again = delivery.redelivered or was_resent(delivery.message)
        origin = delivery.exchange, delivery.routing_key, delivery.message
        args: tuple[Any, ...] = ()
        context = NO_CONTEXT
        try:
            payload, context = host.wire.payloads.decode(delivery.message)
            args = (payload,)
            args, kwargs = self.arguments.bind(args, {})
        except Exception as exc:  # noqa: BLE001 - a body can be anything
            call = host.new_call(entrypoint, args, EMPTY, context, entrypoint.kind, again, *origin)
            outcome = Outcome(Ending.REFUSED, error=exc)
            host.refuse(call, outcome, partial(self._refuse, delivery))
            return
        call = host.new_call(entrypoint, args, kwargs, context, entrypoint.kind, again, *origin)
        taken = _Taken(delivery)
        if self.retries is not None:
            taken.retries = retries_of(delivery.message) if retries is None else retries
        self._taken[taken] = None
        host.submit(entrypoint, call, partial(self._settle, taken))

    def _refuse(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.error is None:  # a middleware handled the message
            self._ack(delivery)
            return
        name = f"{self.host.service_name}.{self.entrypoint.method_name}"
        if self.retries is not None and not self.entrypoint.dead_letter:
            reason = f"it cannot be read: {reason_of(outcome)}"
            self.retries.give_up(delivery, reason, None, 1)
            return
        text = hide(text_of(outcome.error), outcome.secrets)
        log.error(
            "%s: %s %s of queue %s cannot be read and is rejected, to the dead-letter exchange if "
            "the queue has one: %s",
            *(name, self.entrypoint.kind, delivery.routing_key, self.queue, text),
            extra=named(self.host.service_name, self.entrypoint.method_name),
        )
        delivery.reject(requeue=False)

    def _settle(self, taken: _Taken, outcome: Outcome) -> None:
        self._taken.pop(taken, None)
        delivery, entrypoint = taken.delivery, self.entrypoint
        if outcome.ending is Ending.ABANDONED:
            self.attempts.requeue(delivery)
        elif outcome.ending is Ending.RETURNED:
            self.requeues.reset()
            self._ack(delivery)
        elif entrypoint.requeue_on_error:
            self.requeues.add(delivery)
        elif isinstance(outcome.error, entrypoint.expected_exceptions):
            self._ack(delivery)
        elif self.retries is not None:
            self.retries.failed(delivery, taken.retries, outcome)
        elif entrypoint.dead_letter:
            delivery.reject(requeue=False)
        else:
            self._ack(delivery)

    def _ack(self, delivery: Delivery) -> None:
        again = delivery.may_return or delivery.redelivered or was_resent(delivery.message)
        if again and has_id(delivery.message):
            self._ended.append(_hashed(delivery))
        delivery.ack()


def _hashed(delivery: Delivery) -> tuple[Any, ...]:
    """Return the identity of a message, with a hash in place of its body, which may be large."""
    body, *others = _Taken(delivery).identity
    return (len(body), hash(body), *others)


class Requeues:
    """Requeues messages that failed: each for the first time at once, and later after a pause."""

    #: Seconds.
    SHORTEST, LONGEST = 0.1, 10.0

    def __init__(self) -> None:
        self._in_a_row = 0
        self._waiting: dict[Delivery, asyncio.TimerHandle] = {}
        self._stopped = False

    def reset(self) -> None:
        """Start with the shortest pause again, because a message succeeded."""
        self._in_a_row = 0

    def add(self, delivery: Delivery) -> None:
        """Requeue *delivery*, whose method raised."""
        if self._stopped or not delivery.redelivered:
            delivery.reject(requeue=True)
            return
        pause = min(self.SHORTEST * 2 ** min(self._in_a_row, 10), self.LONGEST)
        self._in_a_row += 1
        loop = asyncio.get_running_loop()
        self._waiting[delivery] = loop.call_later(pause, self._requeue, delivery)

    def stop(self) -> None:
        """Requeue all messages that wait, and from now on each at once."""
        self._stopped = True
        for delivery, timer in list(self._waiting.items()):
            timer.cancel()
            self._requeue(delivery)

    def _requeue(self, delivery: Delivery) -> None:
        del self._waiting[delivery]
        delivery.reject(requeue=True)


@dataclass(eq=False, repr=False)
class Consumer(QueueConsumer):
    """
    Starts a method with the payload of each message of *queue*; see :class:`QueueConsumer`.

    With *dead_letter*, a message that cannot be read or fails for good is rejected, not parked. It
    goes to the dead-letter exchange of the queue. If the queue has none, the broker deletes it.
    """

    queue: Queue
    requeue_on_error: bool = False
    dead_letter: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checked("consume()", self.queue, Queue)

    def queue_of(self, host: Host) -> Queue:
        return self.queue


consume = decorator_of(Consumer)

"""Messages of any queue: ``@consume``, and what every entrypoint that consumes a queue shares."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from ..call import Call
from ..exceptions import ConfigurationError
from ..extensions import Ending, Entrypoint, Host, Outcome, declare
from ..transports.base import Delivery
from ..wire.message import Queue

__all__ = ["Consumer", "QueueConsumer", "consume"]

log = logging.getLogger("aiorpc.consumer")

F = TypeVar("F", bound=Callable[..., Any])


class QueueConsumer(Entrypoint):
    """
    Fires a method with the payload of each message of one queue. A kind says which queue.

    A message is acked when the method has ended, whether it returned or raised; what cannot be
    read is acked with one line in the log. With *requeue_on_error* a message goes back when the
    method raises: at once and without end, as in Nameko.
    """

    #: What the log and :attr:`Call.kind` call what is consumed.
    kind = "message"

    def __init__(
        self,
        *,
        requeue_on_error: bool = False,
        expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
        sensitive_arguments: str | Sequence[str] = (),
    ) -> None:
        super().__init__(
            expected_exceptions=expected_exceptions, sensitive_arguments=sensitive_arguments
        )
        self.requeue_on_error = requeue_on_error

    def queue_of(self, host: Host) -> Queue:
        """The queue to consume; it is declared with its exchange and binding."""
        raise NotImplementedError

    def queue_name(self, host: Host) -> str:
        return self.queue_of(host).name

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        subscription = await host.transport.subscribe(
            self.queue_of(host), partial(self._received, host), prefetch=host.settings.prefetch
        )
        try:
            yield
        finally:
            await subscription.cancel()

    def _received(self, host: Host, delivery: Delivery) -> None:
        try:
            payload, context = host.wire.decode_payload(delivery.message)
        except Exception as exc:  # noqa: BLE001 - nobody can be told but the log
            log.error(
                "%s.%s: %s %s of queue %s cannot be read and is dropped: %s",
                host.service_name,
                self.method_name,
                self.kind,
                delivery.routing_key,
                self.queue_name(host),
                exc,
            )
            delivery.ack()
            return
        call = Call(
            host.service_name,
            self.method_name,
            (payload,),
            {},
            context,
            self.kind,
            delivery.redelivered,
        )
        host.submit(self, call, partial(self._settle, delivery))

    def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        failed = outcome.ending is not Ending.RETURNED
        if outcome.ending is Ending.ABANDONED or (self.requeue_on_error and failed):
            delivery.reject(requeue=True)
        else:
            delivery.ack()


class Consumer(QueueConsumer):
    """Fires a method with the payload of each message of *queue*; see :class:`QueueConsumer`."""

    def __init__(self, queue: Queue, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(queue, Queue):
            raise ConfigurationError(
                f"consume() takes an aiorpc.Queue, got {type(queue).__name__}: write "
                '@consume(Queue("name", exchange=Exchange("name"), routing_key="key"))'
            )
        self.queue = queue

    def queue_of(self, host: Host) -> Queue:
        return self.queue


def consume(
    queue: Queue,
    *,
    requeue_on_error: bool = False,
    expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    sensitive_arguments: str | Sequence[str] = (),
) -> Callable[[F], F]:
    """Let a method take the messages of *queue*; see :class:`QueueConsumer`."""
    entrypoint = Consumer(
        queue,
        requeue_on_error=requeue_on_error,
        expected_exceptions=expected_exceptions,
        sensitive_arguments=sensitive_arguments,
    )
    return lambda method: declare(entrypoint, method)

"""Events of other services: ``@event_handler``. Awaits nothing; ``consumer`` does."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Literal

from ..exceptions import ConfigurationError
from ..extensions import Host, decorator_of
from ..wire.message import Queue
from ..wire.names import event_exchange, event_queue
from .consumer import QueueConsumer

__all__ = ["BROADCAST", "SERVICE_POOL", "SINGLETON", "EventHandler", "event_handler"]

HandlerType = Literal["service_pool", "singleton", "broadcast"]
#: For each handler method, one instance of the service gets an event.
SERVICE_POOL: Literal["service_pool"] = "service_pool"
#: One handler of all services gets an event.
SINGLETON: Literal["singleton"] = "singleton"
#: Every instance of the service gets an event.
BROADCAST: Literal["broadcast"] = "broadcast"


class EventHandler(QueueConsumer):
    """
    Fires a method with the payload of each event that *source_service* dispatches; see
    :class:`~aiorpc.entrypoints.consumer.QueueConsumer` for when it is acked.

    Args:
        event_type: the binding key, so ``orders.*`` and ``#`` match more than one type.
        reliable_delivery: the broker keeps events while no handler runs. A broadcast handler needs
            an identity for that which stays the same when its process restarts: override
            ``broadcast_identifier``.
        requeue_on_error: requeue an event when the method raises: at once and without limit, as in
            Nameko.
    """

    kind = "event"

    def __init__(
        self,
        source_service: str,
        event_type: str,
        handler_type: HandlerType = SERVICE_POOL,
        *,
        reliable_delivery: bool = True,
        requeue_on_error: bool = False,
        expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
        sensitive_arguments: str | Sequence[str] = (),
    ) -> None:
        super().__init__(
            requeue_on_error=requeue_on_error,
            expected_exceptions=expected_exceptions,
            sensitive_arguments=sensitive_arguments,
        )
        if handler_type not in (SERVICE_POOL, SINGLETON, BROADCAST):
            raise ConfigurationError(
                f"handler_type must be SERVICE_POOL, SINGLETON or BROADCAST, got {handler_type!r}"
            )
        if (
            handler_type == BROADCAST
            and reliable_delivery
            and type(self).broadcast_identifier is EventHandler.broadcast_identifier
        ):
            raise ConfigurationError(
                "a broadcast handler with reliable_delivery needs an identity that stays the same "
                "when its process restarts: pass reliable_delivery=False, or override "
                "broadcast_identifier"
            )
        self.source_service = source_service
        self.event_type = event_type
        self.handler_type = handler_type
        self.reliable_delivery = reliable_delivery
        self._instance: str | None = None

    @property
    def broadcast_identifier(self) -> str:
        """The identity of this instance of the service; random, unless overridden."""
        return uuid.uuid4().hex

    def queue_of(self, host: Host) -> Queue:
        if self.handler_type == BROADCAST and self._instance is None:
            self._instance = self.broadcast_identifier  # read once: it may differ each time
        settings = host.settings
        return event_queue(
            event_exchange(
                self.source_service,
                auto_delete=settings.auto_delete_event_exchanges,
                passive=not settings.declare_event_exchanges,
            ),
            self.source_service,
            self.event_type,
            listener=(
                None
                if self.handler_type == SINGLETON
                else f"{host.service_name}.{self.method_name}"
            ),
            instance=self._instance,
            reliable=self.reliable_delivery,
        )


event_handler = decorator_of(EventHandler)

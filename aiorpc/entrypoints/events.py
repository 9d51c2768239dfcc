"""``@event_handler`` for events of services. Awaits nothing; its base class does."""

from __future__ import annotations

import uuid
from dataclasses import InitVar, dataclass, field
from typing import Literal

from ..checks import NAME, SHORT_TEXT, check
from ..declarations import decorator_of
from ..exceptions import ConfigurationError
from ..extensions import Host
from ..wire.message import Queue
from ..wire.names import event_exchange, event_queue
from ..wire.queues import configured
from .consumer import QueueConsumer

__all__ = ["BROADCAST", "SERVICE_POOL", "SINGLETON", "EventHandler", "event_handler"]

HandlerType = Literal["service_pool", "singleton", "broadcast"]
#: For each handler method, one instance of the service gets the event.
SERVICE_POOL: Literal["service_pool"] = "service_pool"
#: One handler of all services gets the event.
SINGLETON: Literal["singleton"] = "singleton"
#: Every instance of the service gets the event.
BROADCAST: Literal["broadcast"] = "broadcast"


_KINDS = {"source_service": NAME, "event_type": SHORT_TEXT}


@dataclass(eq=False, repr=False)
class EventHandler(QueueConsumer):
    """
    Starts a method with the payload of each event that *source_service* dispatches. See
    :class:`~aiorpc.entrypoints.consumer.QueueConsumer` for acks.

    Args:
        event_type: the binding key; ``orders.*`` and ``#`` match several types.
        reliable_delivery: the broker keeps events while no handler runs. A broadcast handler then
            needs the same identity after a restart: *broadcast_identifier*.
        broadcast_identifier: the identity of this instance of the service, for a broadcast handler;
            random by default. A subclass may define a property of this name instead, as in Nameko.
        requeue_on_error: requeue an event when the method raises, without limit, as in Nameko.
        retry: run an event again when the method raises, and park it after the last attempt.
        validate: check and convert the payload by its annotation (``VALIDATE_ARGUMENTS``).
    """

    kind = "event"

    source_service: str
    event_type: str
    handler_type: HandlerType = SERVICE_POOL
    reliable_delivery: bool = True
    requeue_on_error: bool = False
    broadcast_identifier: InitVar[str | None] = None
    _instance: str | None = field(default=None, init=False)

    def __post_init__(self, broadcast_identifier: str | None) -> None:
        super().__post_init__()
        if not isinstance(broadcast_identifier, str | None):
            raise ConfigurationError(
                "broadcast_identifier is text that names this instance of the service, such as its "
                f"host name, not a value of type {type(broadcast_identifier).__name__}"
            )
        self._instance = broadcast_identifier if self.handler_type == BROADCAST else None
        given = {"source_service": self.source_service, "event_type": self.event_type}
        check('event_handler("service", "event_type")', given, _KINDS)
        if self.handler_type not in (SERVICE_POOL, SINGLETON, BROADCAST):
            raise ConfigurationError(
                "handler_type must be SERVICE_POOL, SINGLETON or BROADCAST, got "
                f"{self.handler_type!r}"
            )
        if (
            self.handler_type == BROADCAST
            and self.reliable_delivery
            and self._instance is None
            and getattr(type(self), "broadcast_identifier", None) is None
        ):
            raise ConfigurationError(
                "a broadcast handler with reliable_delivery must keep its identity after a restart "
                "of its process: pass reliable_delivery=False, or a "
                "broadcast_identifier"
            )

    def queue_of(self, host: Host) -> Queue:
        if self.handler_type == BROADCAST and self._instance is None:
            # Read once: a property may differ each time.
            self._instance = getattr(self, "broadcast_identifier", None) or uuid.uuid4().hex
        settings = host.settings
        queue = event_queue(
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
        return configured(queue, settings.queue_options)


event_handler = decorator_of(EventHandler)

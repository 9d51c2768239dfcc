"""Sends the events of a service: ``dispatch = EventDispatcher()``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from ..context import current
from ..exceptions import Unroutable
from ..extensions import DependencyProvider, Host, WorkerContext
from ..transports.base import Outgoing
from ..wire.names import event_exchange

__all__ = ["Dispatch", "EventDispatcher"]

Dispatch: TypeAlias = Callable[[str, Any], Coroutine[Any, Any, None]]


class EventDispatcher(DependencyProvider[Dispatch]):
    """
    ``await self.dispatch("something_happened", {"id": 1})`` sends an event of this service, with
    the context data and the call ids of the call that runs. It returns when the broker has it; an
    event that nobody handles is dropped, unless ``mandatory``.

    Raises:
        ConnectionLost: the broker did not confirm it within the call's deadline, or within
            CLEANUP_TIMEOUT where less is left: an event does not end with the call that sends it.
        Unroutable: it was mandatory, and nobody handles it.
        UnserializableValueError: the payload cannot be put on the wire.
    """

    def __init__(self, *, mandatory: bool = False) -> None:
        self._mandatory = mandatory

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        settings = host.settings
        exchange = event_exchange(
            host.service_name, auto_delete=settings.auto_delete_event_exchanges
        )
        if settings.declare_event_exchanges:
            await host.transport.declare([exchange])

        async def dispatch(event_type: str, payload: Any = None) -> None:
            context = current.get()
            deadline = context.deadline
            event = Outgoing(
                exchange=exchange.name,
                routing_key=event_type,
                message=host.wire.payloads.encode(payload, context),
                mandatory=self._mandatory,
                again=lambda message: message,
            )
            # Also of use when the deadline has passed: what a method sends while it cleans up.
            bound = settings.rpc_timeout
            if deadline is not None:
                bound = deadline.remaining(least=settings.cleanup_timeout)
            try:
                await host.transport.publish(event, bound)
            except Unroutable:
                # One that is deleted went with its last handler: nobody handles the event.
                if self._mandatory or not exchange.auto_delete:
                    raise

        self._dispatch: Dispatch = dispatch
        yield

    def value(self, worker_ctx: WorkerContext) -> Dispatch:
        return self._dispatch

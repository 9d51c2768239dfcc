"""``EventDispatcher`` sends the events of a service. Stands on ``extensions`` and ``calling``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from ..calling.publishing import Events
from ..context import current
from ..extensions import DependencyProvider, Host, WorkerContext

__all__ = ["EventDispatcher", "ServiceDispatch"]


class ServiceDispatch(Protocol):
    """The function that an :class:`EventDispatcher` gives to a service."""

    async def __call__(self, event_type: str, payload: Any = None) -> None: ...


class EventDispatcher(DependencyProvider[ServiceDispatch]):
    """
    Sends events of the service: ``await self.dispatch("something_happened", {"id": 1})``.

    An event carries the context data and the call ids of the call that runs. ``dispatch`` returns
    when the broker has confirmed the event. An event that nobody handles is discarded, unless
    ``mandatory``.

    Raises:
        ConnectionLost: the broker did not confirm it within the call's deadline. A call that has
            less time left than CLEANUP_TIMEOUT waits for CLEANUP_TIMEOUT.
        Unroutable: it was mandatory, and nobody handles it.
        Overloaded: the queue of a handler is full, and refused it.
        UnserializableValueError: the payload cannot be put on the wire.
    """

    def __init__(self, *, mandatory: bool = False) -> None:
        self._mandatory = mandatory

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        service = host.service_name
        events = Events(host.transport, host.wire, host.settings)
        await events.declare(service)

        async def dispatch(event_type: str, payload: Any = None) -> None:
            await events.dispatch(
                service, event_type, payload, current.get(), mandatory=self._mandatory
            )

        self._dispatch: ServiceDispatch = dispatch
        yield

    def value(self, worker_ctx: WorkerContext) -> ServiceDispatch:
        return self._dispatch

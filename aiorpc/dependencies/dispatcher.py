"""``EventDispatcher`` sends the events of a service. Imports ``extensions`` and ``calling``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Protocol, Unpack

from .. import from_thread
from ..call import Middleware
from ..calling.message_options import MessageKeywords, MessageOptions
from ..calling.publishing import Events
from ..checks import check_middleware
from ..context import current
from ..extensions import DependencyProvider, Host, WorkerContext

__all__ = ["EventDispatcher", "ServiceDispatch"]


class ServiceDispatch(Protocol):
    """The function that an :class:`EventDispatcher` gives to a service."""

    async def __call__(
        self, event_type: str, payload: Any = None, **options: Unpack[MessageKeywords]
    ) -> None: ...


class EventDispatcher(DependencyProvider[ServiceDispatch]):
    """
    Sends events of the service: ``await self.dispatch("something_happened", {"id": 1})``.

    An event carries the context data and the call ids of the running call. ``dispatch`` returns
    when the broker has confirmed the event. The broker discards an event that no service handles;
    with ``mandatory=True``, ``dispatch`` raises Unroutable instead.

    ``EventDispatcher(...)`` sets options for all events, and ``dispatch(..., priority=5)`` for one:
    see :class:`~aiorpc.calling.message_options.MessageKeywords`. *middleware* wraps each dispatch,
    inside the middleware of the configuration.

    Raises:
        ConnectionLost: the broker did not confirm the event before the call's deadline. A call with
            less time left than CLEANUP_TIMEOUT waits for CLEANUP_TIMEOUT.
        Unroutable: the event was mandatory, and no service handles it.
        Overloaded: the broker refused the event, because the queue of a handler is full.
        UnserializableValueError: the payload cannot be encoded.
    """

    #: The service calls the value with an event's type and its payload. ``aiorpc contract`` finds
    #: the events of such a provider in the source code of the service.
    dispatches: ClassVar[bool] = True

    def __init__(
        self, *, middleware: Sequence[Middleware] = (), **options: Unpack[MessageKeywords]
    ) -> None:
        check_middleware("EventDispatcher()", middleware)
        self._middleware = tuple(middleware)
        self._options = MessageOptions.declared("EventDispatcher()", options)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        service = host.service_name
        events = Events(host.transport, host.wire, host.settings, self._options, self._middleware)
        await events.declare(service)

        def dispatch(event_type: str, payload: Any = None, **options: Any) -> Any:
            # Any, because type checkers differ about the type of a coroutine.
            from_thread.require_loop(f"dispatch({event_type!r})")
            return send(event_type, payload, options)

        async def send(event_type: str, payload: Any, options: dict[str, Any]) -> None:
            await events.dispatch(service, event_type, payload, current.get(), options)

        send.__qualname__ = "dispatch"  # Python names a coroutine that nobody awaits
        self._dispatch: ServiceDispatch = dispatch
        yield

    def value(self, worker_ctx: WorkerContext) -> ServiceDispatch:
        return self._dispatch

"""
Publishes events, for services and for programs outside any service. Awaits the broker's confirms.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..config import Settings
from ..context import Context
from ..exceptions import ConnectionLost, Unroutable
from ..transports.base import Outgoing, Transport
from ..wire.message import Exchange
from ..wire.names import event_exchange
from ..wire.protocol import Wire

__all__ = ["CONNECT_TIMEOUT", "Events", "seconds_to_publish"]

#: Seconds to wait for a connection or a declaration, if calls have no timeout.
CONNECT_TIMEOUT = 30.0


def seconds_to_publish(context: Context, settings: Settings) -> float | None:
    """
    Return the seconds to wait for a confirm; ``None`` for no limit.

    The limit is the call's deadline, but at least CLEANUP_TIMEOUT, because a method may publish
    while it cleans up after its deadline.
    """
    if context.deadline is None:
        return settings.rpc_timeout
    return context.deadline.remaining(least=settings.cleanup_timeout)


class Events:
    """Dispatches events in the name of services, and declares the services' exchanges."""

    def __init__(self, transport: Transport, wire: Wire, settings: Settings) -> None:
        self._transport = transport
        self._wire = wire
        self._settings = settings
        #: The exchanges that this object has declared, by service name.
        self._exchanges: dict[str, Exchange] = {}
        self._declaring = asyncio.Lock()

    async def declare(self, service: str) -> Exchange:
        """Declare the exchange for events of *service*. Waits for a connection."""
        settings = self._settings
        async with self._declaring:
            exchange = self._exchanges.get(service)
            if exchange is None:
                auto_delete = settings.auto_delete_event_exchanges
                exchange = event_exchange(service, auto_delete=auto_delete)
                if settings.declare_event_exchanges:
                    (exchange,) = await self._transport.declare([exchange])
                self._exchanges[service] = exchange
        return exchange

    async def dispatch(
        self,
        service: str,
        event_type: str,
        payload: Any,
        context: Context,
        *,
        mandatory: bool = False,
    ) -> None:
        """
        Send an event of *service*. Return when the broker has confirmed the event.

        Raises:
            ConnectionLost: the broker did not confirm the event in time.
            Unroutable: the event was *mandatory*, and no service handles it.
            Overloaded: the broker refused the event, because the queue of a handler is full.
            UnserializableValueError: the payload cannot be encoded.
        """
        message = self._wire.payloads.encode(payload, context)
        exchange = self._exchanges.get(service) or await self._declare_in_time(service)
        event = Outgoing(
            exchange=exchange.name,
            routing_key=event_type,
            message=message,
            mandatory=mandatory,
            again=lambda message: message,
        )
        try:
            await self._transport.publish(event, seconds_to_publish(context, self._settings))
        except Unroutable:
            # The broker deletes an auto_delete exchange after its last handler. So a missing
            # exchange means that no service handles the event.
            if mandatory or not exchange.auto_delete:
                raise

    async def _declare_in_time(self, service: str) -> Exchange:
        timeout = self._settings.rpc_timeout
        bound = CONNECT_TIMEOUT if timeout is None else timeout
        try:
            async with asyncio.timeout(bound):
                return await self.declare(service)
        except TimeoutError:
            name, transport = event_exchange(service).name, self._transport
            raise ConnectionLost(
                f"exchange {name} could not be declared on {transport.url} within {bound:g} s: "
                f"{transport.state.value}; the event was not sent"
            ) from None

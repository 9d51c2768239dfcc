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

#: Seconds to wait for the broker, at the start or to declare, where calls have no timeout.
CONNECT_TIMEOUT = 30.0


def seconds_to_publish(context: Context, settings: Settings) -> float | None:
    """
    Seconds to wait for a confirm; ``None`` for no limit.

    A message does not end with the call that sends it: a method that cleans up after its deadline
    still has CLEANUP_TIMEOUT.
    """
    if context.deadline is None:
        return settings.rpc_timeout
    return context.deadline.remaining(least=settings.cleanup_timeout)


class Events:
    """Dispatches events in the name of services, and declares the exchanges of these."""

    def __init__(self, transport: Transport, wire: Wire, settings: Settings) -> None:
        self._transport = transport
        self._wire = wire
        self._settings = settings
        #: The exchanges that are declared already, by service.
        self._exchanges: dict[str, Exchange] = {}
        self._declaring = asyncio.Lock()

    async def declare(self, service: str) -> Exchange:
        """Declare the exchange for the events of *service*. Waits for a connection."""
        settings = self._settings
        async with self._declaring:
            exchange = self._exchanges.get(service)
            if exchange is None:
                auto_delete = settings.auto_delete_event_exchanges
                exchange = event_exchange(service, auto_delete=auto_delete)
                if settings.declare_event_exchanges:
                    await self._transport.declare([exchange])
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
        Send an event of *service*; return when the broker has confirmed it.

        Raises:
            ConnectionLost: the broker did not confirm it in time.
            Unroutable: it was *mandatory*, and nobody handles it.
            Overloaded: the queue of a handler is full, and refused it.
            UnserializableValueError: the payload cannot be put on the wire.
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
            # An exchange with auto_delete is deleted with its last handler, so a missing one
            # means that nobody handles the event.
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

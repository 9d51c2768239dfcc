"""
Publishes events and messages, for services and for programs outside any service. Awaits the
broker's confirms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ..call import Call, Handler, Middleware, compose
from ..config import Settings
from ..context import EMPTY, Context, new_id
from ..exceptions import ConnectionLost, Unroutable
from ..installed import middleware_of
from ..transports.base import Outgoing, Transport
from ..wire.message import Exchange, Message
from ..wire.names import event_exchange
from ..wire.protocol import Wire
from .message_options import MessageOptions

__all__ = ["CONNECT_TIMEOUT", "Events", "Messages", "check_event"]

#: Seconds to wait for a connection or a declaration, if calls have no timeout.
CONNECT_TIMEOUT = 30.0


class Messages:
    """
    Publishes messages.

    Args:
        options: the options of messages that set no others.
        middleware: wraps each message, inside the middleware of *settings*.

    Raises:
        ConfigurationError: *options* name an unknown serializer.
    """

    def __init__(
        self,
        transport: Transport,
        wire: Wire,
        settings: Settings,
        options: MessageOptions,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._transport = transport
        self._payloads = wire.payloads
        self._settings = settings
        self.options = options
        self.middleware = (*middleware_of(settings), *middleware)
        if options.serializer is not None:
            wire.payloads.serializer(options.serializer)

    def wrapped(self, publish: Callable[[Any, Context], Awaitable[None]]) -> Handler:
        """Return *publish*, which takes a payload and a context, wrapped in the middleware."""

        async def handler(call: Call) -> None:
            if len(call.args) != 1 or call.kwargs:
                raise TypeError(
                    f"a middleware gave {call} {len(call.args)} argument(s) and "
                    f"{len(call.kwargs)} by name: a message has one argument, its payload"
                )
            await publish(call.args[0], call.context)

        return compose(self.middleware, handler)

    def encode(
        self, payload: Any, context: Context, options: MessageOptions, message_id: str
    ) -> Message:
        """
        Return a message with *payload* and the context data of *context*.

        Args:
            message_id: the id of the message, unless *options* say otherwise. A message that a
                middleware sends again keeps its id, so make the id outside the middleware.

        Raises:
            UnserializableValueError: the payload cannot be encoded.
            ConfigurationError: *options* name an unknown serializer.
        """
        payloads, name = self._payloads, options.serializer
        serializer = None if name is None else payloads.serializer(name)
        message = payloads.encode(payload, context, headers=options.headers, serializer=serializer)
        message.message_id = message_id
        if options.properties:
            message = msgspec.structs.replace(message, **options.properties)
        return message

    async def publish(
        self, message: Message, exchange: str, routing_key: str, context: Context, mandatory: bool
    ) -> None:
        """
        Publish *message*. Return when the broker has confirmed it.

        Raises:
            ConnectionLost: the broker did not confirm the message in time.
            Unroutable: the message was *mandatory*, and no queue takes it.
            Overloaded: the broker refused the message, because a queue is full.
            UnserializableValueError: AMQP cannot carry a property.
        """
        outgoing = Outgoing(
            exchange=exchange,
            routing_key=routing_key,
            message=message,
            mandatory=mandatory,
            again=lambda message: message,
        )
        await self._transport.publish(outgoing, self._seconds(context))

    def _seconds(self, context: Context) -> float | None:
        """
        Return the seconds to wait for a confirm; ``None`` for no limit.

        The limit is the call's deadline, but at least CLEANUP_TIMEOUT, because a method may publish
        while it cleans up after its deadline.
        """
        if context.deadline is None:
            return self._settings.rpc_timeout
        return context.deadline.remaining(least=self._settings.cleanup_timeout)


class Events:
    """Dispatches events in the name of services, and declares the services' exchanges."""

    def __init__(
        self,
        transport: Transport,
        wire: Wire,
        settings: Settings,
        options: MessageOptions,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._messages = Messages(transport, wire, settings, options, middleware)
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
        changes: Mapping[str, Any],
    ) -> None:
        """
        Send an event of *service*. Return when the broker has confirmed the event.

        Args:
            changes: options of this event; see :class:`.message_options.MessageKeywords`.

        Raises:
            ConnectionLost: the broker did not confirm the event in time.
            Unroutable: the event was mandatory, and no service handles it.
            Overloaded: the broker refused the event, because the queue of a handler is full.
            UnserializableValueError: the payload cannot be encoded.
            TypeError: a name is not a str, or *changes* names an unknown option.
            ConfigurationError: *changes* have a wrong value, or name an unknown serializer.
        """
        check_event(service, event_type)
        options = self._messages.options.replaced("dispatch()", changes)
        if not self._messages.middleware:
            await self._publish(service, event_type, options, new_id(), payload, context)
            return
        call = Call(
            *(service, event_type, (payload,), EMPTY, context, "event"),
            exchange=event_exchange(service).name,
            routing_key=event_type,
            broker=self._settings.broker_address,
        )
        publish = partial(self._publish, service, event_type, options, new_id())
        await self._messages.wrapped(publish)(call)

    async def _publish(
        self,
        service: str,
        event_type: str,
        options: MessageOptions,
        message_id: str,
        payload: Any,
        context: Context,
    ) -> None:
        messages = self._messages
        message = messages.encode(payload, context, options, message_id)
        exchange = self._exchanges.get(service) or await self._declare_in_time(service)
        try:
            await messages.publish(message, exchange.name, event_type, context, options.mandatory)
        except Unroutable:
            # The broker deletes an auto_delete exchange after its last handler. So a missing
            # exchange means that no service handles the event.
            if options.mandatory or not exchange.auto_delete:
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


def check_event(service: object, event_type: object) -> None:
    """
    Raises:
        TypeError: the name of the service or the type of the event is not a str.
    """
    if not isinstance(service, str):
        raise TypeError(
            f"an event needs the name of its service, a str, not a {type(service).__name__}: "
            'write dispatch("the_service", "its_type", payload)'
        )
    if not isinstance(event_type, str):
        raise TypeError(
            f"an event of {service!r} needs a type, a str, before its payload, not a "
            f'{type(event_type).__name__}: write dispatch({service!r}, "its_type", payload), '
            'or in the service itself self.dispatch("its_type", payload)'
        )

"""``Publisher`` publishes messages of any kind. Imports ``extensions`` and ``calling``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, Unpack

from .. import from_thread
from ..call import Call, Middleware
from ..calling.message_options import MessageKeywords, MessageOptions
from ..calling.publishing import Messages
from ..checks import SHORT_TEXT, check, check_middleware, shown
from ..context import EMPTY, Context, current, new_id
from ..exceptions import ConfigurationError
from ..extensions import DependencyProvider, Host, WorkerContext
from ..wire.message import Exchange, Queue, checked

__all__ = ["Publish", "Publisher", "declarations"]


class Publish(Protocol):
    """The function that a :class:`Publisher` gives to a service."""

    async def __call__(
        self, payload: Any, *, routing_key: str = ..., **options: Unpack[MessageKeywords]
    ) -> None:
        """
        Publish *payload* with the context data of the running call. Return when the broker has
        confirmed the message.

        Args:
            routing_key: the default is the Publisher's.
            options: see :class:`~aiorpc.calling.message_options.MessageKeywords`.

        Raises:
            Unroutable: the message was mandatory, and no queue takes it.
            Overloaded: the broker refused the message, because a queue is full.
            ConnectionLost: the broker did not confirm the message before the call's deadline. A
                call with less time left than CLEANUP_TIMEOUT waits for CLEANUP_TIMEOUT.
            UnserializableValueError: the payload cannot be encoded.
            TypeError: *options* names an option that does not exist.
            ConfigurationError: the value of an option is wrong.
        """
        ...


def declarations(
    owner: str, exchange: Exchange, declare: Sequence[Exchange | Queue]
) -> tuple[list[Exchange], list[Queue]]:
    """
    Return the exchanges and the queues that *owner*, which publishes to *exchange*, declares.

    Raises:
        ConfigurationError: something else is given.
    """
    checked(owner, exchange, Exchange)
    if isinstance(declare, Exchange | Queue) or not isinstance(declare, Iterable):
        raise ConfigurationError(
            f"declare of {owner} must be a list of exchanges and queues, got {shown(declare)}: "
            "write declare=[...]"
        )
    for each in declare:
        checked(f"{owner[:-1]}declare=)", each, Exchange, Queue)
    exchanges = [each for each in declare if isinstance(each, Exchange)]
    if exchange.name:
        exchanges.append(exchange)
    return exchanges, [each for each in declare if isinstance(each, Queue)]


class Publisher(DependencyProvider[Publish]):
    """
    Publishes to *exchange*: ``await self.publish(payload, routing_key="key")``. Without an
    exchange, the routing key is the name of a queue.

    Args:
        exchange: the exchange; the service declares it at its start.
        declare: queues and further exchanges that the service declares at its start.
        routing_key: the routing key of messages that set no other.
        middleware: wraps each message, inside the middleware of the configuration.
        options: options of all messages: ``mandatory``, ``headers``, ``priority``, ...; see
            :class:`~aiorpc.calling.message_options.MessageKeywords`.
    """

    def __init__(
        self,
        exchange: Exchange | None = None,
        *,
        declare: Sequence[Exchange | Queue] = (),
        routing_key: str = "",
        middleware: Sequence[Middleware] = (),
        **options: Unpack[MessageKeywords],
    ) -> None:
        self.exchange = exchange or Exchange()
        check("Publisher()", {"routing_key": routing_key}, {"routing_key": SHORT_TEXT})
        #: The exchanges and queues that the service declares at its start.
        self.exchanges, self.queues = declarations("Publisher()", self.exchange, declare)
        self._routing_key = routing_key
        check_middleware("Publisher()", middleware)
        self._middleware = tuple(middleware)
        self._options = MessageOptions.declared("Publisher()", options)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        exchange, default_key, given = self.exchange.name, self._routing_key, self._options
        messages = Messages(host.transport, host.wire, host.settings, given, self._middleware)
        if self.exchanges or self.queues:
            await host.transport.declare(self.exchanges, self.queues)

        def publish(payload: Any, *, routing_key: str = default_key, **options: Any) -> Any:
            # Any, because type checkers differ about the type of a coroutine.
            from_thread.require_loop("publish()")
            return send(payload, routing_key, options)

        async def send(payload: Any, routing_key: str, changes: dict[str, Any]) -> None:
            context, options = current.get(), given.replaced("publish()", changes)
            if not messages.middleware:
                await encoded(options, routing_key, new_id(), payload, context)
                return
            names = host.service_name, self.attr_name
            call = Call(
                *(*names, (payload,), EMPTY, context, "message"),
                exchange=exchange,
                routing_key=routing_key,
                broker=host.settings.broker_address,
            )
            await messages.wrapped(partial(encoded, options, routing_key, new_id()))(call)

        async def encoded(
            options: MessageOptions, routing_key: str, id_: str, payload: Any, context: Context
        ) -> None:
            message = messages.encode(payload, context, options, id_)
            await messages.publish(message, exchange, routing_key, context, options.mandatory)

        send.__qualname__ = "publish"  # Python names a coroutine that nobody awaits
        self._publish: Publish = publish
        yield

    def value(self, worker_ctx: WorkerContext) -> Publish:
        return self._publish

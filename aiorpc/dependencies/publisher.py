"""``Publisher`` publishes messages of any kind. Imports ``extensions`` and ``calling``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from .. import from_thread
from ..calling.publishing import seconds_to_publish
from ..context import EMPTY, FAR, current
from ..exceptions import UnserializableValueError
from ..extensions import DependencyProvider, Host, WorkerContext
from ..transports.base import Outgoing
from ..wire.message import Exchange, Message, Queue, expiration_of

__all__ = ["Publish", "Publisher"]


class Publish(Protocol):
    """The function that a :class:`Publisher` gives to a service."""

    async def __call__(
        self,
        payload: Any,
        *,
        routing_key: str = "",
        headers: Mapping[str, Any] = EMPTY,
        mandatory: bool | None = None,
        expiration: float | None = None,
        **properties: Any,
    ) -> None:
        """
        Publish *payload* with the context data of the running call. Return when the broker has
        confirmed the message.

        Args:
            mandatory: raise ``Unroutable`` if no queue takes the message; default: Publisher's.
            expiration: seconds after which the broker discards an unread message.
            properties: further AMQP properties: ``priority``, ``persistent``, ``correlation_id``,
                ``reply_to``, ``message_id``, ``timestamp``, ``type``, ``app_id``, ``user_id``.

        Raises:
            Unroutable: the message was mandatory, and no queue takes it.
            Overloaded: the broker refused the message, because a queue is full.
            ConnectionLost: the broker did not confirm the message before the call's deadline. A
                call with less time left than CLEANUP_TIMEOUT waits for CLEANUP_TIMEOUT.
            UnserializableValueError: the payload or a property cannot be encoded.
            TypeError: *properties* names a property that does not exist.
        """
        ...


def _with_properties(message: Message, properties: dict[str, Any]) -> Message:
    try:
        # msgspec.structs.replace() checks names, but not types.
        msgspec.convert({**properties, "body": b""}, Message)
    except msgspec.ValidationError as error:
        raise UnserializableValueError(f"publish() cannot set a property: {error}") from None
    return msgspec.structs.replace(message, **properties)


def _milliseconds(expiration: float) -> int | None:
    if not expiration > 0:  # "<= 0" would accept NaN
        raise UnserializableValueError(
            f"publish() needs an expiration above 0 seconds, got {expiration}"
        )
    return expiration_of(expiration) if expiration < FAR else None


class Publisher(DependencyProvider[Publish]):
    """
    Publishes to *exchange*: ``await self.publish(payload, routing_key="key")``. Without an
    exchange, the routing key is the name of a queue.

    Args:
        exchange: the exchange; the service declares it at its start.
        declare: queues that the service declares at its start.
        mandatory: raise ``Unroutable`` if no queue takes a message.
    """

    def __init__(
        self,
        exchange: Exchange | None = None,
        *,
        declare: Sequence[Queue] = (),
        mandatory: bool = False,
    ) -> None:
        self._exchange = exchange or Exchange()
        self._queues = tuple(declare)
        self._mandatory = mandatory

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        exchange, default = self._exchange, self._mandatory
        exchanges = [exchange] if exchange.name else []
        if exchanges or self._queues:
            await host.transport.declare(exchanges, self._queues)

        def publish(payload: Any, **options: Any) -> Any:
            # Any, because type checkers differ about the type of a coroutine.
            from_thread.require_loop("publish()")
            return send(payload, **options)

        async def send(
            payload: Any,
            *,
            routing_key: str = "",
            headers: Mapping[str, Any] = EMPTY,
            mandatory: bool | None = None,
            expiration: float | None = None,
            **properties: Any,
        ) -> None:
            context = current.get()
            message = host.wire.payloads.encode(payload, context, headers=headers)
            if expiration is not None:
                message.expiration = _milliseconds(expiration)
            if properties:
                message = _with_properties(message, properties)
            outgoing = Outgoing(
                exchange=exchange.name,
                routing_key=routing_key,
                message=message,
                mandatory=default if mandatory is None else mandatory,
                again=lambda message: message,
            )
            await host.transport.publish(outgoing, seconds_to_publish(context, host.settings))

        send.__qualname__ = "publish"  # Python names a coroutine that nobody awaits
        self._publish: Publish = publish
        yield

    def value(self, worker_ctx: WorkerContext) -> Publish:
        return self._publish

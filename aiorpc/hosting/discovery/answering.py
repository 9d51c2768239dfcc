"""
Answers the questions of discovery for one service. Awaits the transport; no other I/O.

When a container is ready, it also announces itself on the exchange for questions, so that two
processes that answer one service name with other methods log it. For questions and announcements, a
container consumes an exclusive queue, which the broker deletes with the connection. If the broker
refuses the queue, the container only logs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from ...exceptions import AioRpcError, ConfigurationError
from ...extensions import Host
from ...logs import logger
from ...transports.base import Delivery, Outgoing, Subscription
from ...wire.message import Message
from ...wire.names import DISCOVERY_EXCHANGE, discovery_queue
from .reporting import Reports
from .shapes import UNREADABLE, Instance, encoded

__all__ = ["Discoverable"]

log = logger("aiorpc.hosting")

#: The most bytes of an answer.
LARGEST = 256 * 1024


class Discoverable:
    """
    Answers for one service, and logs other processes that answer the service's name with other
    methods. Subscribes while the service starts. Earlier questions are answered when the service is
    ready.
    """

    def __init__(self, host: Host, reports: Reports) -> None:
        self._host = host
        self._reports = reports
        self._own = reports.instance
        self._announcement = msgspec.json.encode(self._own)
        self._largest = min(LARGEST, host.settings.max_message_size or LARGEST)
        self._queue = discovery_queue(host.service_name)
        self._early: list[Delivery] | None = []
        self._subscribing = self._subscribe()

    @asynccontextmanager
    async def answering(self) -> AsyncGenerator[None]:
        """Answer questions inside the block."""
        try:
            await self._subscribed()
        except ConfigurationError as error:
            log.warning("%s will not show in `aiorpc ls`: %s", self._host.service_name, error)
        else:
            announcement = Message(
                body=self._announcement, persistent=False, reply_to=self._queue.name
            )
            self._send(DISCOVERY_EXCHANGE.name, "", announcement)
        early, self._early = self._early or [], None
        for delivery in early:
            self._take(delivery)
        try:
            yield
        finally:
            await self.aclose()

    def _subscribe(self) -> asyncio.Task[Subscription]:
        return asyncio.create_task(
            self._host.transport.subscribe(self._queue, self._asked),
            name=f"aiorpc: make {self._host.service_name} discoverable",
        )

    async def _subscribed(self) -> None:
        try:
            await self._subscribing
        except ConfigurationError as error:
            if not error.may_pass:
                raise
            # The entrypoints may have waited for a permission that the user has now.
            self._subscribing = self._subscribe()
            await self._subscribing

    async def aclose(self) -> None:
        """Stop answering, or cancel the subscribing. Bounded; idempotent."""
        self._reports.close()
        self._subscribing.cancel()
        (outcome,) = await asyncio.gather(self._subscribing, return_exceptions=True)
        if isinstance(outcome, Subscription):
            await outcome.cancel()

    def _asked(self, delivery: Delivery) -> None:
        delivery.ack()
        if self._early is None:
            self._take(delivery)
        else:
            self._early.append(delivery)

    def _take(self, delivery: Delivery) -> None:
        """
        Take a question (no body), or what another process announces or answers (its ``Instance``).
        An earlier aiorpc answers each announcement, and asks with no routing key.
        """
        message = delivery.message
        if message.body and not self._differs(message.body):
            return
        if not message.reply_to:
            return
        body: bytes | None = self._announcement
        if delivery.routing_key and not message.body:
            answer = self._reports.answer(delivery.routing_key)
            body = None if answer is None else encoded(answer, self._largest)
        if body is not None:
            reply = Message(body=body, persistent=False, expiration=message.expiration)
            self._send("", message.reply_to, reply)

    def _differs(self, body: bytes) -> bool:
        """Log an instance of this service that has other methods. Return whether it has."""
        try:
            other = msgspec.json.decode(body, type=Instance)
        except UNREADABLE:
            return False
        if other.service != self._own.service:
            return False
        queue = self._host.wire.rpc_queue(other.service).name
        here, there = self._own.info().called_on(queue), other.info().called_on(queue)
        if here == there:
            return False
        log.warning(
            "process %s:%d answers the service name %s with other methods (only here: %s; only "
            "there: %s), and calls of these reach the wrong process: unless this is a deploy, give "
            "one of the two services another name",
            other.host,
            other.pid,
            other.service,
            ", ".join(sorted(here - there)) or "none",
            ", ".join(sorted(there - here)) or "none",
        )
        return True

    def _send(self, exchange: str, routing_key: str, message: Message) -> None:
        outgoing = Outgoing(
            exchange=exchange, routing_key=routing_key, message=message, confirm=False
        )
        try:
            self._host.transport.send(outgoing)
        except AioRpcError as error:  # such as a small MAX_MESSAGE_SIZE; the service works without
            log.debug("%s: a discovery message was not sent: %s", self._own.service, error)

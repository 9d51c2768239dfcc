"""
Answers which services run. Awaits the transport; no other I/O.

``aiorpc ls`` sends a question to a fanout exchange. Every container sends its answer to the reply
queue of ``aiorpc ls``. When a container is ready, it announces itself on this exchange, so that two
processes that answer one service name with other methods log it. For these messages, a container
consumes an exclusive queue, which the broker deletes with the connection. If the broker refuses the
queue, the container only logs it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from ..exceptions import AioRpcError, ConfigurationError
from ..extensions import Entrypoint, Host
from ..logs import logger
from ..transports.base import Delivery, Outgoing, Subscription, Transport
from ..wire.message import Message
from ..wire.names import DISCOVERY_EXCHANGE, discovery_answers_queue, discovery_queue

__all__ = ["Discoverable", "Fired", "Instance", "discover"]

log = logger("aiorpc.hosting")

#: What msgspec raises for bytes that are no JSON, no UTF-8, or nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Fired(msgspec.Struct, frozen=True):
    """
    A method, the kind of its entrypoint (``Rpc``, ``Timer``, ...), and its queue and its HTTP
    route, if any.
    """

    method: str
    kind: str
    queue: str | None = None
    route: str | None = None


class Instance(msgspec.Struct, frozen=True):
    """One service in one process."""

    service: str
    host: str
    pid: int
    entrypoints: tuple[Fired, ...] = ()

    def called_on(self, queue: str) -> frozenset[str]:
        """Return the methods whose requests come from *queue*."""
        return frozenset(entry.method for entry in self.entrypoints if entry.queue == queue)


class Discoverable:
    """
    Answers ``aiorpc ls`` for one service, and logs other processes that answer the service's name
    with other methods. Subscribes while the service starts. Earlier questions are answered when the
    service is ready.
    """

    def __init__(self, host: Host, entrypoints: Sequence[Entrypoint]) -> None:
        self._host = host
        fired = tuple(
            Fired(
                entry.method_name, type(entry).__name__, entry.queue_name(host), entry.route(host)
            )
            for entry in entrypoints
        )
        self._own = Instance(host.service_name, socket.gethostname(), os.getpid(), fired)
        self._answer = msgspec.json.encode(self._own)
        self._queue = discovery_queue(host.service_name)
        self._early: list[Message] | None = []
        self._subscribing = self._subscribe()

    @asynccontextmanager
    async def answering(self) -> AsyncGenerator[None]:
        """Answer questions inside the block."""
        try:
            await self._subscribed()
        except ConfigurationError as error:
            log.warning("%s will not show in `aiorpc ls`: %s", self._host.service_name, error)
        else:
            self._send(DISCOVERY_EXCHANGE.name, "", reply_to=self._queue.name)
        early, self._early = self._early or [], None
        for message in early:
            self._take(message)
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
        self._subscribing.cancel()
        (outcome,) = await asyncio.gather(self._subscribing, return_exceptions=True)
        if isinstance(outcome, Subscription):
            await outcome.cancel()

    def _asked(self, delivery: Delivery) -> None:
        delivery.ack()
        if self._early is None:
            self._take(delivery.message)
        else:
            self._early.append(delivery.message)

    def _take(self, message: Message) -> None:
        """
        Take a question of ``aiorpc ls`` (no body), or what another process announces or answers
        (its ``Instance``). An earlier aiorpc answers each announcement.
        """
        if message.body and not self._differs(message.body):
            return
        if message.reply_to:
            self._send("", message.reply_to, expiration=message.expiration)

    def _differs(self, body: bytes) -> bool:
        """Log an instance of this service that has other methods. Return whether it has."""
        try:
            other = msgspec.json.decode(body, type=Instance)
        except _UNREADABLE:
            return False
        if other.service != self._own.service:
            return False
        queue = self._host.wire.rpc_queue(other.service).name
        here, there = self._own.called_on(queue), other.called_on(queue)
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

    def _send(
        self,
        exchange: str,
        routing_key: str,
        *,
        reply_to: str | None = None,
        expiration: int | None = None,
    ) -> None:
        message = Message(
            body=self._answer, persistent=False, reply_to=reply_to, expiration=expiration
        )
        outgoing = Outgoing(
            exchange=exchange, routing_key=routing_key, message=message, confirm=False
        )
        try:
            self._host.transport.send(outgoing)
        except AioRpcError as error:  # such as a small MAX_MESSAGE_SIZE; the service works without
            log.debug("%s: a discovery message was not sent: %s", self._own.service, error)


async def discover(transport: Transport, wait: float) -> list[Instance]:
    """
    Return the services that answer within *wait* seconds, sorted by name, host and process id.

    Raises:
        ConfigurationError: the broker does not permit the queue or the exchange.
        ConnectionLost: the question could not be sent.
    """
    answers: list[Instance] = []

    def answered(delivery: Delivery) -> None:
        delivery.ack()
        try:
            answers.append(msgspec.json.decode(delivery.message.body, type=Instance))
        except _UNREADABLE as error:
            log.warning("an answer to `aiorpc ls` cannot be read: %s", error)

    queue = discovery_answers_queue()
    async with await transport.subscribe(queue, answered):
        await transport.declare([DISCOVERY_EXCHANGE])
        question = Message(
            body=b"", persistent=False, reply_to=queue.name, expiration=max(1, round(wait * 1000))
        )
        await transport.publish(
            Outgoing(exchange=DISCOVERY_EXCHANGE.name, routing_key="", message=question), wait
        )
        await asyncio.sleep(wait)
    return sorted(answers, key=lambda instance: (instance.service, instance.host, instance.pid))

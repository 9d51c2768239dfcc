"""
Answers which services run. Awaits the transport; no other I/O.

``aiorpc ls`` sends a question to a fanout exchange. Every container sends its answer to the reply
queue of ``aiorpc ls``. For the questions, a container consumes an exclusive queue, which the broker
deletes with the connection. If the broker refuses the queue, the container only logs it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from ..exceptions import ConfigurationError
from ..extensions import Entrypoint, Host
from ..logs import logger
from ..transports.base import Delivery, Outgoing, Subscription, Transport
from ..wire.message import Message
from ..wire.names import DISCOVERY_EXCHANGE, discovery_answers_queue, discovery_queue

__all__ = ["Discoverable", "Fired", "Instance", "discover"]

log = logger("aiorpc.hosting")


class Fired(msgspec.Struct, frozen=True):
    """A method, the kind of its entrypoint (``Rpc``, ``Timer``, ...), and its queue, if any."""

    method: str
    kind: str
    queue: str | None = None


class Instance(msgspec.Struct, frozen=True):
    """One service in one process."""

    service: str
    host: str
    pid: int
    entrypoints: tuple[Fired, ...] = ()


class Discoverable:
    """
    Answers ``aiorpc ls`` for one service. Subscribes while the service starts. Earlier questions
    are answered when the service is ready.
    """

    def __init__(self, host: Host, entrypoints: Sequence[Entrypoint]) -> None:
        self._host = host
        fired = tuple(
            Fired(entry.method_name, type(entry).__name__, entry.queue_name(host))
            for entry in entrypoints
        )
        self._answer = msgspec.json.encode(
            Instance(host.service_name, socket.gethostname(), os.getpid(), fired)
        )
        self._early: list[Message] | None = []
        self._subscribing = asyncio.create_task(
            host.transport.subscribe(discovery_queue(host.service_name), self._asked),
            name=f"aiorpc: make {host.service_name} discoverable",
        )

    @asynccontextmanager
    async def answering(self) -> AsyncGenerator[None]:
        """Answer questions inside the block."""
        try:
            await self._subscribing
        except ConfigurationError as error:
            log.warning("%s will not show in `aiorpc ls`: %s", self._host.service_name, error)
        early, self._early = self._early or [], None
        for question in early:
            self._reply(question)
        try:
            yield
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop answering, or cancel the subscribing. Bounded; idempotent."""
        self._subscribing.cancel()
        (outcome,) = await asyncio.gather(self._subscribing, return_exceptions=True)
        if isinstance(outcome, Subscription):
            await outcome.cancel()

    def _asked(self, delivery: Delivery) -> None:
        delivery.ack()
        if self._early is None:
            self._reply(delivery.message)
        else:
            self._early.append(delivery.message)

    def _reply(self, question: Message) -> None:
        if not question.reply_to:
            return
        answer = Message(body=self._answer, persistent=False, expiration=question.expiration)
        self._host.transport.send(
            Outgoing(exchange="", routing_key=question.reply_to, message=answer, confirm=False)
        )


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
        except msgspec.DecodeError as error:
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

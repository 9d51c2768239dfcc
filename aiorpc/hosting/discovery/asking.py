"""
Asks the services on a broker, and collects their answers. Awaits the transport; no other I/O.

A question changes nothing: it declares no exchange, and its answers come to a queue that the broker
deletes with the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from ...exceptions import ConfigurationError, ConnectionLost
from ...logs import logger
from ...transports.base import Delivery, Outgoing, State, Transport
from ...wire.message import Message, name_fault
from ...wire.names import DISCOVERY_EXCHANGE, discovery_answers_queue
from .shapes import UNREADABLE, DiscoveryAnswer, Info, Question, answer_of

__all__ = ["Asker", "asking", "discover"]

log = logger("aiorpc.hosting")

#: Seconds that the broker may take to describe the exchange.
PATIENCE = 5.0
#: Faults of answers that are logged, each once.
MOST_FAULTS = 20


class Asker:
    """Asks questions on one transport; *queue* gets the answers."""

    def __init__(self, transport: Transport, queue: str) -> None:
        self._transport = transport
        self._queue = queue
        self._answers: list[DiscoveryAnswer] = []
        self._is_known = False
        self._faults: set[str] = set()

    async def ask(
        self, question: Question, wait: float, service: str = ""
    ) -> list[DiscoveryAnswer]:
        """
        Return the answers that arrive within *wait* seconds, sorted by name, host and process id.
        An instance of an earlier aiorpc answers every question with its :class:`Info`.

        Args:
            service: the service that is asked; by default all.

        Raises:
            ConnectionLost: there is no connection, the broker does not answer, or it accepts no
                answers of services.
        """
        if not await self._is_there():
            return []
        routing_key = question.to(service)
        if name_fault(routing_key):
            routing_key = question.to()
        answers: list[DiscoveryAnswer] = []
        self._answers = answers
        message = Message(
            body=b"",
            persistent=False,
            reply_to=self._queue,
            expiration=max(1, round(wait * 1000)),
        )
        outgoing = Outgoing(
            exchange=DISCOVERY_EXCHANGE.name, routing_key=routing_key, message=message
        )
        await self._transport.publish(outgoing, wait)
        await asyncio.sleep(wait)
        # RabbitMQ takes the question, tells of its alarm then, and takes no answer.
        if not answers and self._transport.state is State.BLOCKED:
            raise ConnectionLost(f"no service can answer: {self._transport.condition()}")
        found = [each for each in answers if not service or each.name == service]
        return sorted(found, key=lambda each: (each.name, each.process, each.id))

    async def _is_there(self) -> bool:
        """Return whether the exchange exists. A look must not leave a durable exchange behind."""
        if not self._is_known:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._transport.declare([replace(DISCOVERY_EXCHANGE, passive=True)])
                self._is_known = True
            except ConfigurationError as error:  # no service has run there yet
                log.debug("nobody is asked: %s", error)
            except TimeoutError:
                why = self._transport.condition()
                text = f"the question was not sent within {PATIENCE:g} s: {why}"
                raise ConnectionLost(text) from None
        return self._is_known

    def answered(self, delivery: Delivery) -> None:
        """Take an answer."""
        delivery.ack()
        try:
            self._answers.append(answer_of(delivery.message.body))
        except UNREADABLE as error:
            fault = str(error)
            if fault not in self._faults and len(self._faults) < MOST_FAULTS:  # asked every 2 s
                self._faults.add(fault)
                log.warning("an answer to a question of discovery cannot be read: %s", fault)


@asynccontextmanager
async def asking(transport: Transport) -> AsyncGenerator[Asker]:
    """
    Yield an :class:`Asker`.

    Raises:
        ConfigurationError: the broker does not permit the queue.
    """
    queue = discovery_answers_queue()
    asker = Asker(transport, queue.name)
    async with await transport.subscribe(queue, asker.answered):
        yield asker


async def discover(transport: Transport, wait: float, service: str = "") -> list[Info]:
    """
    Return the services that answer within *wait* seconds; see :meth:`Asker.ask`.

    Raises:
        ConfigurationError: the broker does not permit the queue.
        ConnectionLost: the question could not be sent.
    """
    async with asking(transport) as asker:
        answers = await asker.ask(Question.INFO, wait, service)
    return [each for each in answers if isinstance(each, Info)]

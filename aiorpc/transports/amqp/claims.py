"""
The claims of RabbitMQ: an exclusive queue, and the channel that holds it. Does I/O through
``link``; may import aiormq.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import aiormq
from aiormq.abc import DeliveredMessage

from ...context import new_id
from ...exceptions import ConnectionLost, Overloaded, Unroutable
from ...wire.message import Message
from ..claims import ANSWER_TIMEOUT, Claim, Got, claim_queue
from ..outgoing import NO_LIMIT, Outgoing, SizeLimit, settle
from .channel import Channel
from .errors import Refused, quietly, reason
from .lane import never_called
from .link import Link
from .methods import Consume, Get, QueueDeclare
from .supervisor import Supervisor
from .topology import declare_ahead, misdeclared

__all__ = ["AmqpClaim", "Claims"]

#: The broker's code for a queue that is exclusive to another connection.
_LOCKED = 405


class Claims:
    """
    Claims rights.

    Args:
        publish: :meth:`..base.Transport.publish`.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        publish: Callable[[Outgoing, float | None], Coroutine[Any, Any, None]],
    ) -> None:
        self._supervisor = supervisor
        self._publish = publish
        #: The rights that are being claimed now.
        self._claiming: set[str] = set()

    async def claim(self, name: str) -> AmqpClaim | None:
        """See :meth:`..base.Transport.claim`."""
        if name in self._claiming:
            return None
        self._claiming.add(name)
        # RabbitMQ logs an error if we declare a taken queue, and logs nothing if we publish to it.
        # The holder's consumer discards the message.
        question = Outgoing(
            exchange="", routing_key=name, message=Message(body=b""), mandatory=True
        )
        try:
            await self._publish(question, ANSWER_TIMEOUT)
            return None
        except (Unroutable, Overloaded):  # RabbitMQ 4.3 refuses it while it deletes the queue
            return await self._open(name)
        finally:
            self._claiming.discard(name)

    async def _open(self, name: str) -> AmqpClaim | None:
        link = self._supervisor.link
        if link is None:
            raise ConnectionLost(f"{name} cannot be claimed: {self._supervisor.dialer.trouble}")
        try:
            with quietly():
                return await AmqpClaim.open(name, link)
        except Refused as refused:
            raise misdeclared(f"queue {name!r} on {link.url}", refused) from None
        except (OSError, TimeoutError) as error:
            raise ConnectionLost(f"{link.url}: {reason(error)}") from error


class AmqpClaim(Claim):
    """A claim on the connection *link*."""

    def __init__(self, name: str, link: Link, channel: _ClaimChannel, tag: str) -> None:
        self.name = name
        self._link = link
        self._channel = channel
        self._tag = tag

    @classmethod
    async def open(cls, name: str, link: Link) -> AmqpClaim | None:
        """
        Declare the exclusive queue; return ``None`` if another connection holds it.

        Raises:
            Refused: the user may not declare it.
            ConnectionError, TimeoutError: the link is lost.
        """
        channel = _ClaimChannel(link, await link.channel())
        tag = f"aiorpc-{new_id()}"
        channel.amqp.consumers[tag] = never_called
        consume = Consume(queue=name, consumer_tag=tag, no_ack=True)

        async def requests(amqp: aiormq.Channel) -> None:
            # In one write: a queue that was never consumed outlives its channel.
            await declare_ahead(amqp, claim_queue(name))
            await amqp.rpc(consume)

        try:
            await channel.request(requests)
        except Refused as refused:
            if refused.code == _LOCKED:
                return None
            raise
        return cls(name, link, channel, tag)

    @property
    def held(self) -> bool:
        return self._channel.open and not self._link.lost.done()

    async def confirm(self) -> None:
        await self._request(partial(_declare_passively, self.name))

    async def get(self, queue: str) -> Got | None:
        answer = await self._request(partial(_get, queue))
        if answer.delivery_tag is None:
            return None
        return Got(answer.body, partial(self._ack, answer.delivery_tag))

    def _ack(self, tag: int) -> None:
        if self._channel.open:
            self._channel.lane.write(self._channel.encoder.ack(tag))

    def _publish(self, outgoing: Outgoing) -> None:
        self._channel.publish(outgoing)

    async def _request(self, request: Any) -> Any:
        """Await *request* on aiormq's channel, and return its answer."""
        self._require_held()
        answer = None

        async def requests(amqp: aiormq.Channel) -> None:
            nonlocal answer
            answer = await request(amqp)

        try:
            await self._channel.request(requests)
        except (Refused, OSError) as error:
            text = str(error) if isinstance(error, Refused) else reason(error)
            raise ConnectionLost(f"{self.name} on {self._link.url}: {text}") from error
        return answer

    async def release(self) -> None:
        if self._channel.open:
            # Also while the broker does not answer: then `close` writes nothing.
            self._channel.lane.write(self._channel.encoder.cancel(self._tag))
        await self._channel.close()


async def _declare_passively(queue: str, amqp: aiormq.Channel) -> None:
    await amqp.rpc(QueueDeclare(queue=queue, passive=True))


async def _get(queue: str, amqp: aiormq.Channel) -> DeliveredMessage:
    # As aiormq's `basic_get` (7.2), which refuses some names.
    message: DeliveredMessage
    async with amqp.getter_lock:
        amqp.getter = amqp.create_future()
        try:
            await amqp.rpc(Get(queue=queue))
            _, message = await amqp.getter
            return message
        finally:
            del amqp.getter


class _ClaimChannel(Channel):
    """A channel whose messages are never re-sent, and that ignores deliveries."""

    def __init__(self, link: Link, channel: aiormq.Channel) -> None:
        super().__init__(
            link,
            channel,
            max_message_size=NO_LIMIT,
            limit=SizeLimit(NO_LIMIT),
            take_back=_fail,
        )

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, message: Message
    ) -> None:
        pass

    def malformed(self, tag: int, exchange: str, routing_key: str, reason: str) -> None:
        pass


def _fail(outgoing: Iterable[Outgoing]) -> None:
    for each in outgoing:
        settle(each, ConnectionLost(f"{each.description} was not confirmed"))

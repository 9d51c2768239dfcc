"""
What the transport does when the broker closes a channel or the connection because of a message. A
proxy plays the broker that refuses; ``tests/chaos`` has real refusals.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pamqp import commands as spec

from aiorpc.exceptions import AioRpcError, ConfigurationError, ConnectionLost
from aiorpc.transports.amqp import channel
from aiorpc.transports.amqp.transport import AmqpTransport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Exchange, Message
from tests.support.amqp import connected, from_broker, sent_frames, through_proxy
from tests.support.transports import PATIENCE, Bench, Inbox, holds, to
from tests.support.waiting import eventually

INTERNAL_ERROR = from_broker(
    spec.Connection.Close(reply_code=541, reply_text="INTERNAL_ERROR", class_id=0, method_id=0)
)
FORCED = from_broker(
    spec.Connection.Close(reply_code=320, reply_text="CONNECTION_FORCED", class_id=0, method_id=0)
)


def once_more(message: Message) -> Message:
    return message


def publish_all(transport: AmqpTransport, *outgoing: Outgoing) -> asyncio.Future[list[Any]]:
    return asyncio.gather(
        *(transport.publish(each, 10) for each in outgoing), return_exceptions=True
    )


async def test_a_message_that_ends_two_connections_is_not_sent_a_third_time(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue, inbox = bench.queue(), Inbox()
        await transport.subscribe(queue, inbox)
        proxy.poison, proxy.last_words = b"poison", INTERNAL_ERROR
        bodies = [b"first", b"poison", b"last"]
        sent = [to(queue, body, again=once_more) for body in bodies]
        first, poisoned, last = await publish_all(transport, *sent)
        assert (first, last) == (None, None)
        assert isinstance(poisoned, ConnectionLost)
        assert "because of it (541 INTERNAL_ERROR)" in str(poisoned)
        assert proxy.sent.count(b"poison") == 2
        assert {(await inbox.next()).message.body for _ in range(2)} == {b"first", b"last"}


async def test_an_operator_who_closes_connections_fails_no_message(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue = bench.queue()
        await transport.declare(queues=[queue])
        proxy.poison, proxy.last_words = b"innocent", FORCED
        sending = publish_all(transport, to(queue, b"innocent", again=once_more))
        await eventually(lambda: proxy.sent.count(b"innocent") == 3)
        proxy.poison = b""
        assert await sending == [None]


async def test_an_answer_that_the_broker_did_not_read_is_reported(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue, replies, inbox = bench.queue(), bench.queue(), Inbox(ack=False)
        await transport.declare(queues=[replies])
        await transport.subscribe(queue, inbox, prefetch=2)
        told: list[tuple[bytes, AioRpcError | None]] = []

        class Answer(Outgoing, eq=False, kw_only=True):
            def conclude(self, error: AioRpcError | None) -> None:
                told.append((self.message.body, error))

        def answer(body: bytes) -> Outgoing:
            message = Message(body=body)
            return Answer(exchange="", routing_key=replies.name, message=message, confirm=False)

        await transport.publish(to(queue, b"1"))
        await transport.publish(to(queue, b"2"))
        first, second = await inbox.next(), await inbox.next()
        proxy.deaf = True
        first.answer(answer(b"to 1"))
        second.answer(answer(b"to 2"))
        await eventually(lambda: b"to 2" in proxy.sent)
        assert told == []
        proxy.hang_up()
        proxy.deaf = False
        again = [await inbox.next(), await inbox.next()]
        assert [body for body, _ in told] == [b"to 1", b"to 2"]
        assert all(isinstance(error, ConnectionLost) for _, error in told)
        assert all(each.redelivered for each in again)


#: Class and method of the broker's answers, as on the wire.
CONSUME_OK, CLOSE_OK = b"\x00\x3c\x00\x15", b"\x00\x14\x00\x29"


async def test_nothing_is_written_on_a_channel_after_aiormq_closed_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "REPLY_TIMEOUT", 0.3)
    async with through_proxy(bench.config) as (proxy, transport):
        queue, inbox = bench.queue(), Inbox(ack=False)
        await transport.declare(queues=[queue])
        await transport.publish(to(queue))
        proxy.drops = lambda frame: frame[7:11] in (CONSUME_OK, CLOSE_OK)
        subscribing = asyncio.ensure_future(transport.subscribe(queue, inbox))
        delivery = await inbox.next()
        await eventually(lambda: gives_a_channel_up(proxy.sent))
        delivery.ack()
        proxy.drops = lambda frame: False
        await subscribing
        again = await inbox.next()
        assert again.redelivered
        again.ack()
        await holds(transport, queue, 0)
        assert proxy.connections == 1


def gives_a_channel_up(sent: bytes) -> bool:
    """Whether aiormq closed a channel because it waited too long for an answer."""
    frames = [frame for _, frame in sent_frames(sent)]
    return any(isinstance(each, spec.Channel.Close) and each.reply_code == 504 for each in frames)


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "subscribed"])
async def test_an_exchange_of_a_type_that_the_broker_lacks_is_refused(
    bench: Bench, declared: bool
) -> None:
    """RabbitMQ 3 closes the connection for such a type, and RabbitMQ 4 the channel."""
    exchange = Exchange(bench.name(), "x-nobody-has-this", auto_delete=True)
    said = "the broker has no exchanges of this type: correct the type, or enable its plugin"
    async with connected(bench.config) as transport:
        asking: Any = transport.declare([exchange])
        if not declared:
            asking.close()
            asking = transport.subscribe(bench.queue(exchange, auto_delete=True), Inbox())
        with pytest.raises(ConfigurationError, match=said):
            await asyncio.wait_for(asking, PATIENCE)
        queue, inbox = bench.queue(), Inbox()
        await transport.subscribe(queue, inbox)
        await transport.publish(to(queue, b"works"))
        assert await inbox.bodies(1) == [b"works"]


async def test_an_argument_that_the_broker_does_not_take_is_refused(bench: Bench) -> None:
    async with connected(bench.config) as transport:
        with pytest.raises(ConfigurationError, match=r"arguments: correct the argument .*-ttl"):
            await transport.declare(queues=[bench.queue(arguments={"x-message-ttl": "soon"})])

"""
RabbitMQ while it blocks, answers late, or sends nonsense. Tests report the alarm to the transport
themselves; the broker works normally.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from aiorpc.config import resolve
from aiorpc.exceptions import ConnectionLost, UnserializableValueError
from aiorpc.testing import faults
from aiorpc.transports.amqp.link import Link
from aiorpc.transports.amqp.transport import AmqpTransport
from aiorpc.transports.base import Outgoing, State
from aiorpc.wire.message import Message
from tests.support.amqp import BLOCKED, UNBLOCKED, connected, through_proxy
from tests.support.breakable import reaches
from tests.support.transports import Bench, Inbox, Outcome, look, to
from tests.support.waiting import eventually

pytestmark = pytest.mark.rabbitmq

Config = dict[str, Any]


def same(message: Message) -> Message:
    return message


def link_of(transport: AmqpTransport) -> Link:
    assert transport.supervisor.link is not None
    return transport.supervisor.link


# Blocked


async def test_an_answer_held_for_a_cancelled_subscription_leaves_after_the_alarm(
    bench: Bench, broker_config: Config
) -> None:
    requests, replies, answers = bench.queue(), bench.queue(), Inbox()
    inbox = Inbox(ack=False)
    async with connected(broker_config) as transport:
        await transport.subscribe(replies, answers)
        subscription = await transport.subscribe(requests, inbox, prefetch=10)
        await transport.publish(to(requests))
        request = await inbox.next()
        link_of(transport).blocked("alarm")
        request.answer(to(replies, b"answer", confirm=False))
        await subscription.cancel()
        link_of(transport).unblocked()
        assert (await answers.next()).message.body == b"answer"


async def test_a_subscription_cancelled_during_an_alarm_keeps_nothing_from_others(
    bench: Bench, broker_config: Config
) -> None:
    queue, inbox = bench.queue(), Inbox()
    other = await bench.connect()
    async with connected(broker_config) as transport:
        subscription = await transport.subscribe(queue, Inbox(), prefetch=100)
        link_of(transport).blocked("alarm")
        await subscription.cancel()
        link_of(transport).unblocked()

        async def nobody_consumes() -> bool:
            return (await look(other, queue)).consumers == 0

        await eventually(nobody_consumes)
        await other.subscribe(queue, inbox)
        for number in range(20):
            await other.publish(to(queue, b"%d" % number))
        assert len(await inbox.bodies(20)) == 20


async def test_what_can_never_be_answered_with_is_told_during_an_alarm_too(
    bench: Bench, broker_config: Config
) -> None:
    queue, inbox, outcome = bench.queue(), Inbox(ack=False), Outcome()
    async with connected(broker_config, MAX_MESSAGE_SIZE=4096) as transport:
        await transport.subscribe(queue, inbox, prefetch=1)
        for body in (b"first", b"second"):
            await transport.publish(to(queue, body))
        request = await inbox.next()
        link_of(transport).blocked("alarm")
        request.answer(to(queue, bytes(5000), settled=outcome))
        (error,) = await outcome.all()
        assert isinstance(error, UnserializableValueError)
        link_of(transport).unblocked()
        request.reject(requeue=False)
        assert (await inbox.next()).message.body == b"second"


async def test_an_answer_held_while_the_connection_comes_back_leaves_after_the_alarm(
    bench: Bench, broker_config: Config
) -> None:
    requests, replies, answers = bench.queue(), bench.queue(), Inbox()
    inbox = Inbox(ack=False)
    consume_ok = struct.pack(">HH", 60, 21)
    async with (
        through_proxy(broker_config) as (proxy, transport),
        connected(broker_config) as other,
    ):
        await other.subscribe(replies, answers)
        await transport.subscribe(requests, inbox, prefetch=10)
        # Without this answer the transport waits for its subscription, and stays CONNECTING.
        proxy.drops = lambda frame: frame[7:11] == consume_ok
        proxy.hang_up()
        await reaches(transport, State.CONNECTING)
        await other.publish(to(requests))
        request = await inbox.next()
        assert transport.state is State.CONNECTING
        proxy.inject(BLOCKED)
        await other.publish(to(requests))
        await inbox.next()  # after BLOCKED on the same socket
        request.answer(to(replies, b"answer", confirm=False))
        proxy.inject(UNBLOCKED)
        assert (await answers.next()).message.body == b"answer"


# Late, or gone


async def test_a_broker_that_answered_late_once_is_asked_again(
    bench: Bench, broker_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiorpc.transports.amqp.link.CLOSE_TIMEOUT", 0.05)
    queue, inbox = bench.queue(), Inbox()
    async with connected(broker_config) as transport:
        await transport.subscribe(queue, inbox)
        link = link_of(transport)
        await link.farewell(lambda: asyncio.sleep(60))
        assert not link.answers
        await transport.publish(to(queue))
        await inbox.next()
        assert link.answers


async def test_a_subscription_cancelled_in_its_pause_does_not_hold_up_the_others(
    bench: Bench, broker_config: Config
) -> None:
    async with connected(broker_config) as transport:
        subscription = await transport.subscribe(bench.queue(), Inbox(), prefetch=1)
        with faults.drop_connection(transport):
            pass
        while transport.supervisor.link is not None:
            await asyncio.sleep(0)
        while transport.supervisor.link is None:
            await asyncio.sleep(0)
        await subscription.cancel()
        await eventually(lambda: transport.state is State.CONNECTED)


async def test_a_sender_that_fails_when_it_is_asked_again_fails_alone(
    bench: Bench, broker_config: Config
) -> None:
    def fails(message: Message) -> Message:
        raise ValueError("no")

    queue, bad, good = bench.queue(), Outcome(), Outcome()
    async with connected(broker_config) as transport:
        await transport.declare(queues=[queue])
        transport.send(to(queue, settled=bad, again=fails))
        transport.send(to(queue, settled=good, again=same))
        link_of(transport).lane.abort()
        assert await good.all() == [None]
        (error,) = await bad.all()
        assert isinstance(error, ConnectionLost)


async def test_a_timed_out_start_cancels_the_start_of_other_callers() -> None:
    transport = AmqpTransport(resolve({"AMQP_URI": "amqp://guest:guest@127.0.0.1:9/"}))
    other = asyncio.create_task(transport.start())
    with pytest.raises(ConnectionLost, match="within"):
        await transport.start(0.05)
    with pytest.raises(ConnectionLost, match="start was cancelled"):
        await asyncio.wait_for(other, 5)


# What no broker says


async def test_a_confirm_far_beyond_what_was_published_does_no_harm(
    bench: Bench, broker_config: Config
) -> None:
    queue = bench.queue()
    async with through_proxy(broker_config) as (proxy, transport):
        await transport.declare(queues=[queue])
        await transport.publish(to(queue))
        assert transport.supervisor.publishing is not None
        number = transport.supervisor.publishing.number
        proxy.inject(struct.pack(">BHIIQBB", 1, number, 13, 0x3C0050, 1 << 62, 1, 0xCE))
        loop = asyncio.get_running_loop()
        before = loop.time()
        await transport.publish(to(queue))
        assert loop.time() - before < 3  # nothing counted up to it


async def test_a_header_that_the_broker_refuses_fails_its_own_message_alone(
    bench: Bench, broker_config: Config
) -> None:
    queue, outcomes = bench.queue(), [Outcome() for _ in range(6)]
    async with connected(broker_config) as transport:
        await transport.declare(queues=[queue])
        for number, outcome in enumerate(outcomes):
            headers = {"CC": "no list"} if number == 2 else {}
            transport.send(to(queue, headers=headers, settled=outcome, again=same))
        told = [(await outcome.all())[0] for outcome in outcomes]
        assert [error is None for error in told] == [True, True, False, True, True, True]


async def test_one_message_sent_twice_waits_twice(bench: Bench, broker_config: Config) -> None:
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    other = await bench.connect()
    await other.subscribe(queue, inbox)
    async with connected(broker_config) as transport:
        outgoing: Outgoing = to(queue, settled=outcome)
        outgoing.again = same
        transport.send(outgoing)
        transport.send(outgoing)
        with faults.drop_connection(transport):  # before either is confirmed
            pass
        assert await outcome.all(2) == [None, None]
        assert len(await inbox.bodies(2)) == 2

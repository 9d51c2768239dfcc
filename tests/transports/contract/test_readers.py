"""Readers, which take messages from a queue and give them back; over every transport."""

from __future__ import annotations

import asyncio

import pytest

from aiorpc.exceptions import ConfigurationError, ConnectionLost, Unroutable
from aiorpc.transports.base import Transport
from aiorpc.wire.message import Queue
from tests.support.transports import Bench, Inbox, Outcome, holds, to


async def filled(bench: Bench, transport: Transport, messages: int) -> Queue:
    queue = bench.queue()
    await transport.declare(queues=[queue])
    for number in range(messages):
        await transport.publish(to(queue, b"%d" % number))
    return queue


async def bodies(transport: Transport, queue: Queue, count: int) -> list[bytes]:
    inbox = Inbox()
    async with await transport.subscribe(queue, inbox):
        return await inbox.bodies(count)


async def test_messages_are_taken_in_order_and_given_back_to_their_places(bench: Bench) -> None:
    transport = await bench.connect()
    queue = await filled(bench, transport, 6)
    async with transport.reader(queue.name) as reader:
        first, then = await reader.take(2), await reader.take(2)
        assert [each.message.body for each in (*first, *then)] == [b"0", b"1", b"2", b"3"]
        assert not first[0].redelivered
        await holds(transport, queue, 2)
    await holds(transport, queue, 6)
    assert await bodies(transport, queue, 6) == [b"%d" % number for number in range(6)]


async def test_a_queue_that_runs_out_ends_a_batch(bench: Bench) -> None:
    transport = await bench.connect()
    queue = await filled(bench, transport, 3)
    async with transport.reader(queue.name) as reader:
        assert len(await reader.take(5)) == 3
        assert await reader.take(5) == []
        await transport.publish(to(queue, b"late"))
        assert [each.message.body for each in await reader.take(1)] == [b"late"]


async def test_acked_messages_are_gone_and_others_come_back(bench: Bench) -> None:
    transport = await bench.connect()
    queue = await filled(bench, transport, 4)
    async with transport.reader(queue.name) as reader:
        taken = await reader.take(4)
        taken[1].ack()
        taken[3].ack()
    await holds(transport, queue, 2)
    assert await bodies(transport, queue, 2) == [b"0", b"2"]


async def test_an_answer_is_confirmed_before_the_ack(bench: Bench) -> None:
    transport = await bench.connect()
    queue = await filled(bench, transport, 2)
    target = bench.queue()
    await transport.declare(queues=[target])
    outcome, unroutable = Outcome(), Outcome()
    async with transport.reader(queue.name) as reader:
        good, bad = await reader.take(2)
        good.answer(to(target, mandatory=True, settled=outcome))
        nowhere = Queue(f"{target.name}-missing")
        bad.answer(to(nowhere, mandatory=True, settled=unroutable))
        assert await outcome.all() == [None]
        (error,) = await unroutable.all()
        assert isinstance(error, Unroutable)
    await holds(transport, target, 1)
    await holds(transport, queue, 1)
    assert await bodies(transport, queue, 1) == [b"1"]


async def test_a_missing_queue_is_named(bench: Bench) -> None:
    transport = await bench.connect()
    name = bench.name()
    async with transport.reader(name) as reader:
        with pytest.raises(ConfigurationError, match=name):
            await reader.take(1)


async def test_a_lost_connection_ends_the_reader_and_gives_the_messages_back(bench: Bench) -> None:
    link = await bench.link()
    other = await bench.connect()
    queue = await filled(bench, other, 3)
    async with link.transport.reader(queue.name) as reader:
        taken = await reader.take(2)
        await link.cut()
        await holds(other, queue, 3)
        assert taken[0].stale
        taken[0].ack()
        with pytest.raises(ConnectionLost):
            await reader.take(1)
    await holds(other, queue, 3)


async def test_a_reader_needs_a_connection(bench: Bench) -> None:
    transport = bench.transport()
    with pytest.raises(ConnectionLost):
        transport.reader("any")


async def test_a_cancelled_batch_gives_its_messages_back(bench: Bench) -> None:
    transport = await bench.connect()
    queue = await filled(bench, transport, 1)
    reader = transport.reader(queue.name)
    taking = asyncio.create_task(reader.take(2))
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await reader.aclose()
    await reader.aclose()
    await holds(transport, queue, 1)


async def test_a_body_above_the_limit_is_read(bench: Bench) -> None:
    large = await bench.connect()
    queue = await filled(bench, large, 0)
    await large.publish(to(queue, b"x" * 100_000))
    bench.config = {**bench.config, "MAX_MESSAGE_SIZE": 65_536}
    transport = await bench.connect()
    async with transport.reader(queue.name) as reader:
        (taken,) = await reader.take(1)
        assert len(taken.message.body) == 100_000
    await holds(transport, queue, 1)

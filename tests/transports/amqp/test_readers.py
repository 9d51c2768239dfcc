"""Readers of quorum queues: the order of messages, and the delivery limit."""

from __future__ import annotations

from typing import Any

import pytest

from aiorpc.transports.amqp import topology
from aiorpc.transports.amqp.transport import AmqpTransport
from aiorpc.transports.base import Transport
from aiorpc.transports.reading import LookCost
from aiorpc.wire.message import Queue
from tests.support.transports import Bench, holds, to

QUORUM = {"x-queue-type": "quorum"}


async def filled(bench: Bench, transport: Transport, messages: int, **arguments: Any) -> Queue:
    queue = bench.queue(arguments=arguments)
    await transport.declare(queues=[queue])
    for number in range(messages):
        await transport.publish(to(queue, b"%d" % number))
    return queue


async def version_of(transport: Transport) -> tuple[int, ...]:
    assert isinstance(transport, AmqpTransport)
    assert transport.supervisor.link is not None
    async with transport.supervisor.link.passing_channel() as channel:
        return topology.version_of(channel)


@pytest.mark.parametrize("arguments", [QUORUM, {**QUORUM, "x-delivery-limit": 50}])
async def test_a_quorum_queue_keeps_the_order_of_messages_that_are_looked_at(
    bench: Bench, arguments: dict[str, Any]
) -> None:
    """Also of a part of the queue, and of many batches."""
    transport = await bench.connect()
    queue = await filled(bench, transport, 120, **arguments)
    for batches, size in ((1, 3), (35, 2), (3, 40)):
        async with transport.reader(queue.name) as reader:
            for _ in range(batches):
                assert len(await reader.take(size)) == size
        await holds(transport, queue, 120)
    async with transport.reader(queue.name) as reader:
        taken = await reader.take(120)
    assert [int(each.message.body) for each in taken] == list(range(120))


async def test_looks_do_not_use_up_a_delivery_limit_where_a_requeue_is_free(bench: Bench) -> None:
    transport = await bench.connect()
    version = await version_of(transport)
    queue = await filled(bench, transport, 2, **{**QUORUM, "x-delivery-limit": 3})
    async with transport.reader(queue.name) as reader:
        cost = await reader.cost()
    if version < (4, 3):
        assert cost == LookCost(True, 3)
        return
    assert cost == LookCost(False)
    for _ in range(6):
        async with transport.reader(queue.name) as reader:
            assert len(await reader.take(2)) == 2
        await holds(transport, queue, 2)


async def test_the_cost_of_a_look_is_known_without_a_change(bench: Bench) -> None:
    transport = await bench.connect()
    version = await version_of(transport)
    default = 20 if version >= (4,) else None
    for arguments, expected in (
        ({}, LookCost(False)),
        (QUORUM, LookCost(True, default)),
        ({**QUORUM, "x-delivery-limit": 7}, LookCost(True, 7)),
    ):
        queue = await filled(bench, transport, 0, **arguments)
        async with transport.reader(queue.name) as reader:
            cost = await reader.cost()
        assert cost == (LookCost(False) if version >= (4, 3) else expected)
    missing = bench.name()
    async with transport.reader(missing) as reader:
        await reader.cost()
    state = await transport.inspect(missing, 5)
    assert state is not None
    assert not state.exists


async def test_a_delivery_limit_of_minus_one_is_no_limit_on_every_version(bench: Bench) -> None:
    """RabbitMQ 3.10 deletes messages of a queue with this limit at their first requeue."""
    transport = await bench.connect()
    queue = await filled(bench, transport, 1, **{**QUORUM, "x-delivery-limit": -1})
    for _ in range(2):
        async with transport.reader(queue.name) as reader:
            (taken,) = await reader.take(1)
            taken.reject(requeue=True)
        await holds(transport, queue, 1)


async def test_many_acks_before_the_end_of_a_reader_are_kept(bench: Bench) -> None:
    """A channel that closes loses acks that its quorum queue has not taken yet."""
    transport = await bench.connect()
    queue = await filled(bench, transport, 90, **QUORUM)
    async with transport.reader(queue.name) as reader:
        for _ in range(3):
            for delivery in await reader.take(30):
                delivery.ack()
    await holds(transport, queue, 0)

"""Expiring queues and messages, exclusive queues, ``inspect``, ``delete``; over every transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aiorpc.exceptions import (
    ConfigurationError,
    Overloaded,
    Unroutable,
)
from aiorpc.transports.base import QueueState
from aiorpc.wire.message import Queue
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    holds,
    is_gone,
    look,
    no_longer_than,
    to,
)
from tests.support.waiting import eventually


async def test_an_exclusive_queue_belongs_to_its_connection_and_ends_with_it(
    bench: Bench,
) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(bench.exchange(), "key", exclusive=True), Inbox()
    await transport.subscribe(queue, inbox)
    for refused in (
        lambda: other.subscribe(queue, Inbox()),
        lambda: other.declare(queues=[queue]),
    ):
        with pytest.raises(ConfigurationError, match=queue.name):
            await refused()
    await other.delete(queue.name)
    await other.publish(to(queue, b"all may send", mandatory=True))
    assert await inbox.bodies(1) == [b"all may send"]
    await transport.aclose()
    await is_gone(other, queue)


async def test_an_exclusive_queue_is_declared_again_after_a_reconnect(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(bench.exchange(), "key", exclusive=True), Inbox()
    await link.transport.subscribe(queue, inbox)
    await link.break_connection()
    await link.reconnected()
    await other.publish(to(queue, b"hello", mandatory=True))
    assert await inbox.bodies(1) == [b"hello"]


async def test_an_auto_delete_queue_is_deleted_with_its_last_consumer(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue = bench.queue(auto_delete=True)
    first = await transport.subscribe(queue, Inbox())
    second = await other.subscribe(queue, Inbox())
    await first.cancel()
    assert (await look(other, queue)).consumers == 1
    await second.cancel()
    await is_gone(other, queue)


@pytest.mark.slow
async def test_an_expiring_queue_is_deleted_after_its_time_unused(bench: Bench) -> None:
    transport = await bench.connect()
    exchange = bench.exchange("direct")
    consumed, left, never = (bench.queue(exchange, key, expires=0.4) for key in ("c", "l", "n"))
    await transport.declare(queues=[never])
    await transport.subscribe(consumed, Inbox())
    subscription = await transport.subscribe(left, Inbox())

    def is_gone(queue: Queue) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:  # not by a look: that is a use, too
            try:
                await transport.publish(to(queue, mandatory=True))
            except (Unroutable, Overloaded):  # refused while it is being deleted
                return True
            return False

        return check

    await eventually(is_gone(never))
    await transport.publish(to(left, mandatory=True))
    await subscription.cancel()
    await eventually(is_gone(left))
    await transport.publish(to(consumed, mandatory=True))


@pytest.mark.slow
async def test_inspecting_an_expiring_queue_counts_as_a_use(bench: Bench) -> None:
    transport = await bench.connect()
    queue, clock = bench.queue(expires=0.4), bench.queue()
    await transport.declare(queues=[queue, clock])
    await transport.publish(to(clock, expiration=600))

    async def time_is_up() -> bool:
        assert (await look(transport, queue)).exists
        return (await look(transport, clock)).messages == 0

    await eventually(time_is_up)


async def test_an_expired_message_is_dropped_without_a_consumer(bench: Bench) -> None:
    transport = await bench.connect()
    exchange, dead = bench.exchange("fanout"), Inbox()
    await transport.subscribe(bench.queue(exchange), dead)
    queue = bench.queue(arguments={"x-dead-letter-exchange": exchange.name})
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, b"late", expiration=20))
    delivery = await dead.next()
    assert (delivery.message.body, delivery.message.expiration) == (b"late", None)
    (death,) = (delivery.message.headers or {})["x-death"]
    assert (death["reason"], death["original-expiration"]) == ("expired", "20")
    assert (await look(transport, queue)).messages == 0


async def test_a_message_expires_only_at_the_head_of_its_queue(bench: Bench) -> None:
    transport = await bench.connect()
    queue, clock, inbox = bench.queue(), bench.queue(), Inbox()
    await transport.declare(queues=[queue, clock])
    await transport.publish(to(queue, b"stays"))
    await transport.publish(to(queue, b"late", expiration=20))
    await transport.publish(to(queue, b"in time", expiration=60_000))
    await transport.publish(to(clock, expiration=20))
    await holds(transport, clock, 0)
    assert (await look(transport, queue)).messages == 3
    await transport.subscribe(queue, inbox)
    assert await inbox.bodies(2) == [b"stays", b"in time"]


async def test_the_ttl_of_a_queue_limits_every_message_in_it(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue(arguments={"x-message-ttl": 20})
    await transport.declare(queues=[queue])
    await transport.publish(to(queue))
    await transport.publish(to(queue, expiration=60_000))
    await holds(transport, queue, 0)


async def test_a_message_that_expires_at_once_needs_a_free_consumer(
    bench: Bench,
) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, b"lost", expiration=0))
    await holds(transport, queue, 0)
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue, b"taken", expiration=0))
    assert await inbox.bodies(1) == [b"taken"]


async def test_inspect_counts_messages_and_consumers(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    assert await look(transport, queue) == QueueState(queue.name, False, 0, 0)
    await transport.declare(queues=[queue])
    for _ in range(3):
        await transport.publish(to(queue))
    assert await look(transport, queue) == QueueState(queue.name, True, 3, 0)
    await transport.subscribe(queue, inbox, prefetch=1)
    await inbox.next()
    assert await look(transport, queue) == QueueState(queue.name, True, 2, 1)


async def test_inspecting_missing_queues_harms_no_other_channel(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    names = [bench.name() for _ in range(5)] * 4
    states = await asyncio.gather(
        *(transport.inspect(name, PATIENCE) for name in [*names, queue.name])
    )
    assert [state is not None and state.exists for state in states] == [False] * 20 + [True]
    await transport.publish(to(queue, mandatory=True))
    await inbox.next()


async def test_inspect_returns_none_while_disconnected(bench: Bench) -> None:
    link = await bench.link()
    queue = bench.queue()
    await link.transport.declare(queues=[queue])
    await link.cut()
    assert await link.transport.inspect(queue.name) is None


async def test_a_queue_is_deleted_with_its_messages(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue()
    await transport.declare(queues=[queue])
    await transport.publish(to(queue))
    await transport.delete(queue.name)
    assert not (await look(transport, queue)).exists
    await transport.delete(queue.name)
    await transport.declare(queues=[queue])
    assert (await look(transport, queue)).messages == 0


async def test_delete_does_nothing_while_disconnected(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue = bench.queue()
    await other.declare(queues=[queue])
    await link.cut()
    with no_longer_than(1):
        await link.transport.delete(queue.name)
    assert (await look(other, queue)).exists


async def test_one_consumer_of_a_queue_is_active_until_it_ends(bench: Bench) -> None:
    first, second = await bench.connect(), await bench.connect()
    queue = bench.queue(arguments={"x-single-active-consumer": True})
    active, waiting = Inbox(), Inbox()
    subscription = await first.subscribe(queue, active, prefetch=1)
    await second.subscribe(queue, waiting, prefetch=10)
    for number in range(3):
        await first.publish(to(queue, b"%d" % number))
    assert await active.bodies(3) == [b"0", b"1", b"2"]
    assert not waiting.waiting
    await subscription.cancel()
    await first.publish(to(queue, b"3"))
    assert await waiting.bodies(1) == [b"3"]


async def test_a_queue_with_priorities_delivers_the_highest_first(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(arguments={"x-max-priority": 5}), Inbox()
    await transport.declare(queues=[queue])
    for number, priority in enumerate((None, 1, 9, 5, 1, 0)):  # above the highest: the highest
        outgoing = to(queue, b"%d" % number)
        outgoing.message.priority = priority
        await transport.publish(outgoing)
    await holds(transport, queue, 6)
    await transport.subscribe(queue, inbox, prefetch=1)
    assert await inbox.bodies(6) == [b"2", b"3", b"1", b"4", b"0", b"5"]

"""Subscriptions: priorities, prefetch, reconnects, cancelling; over every transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiorpc.exceptions import (
    Unroutable,
)
from aiorpc.transports.base import QueueState
from aiorpc.wire.message import Message
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    holds,
    look,
    no_longer_than,
    to,
)
from tests.support.waiting import eventually


async def test_a_listener_acks_every_message_even_if_its_handler_raises(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, heard = bench.queue(), asyncio.Queue[bytes]()

    def hear(message: Message) -> None:
        heard.put_nowait(message.body)
        if message.body == b"1":
            raise RuntimeError("a handler of mine")

    subscription = await transport.listen(queue, hear)
    for number in range(3):
        await transport.publish(to(queue, b"%d" % number))
    assert [await heard.get() for _ in range(3)] == [b"0", b"1", b"2"]
    assert "a handler of mine" in caplog.text
    assert "the handler of a message (exchange" in caplog.text
    await subscription.cancel()
    await transport.aclose()
    assert await look(other, queue) == QueueState(queue.name, True, 0, 0)


async def test_a_cancelled_listener_gets_no_message(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, heard = bench.queue(), asyncio.Queue[Message]()
    subscription = await transport.listen(queue, heard.put_nowait)
    await subscription.cancel()
    await transport.publish(to(queue, b"late"))
    inbox = Inbox()
    await other.subscribe(queue, inbox)
    assert await inbox.bodies(1) == [b"late"]
    assert heard.empty()


async def test_subscribe_declares_the_queue_and_waits_for_a_connection(bench: Bench) -> None:
    link = await bench.link(start=False)
    queue, inbox = bench.queue(bench.exchange(), "key"), Inbox()
    subscribed = asyncio.create_task(link.transport.subscribe(queue, inbox))
    await asyncio.sleep(0)
    assert not subscribed.done()
    await link.transport.start(PATIENCE)
    async with asyncio.timeout(PATIENCE):
        subscription = await subscribed
    assert subscription.consuming
    assert subscription.queue == queue
    await link.transport.publish(to(queue, b"hello", mandatory=True))
    assert await inbox.bodies(1) == [b"hello"]


async def test_consumers_of_one_queue_take_turns(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inboxes = bench.queue(), (Inbox(), Inbox())
    await transport.subscribe(queue, inboxes[0])
    await other.subscribe(queue, inboxes[1])
    for _ in range(10):
        await transport.publish(to(queue))
    assert await look(transport, queue) == QueueState(queue.name, True, 0, 2)
    await eventually(lambda: [inbox.waiting for inbox in inboxes] == [5, 5])


async def test_a_consumer_has_at_most_prefetch_unsettled_deliveries(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inboxes = bench.queue(), (Inbox(ack=False), Inbox(ack=False))
    for prefetch, inbox in zip((2, 1), inboxes, strict=True):
        await transport.subscribe(queue, inbox, prefetch=prefetch)
    for _ in range(6):
        await transport.publish(to(queue))
    first = await inboxes[0].next()
    await inboxes[0].next()
    await inboxes[1].next()
    await holds(transport, queue, 3)
    assert [inbox.waiting for inbox in inboxes] == [0, 0]
    first.ack()
    await inboxes[0].next()
    await holds(transport, queue, 2)
    assert [inbox.waiting for inbox in inboxes] == [0, 0]


async def test_a_full_consumer_keeps_no_message_from_another(bench: Bench) -> None:
    transport = await bench.connect()
    queue, full, free = bench.queue(), Inbox(ack=False), Inbox()
    await transport.subscribe(queue, full, prefetch=1, arguments=lambda n: {"x-priority": 1})
    await transport.subscribe(queue, free)
    for number in range(5):
        await transport.publish(to(queue, b"%d" % number))
    assert await full.bodies(1) == [b"0"]
    assert await free.bodies(4) == [b"1", b"2", b"3", b"4"]


async def test_the_consumer_of_highest_priority_gets_all_it_can_take(bench: Bench) -> None:
    transport = await bench.connect()
    queue, low, high = bench.queue(), Inbox(), Inbox()
    await transport.subscribe(queue, low, arguments=lambda n: {"x-priority": 1})
    await transport.subscribe(queue, high, arguments=lambda n: {"x-priority": 2})
    for number in range(5):
        await transport.publish(to(queue, b"%d" % number))
    assert await high.bodies(5) == [b"0", b"1", b"2", b"3", b"4"]
    assert low.waiting == 0


async def test_a_subscription_consumes_again_after_a_reconnect_with_new_arguments(
    bench: Bench,
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(bench.exchange(), "key"), Inbox()
    asked: list[int] = []

    def arguments(reconnects: int) -> dict[str, Any]:
        asked.append(reconnects)
        return {"x-priority": reconnects}

    subscription = await link.transport.subscribe(queue, inbox, arguments=arguments)
    for number in range(3):
        if number:
            await link.break_connection()
            assert not subscription.consuming
            await link.reconnected()
        await other.publish(to(queue, b"%d" % number, mandatory=True))
        await inbox.until(b"%d" % number)  # what came last may come again: its ack was under way
        assert subscription.consuming
    assert asked == [0, 1, 2]


async def test_a_subscription_consumes_again_after_its_queue_was_deleted(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(bench.exchange(), "key"), Inbox()
    subscription = await transport.subscribe(queue, inbox)
    await other.delete(queue.name)

    async def reachable() -> bool:
        try:
            await other.publish(to(queue, b"hello", mandatory=True))
        except Unroutable:
            return False
        return True

    await eventually(reachable)
    assert await inbox.bodies(1) == [b"hello"]
    await eventually(lambda: subscription.consuming)


async def test_with_keep_messages_wait_in_the_queue_while_disconnected(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(bench.exchange(), "key", expires=60.0), Inbox()
    gone: list[str] = []
    await link.transport.subscribe(queue, inbox, keep=True, gone=lambda: gone.append("gone"))
    await link.cut()

    async def unattended() -> bool:
        return (await look(other, queue)).consumers == 0

    await eventually(unattended)
    await other.publish(to(queue, b"while away", mandatory=True))
    await holds(other, queue, 1)
    link.heal()
    assert await inbox.bodies(1) == [b"while away"]
    assert gone == []


async def test_with_keep_gone_is_called_once_the_lost_queue_is_declared_again(
    bench: Bench,
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(bench.exchange(), "key", expires=60.0), Inbox()
    gone = asyncio.Event()
    consumed: list[tuple[int, bool]] = []

    def arguments(reconnects: int) -> dict[str, Any]:
        consumed.append((reconnects, gone.is_set()))
        return {}

    await link.transport.subscribe(queue, inbox, keep=True, gone=gone.set, arguments=arguments)
    assert not gone.is_set()
    await link.cut()
    await other.delete(queue.name)
    link.heal()
    async with asyncio.timeout(PATIENCE):
        await gone.wait()
    await link.reconnected()
    await other.publish(to(queue, b"hello", mandatory=True))
    assert await inbox.bodies(1) == [b"hello"]
    assert consumed == [(0, False), (1, True)]


async def test_a_cancelled_subscription_can_still_settle_its_deliveries(
    bench: Bench,
) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    subscription = await transport.subscribe(queue, inbox, prefetch=2)
    for body in (b"a", b"b", b"c"):
        await transport.publish(to(queue, body))
    first, second = await inbox.next(), await inbox.next()
    await subscription.cancel()
    await subscription.cancel()
    assert not subscription.consuming
    assert not first.stale
    first.ack()
    second.reject(requeue=True)
    await holds(other, queue, 2)
    assert (await look(other, queue)).consumers == 0
    assert inbox.waiting == 0
    rest = Inbox()
    await other.subscribe(queue, rest)
    assert await rest.bodies(2) == [b"b", b"c"]


async def test_deliveries_of_a_cancelled_subscription_are_requeued_with_the_connection(
    bench: Bench,
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    subscription = await link.transport.subscribe(queue, inbox)
    await other.publish(to(queue))
    delivery = await inbox.next()
    await subscription.cancel()
    await link.break_connection()
    assert delivery.stale
    await holds(other, queue, 1)


async def test_a_subscription_cancelled_while_disconnected_does_not_consume_again(
    bench: Bench,
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    subscription = await link.transport.subscribe(queue, inbox)
    await link.cut()
    with no_longer_than(2):
        await subscription.cancel()
    link.heal()
    await link.reconnected()
    await other.publish(to(queue))
    await holds(other, queue, 1)
    assert (await look(other, queue)).consumers == 0


async def test_cancel_is_bounded_if_the_broker_does_not_answer(bench: Bench) -> None:
    link = await bench.link()
    subscription = await link.transport.subscribe(bench.queue(), Inbox())
    link.mute()
    with no_longer_than(10):
        await subscription.cancel()
    assert not subscription.consuming
    await link.break_connection()

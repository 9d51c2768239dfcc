"""Deliveries: acks, rejects, dead letters, handlers; over every transport."""

from __future__ import annotations

import asyncio
import contextvars
from datetime import UTC

import pytest

from aiorpc.transports.base import Delivery, QueueState
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    holds,
    look,
    to,
)


async def test_nothing_is_delivered_inside_send(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    transport.send(to(queue))
    assert inbox.waiting == 0
    await inbox.next()


async def test_handlers_do_not_run_in_the_context_of_the_sender(bench: Bench) -> None:
    transport = await bench.connect()
    queue, came = bench.queue(), asyncio.Event()
    variable = contextvars.ContextVar("whose", default="nobody's")
    seen: list[str] = []

    def received(delivery: Delivery) -> None:
        seen.append(variable.get())
        delivery.ack()
        came.set()

    async def send() -> None:
        variable.set("the sender's")
        transport.send(to(queue, settled=lambda error: None))
        await came.wait()

    await transport.subscribe(queue, received)
    async with asyncio.timeout(PATIENCE):
        await asyncio.create_task(send())
    assert seen == ["nobody's"]


async def test_an_acked_message_is_removed_from_its_queue(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue))
    await inbox.next()
    await transport.aclose()
    assert await look(other, queue) == QueueState(queue.name, True, 0, 0)


async def test_acks_in_any_order_ack_only_their_own_messages(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    await transport.subscribe(queue, inbox)
    for number in range(10):
        transport.send(to(queue, b"%d" % number))
    deliveries = [await inbox.next() for _ in range(10)]
    for number in (8, 1, 2, 0, 5, 9):
        deliveries[number].ack()
    await asyncio.sleep(0)
    deliveries[4].ack()
    await transport.aclose()
    left = Inbox()
    await other.subscribe(queue, left)
    assert await left.bodies(3) == [b"3", b"6", b"7"]


async def test_a_requeued_message_keeps_its_place_in_the_queue(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    await transport.declare(queues=[queue])
    for body in (b"a", b"b", b"c", b"d"):
        await transport.publish(to(queue, body))
    await transport.subscribe(queue, inbox, prefetch=2)
    first, second = await inbox.next(), await inbox.next()
    second.reject(requeue=True)
    again = await inbox.next()
    assert (again.message.body, again.redelivered) == (b"b", True)
    again.reject(requeue=True)
    first.reject(requeue=True)
    assert sorted(await inbox.bodies(2)) == [b"a", b"b"]


async def test_a_rejected_message_is_dropped(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue))
    (await inbox.next()).reject(requeue=False)
    await transport.aclose()
    assert (await look(other, queue)).messages == 0


async def test_a_second_ack_or_reject_does_nothing(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    await transport.subscribe(queue, inbox, prefetch=1)
    for body in (b"a", b"b", b"c"):
        await transport.publish(to(queue, body))
    first = await inbox.next()
    first.ack()
    first.ack()
    first.reject(requeue=True)
    second = await inbox.next()
    second.reject(requeue=False)
    second.reject(requeue=True)
    second.ack()
    with pytest.raises(RuntimeError):
        second.answer(to(queue, b"reply"))
    assert (await inbox.next()).message.body == b"c"
    await transport.aclose()
    await holds(other, queue, 1)


async def test_a_rejected_message_goes_to_the_dead_letter_exchange(bench: Bench) -> None:
    transport = await bench.connect()
    exchange = bench.exchange("direct")
    graves = bench.queue(exchange, "dead")
    arguments = {"x-dead-letter-exchange": exchange.name, "x-dead-letter-routing-key": "dead"}
    queue, inbox, dead = bench.queue(arguments=arguments), Inbox(ack=False), Inbox()
    await transport.subscribe(graves, dead)
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue, b"poison", headers={"mine": 1}))
    (await inbox.next()).reject(requeue=False)
    delivery = await dead.next()
    assert (delivery.message.body, delivery.routing_key) == (b"poison", "dead")
    headers = dict(delivery.message.headers or {})
    (death,) = headers.pop("x-death")
    assert death.pop("time").tzinfo is UTC
    assert death == {
        "count": 1,
        "reason": "rejected",
        "queue": queue.name,
        "exchange": "",
        "routing-keys": [queue.name],
    }
    assert headers["mine"] == 1
    assert headers["x-first-death-queue"] == queue.name
    assert headers["x-first-death-reason"] == "rejected"


async def test_a_handler_that_raises_is_logged_and_gets_the_next_message(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()

    def received(delivery: Delivery) -> None:
        inbox(delivery)
        if delivery.message.body == b"bad":
            raise RuntimeError("the handler's own")

    await transport.subscribe(queue, received)
    for body in (b"bad", b"good"):
        transport.send(to(queue, body))
    assert await inbox.bodies(2) == [b"bad", b"good"]
    assert "the handler's own" in caplog.text


async def test_deliveries_of_a_lost_connection_are_stale_and_redelivered(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    await link.transport.subscribe(queue, inbox)
    for body in (b"a", b"b", b"c"):
        await other.publish(to(queue, body))
    old = [await inbox.next() for _ in range(3)]
    await link.break_connection()
    assert [delivery.stale for delivery in old] == [True] * 3
    old[0].ack()
    old[1].reject(requeue=False)
    new = [await inbox.next() for _ in range(3)]
    assert [each.message.body for each in new] == [b"a", b"b", b"c"]
    assert [each.redelivered for each in new] == [True] * 3
    old[2].ack()
    for delivery in new:
        delivery.ack()
    await link.transport.aclose()
    assert (await look(other, queue)).messages == 0

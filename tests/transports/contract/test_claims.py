"""Rights that one connection holds at a time, and full queues; over every transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aiorpc.exceptions import ConnectionLost, Overloaded, Unroutable
from aiorpc.transports.base import Claim, Transport
from aiorpc.wire.message import Message, Queue
from tests.support.transports import PATIENCE, Bench, Inbox, holds, to
from tests.support.waiting import eventually


async def hold(transport: Transport, name: str) -> Claim:
    claim = await transport.claim(name)
    assert claim is not None
    return claim


async def becomes_free(transport: Transport, name: str) -> None:
    async def check() -> bool:
        state = await transport.inspect(name, PATIENCE)  # None while another connection holds it
        return state is not None and not state.exists

    await eventually(check)


async def bodies(claim: Claim, queue: Queue) -> list[bytes]:
    """Take all messages of *queue*."""
    taken = []
    while (got := await claim.get(queue.name)) is not None:
        taken.append(got.body)
        got.ack()
    return taken


async def test_one_connection_holds_a_right_until_it_releases_it(bench: Bench) -> None:
    first, second = await bench.connect(), await bench.connect()
    name = bench.queue().name
    claim = await hold(first, name)
    await claim.confirm()
    assert await second.claim(name) is None
    assert await first.claim(name) is None
    assert claim.held
    await claim.release()
    await claim.release()
    assert not claim.held
    with pytest.raises(ConnectionLost, match=name):
        await claim.confirm()
    await becomes_free(second, name)
    await (await hold(second, name)).confirm()


async def test_two_claims_of_one_connection_at_once_give_one_right(bench: Bench) -> None:
    transport = await bench.connect()
    name = bench.queue().name
    claims = await asyncio.gather(*(transport.claim(name) for _ in range(3)))
    assert len([claim for claim in claims if claim is not None]) == 1


async def test_a_right_ends_with_its_connection_and_sends_nothing_on_the_next_one(
    bench: Bench,
) -> None:
    link, other = await bench.link(), await bench.connect()
    state, name = bench.queue(), bench.queue().name
    await other.declare(queues=[state])
    claim = await hold(link.transport, name)
    await link.break_connection()
    await link.reconnected()
    assert not claim.held
    for request in (
        claim.confirm(),
        claim.get(state.name),
        claim.put(state.name, Message(body=b"late")),
    ):
        with pytest.raises(ConnectionLost):
            await request
    taken = await hold(other, name)
    assert await bodies(taken, state) == []


async def test_a_put_without_a_confirm_is_lost_with_its_connection(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    state, name = bench.queue(), bench.queue().name
    await other.declare(queues=[state])
    claim = await hold(link.transport, name)
    link.mute()
    put = asyncio.ensure_future(claim.put(state.name, Message(body=b"sent")))
    await holds(other, state, 1)
    await link.break_connection()
    with pytest.raises(ConnectionLost):
        await put
    await link.reconnected()
    await holds(other, state, 1)


async def test_the_holder_reads_a_queue_message_by_message(bench: Bench) -> None:
    transport = await bench.connect()
    state, name = bench.queue(), bench.queue().name
    await transport.declare(queues=[state])
    claim = await hold(transport, name)
    assert await claim.get(state.name) is None
    await claim.put(state.name, Message(body=b"1"))
    await claim.put(state.name, Message(body=b"2"))
    await claim.put(state.name, Message(body=b""))
    assert await bodies(claim, state) == [b"1", b"2", b""]
    with pytest.raises(Unroutable):
        await claim.put(f"{state.name}-missing", Message(body=b"1"))


async def test_a_message_that_was_taken_and_not_acked_comes_back(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    state, name = bench.queue(), bench.queue().name
    await other.declare(queues=[state])
    claim = await hold(link.transport, name)
    await claim.put(state.name, Message(body=b"kept"))
    assert await claim.get(state.name) is not None
    await holds(other, state, 0)
    await link.cut()
    await holds(other, state, 1)
    assert await bodies(await hold(other, name), state) == [b"kept"]


async def test_a_right_can_be_released_after_a_get_from_a_missing_queue(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    name = bench.queue().name
    claim = await hold(transport, name)
    with pytest.raises(ConnectionLost, match="404"):
        await claim.get(bench.queue().name)
    await claim.release()

    async def is_free() -> bool:
        return await other.claim(name) is not None

    await eventually(is_free)


async def test_a_cancelled_claim_leaves_the_right_free(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue = bench.queue()
    for turns in range(12):
        claiming = asyncio.ensure_future(transport.claim(queue.name))
        for _ in range(turns):
            await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.wait([claiming])
        if not claiming.cancelled() and (claim := claiming.result()) is not None:
            await claim.release()
        await becomes_free(other, queue.name)


async def test_a_right_can_be_released_after_a_cancelled_request_in_any_turn(
    bench: Bench,
) -> None:
    transport, other = await bench.connect(), await bench.connect()
    state, right = bench.queue(), bench.queue()
    await transport.declare(queues=[state])
    requests: list[Callable[[Claim], Awaitable[object]]] = [
        lambda claim: claim.confirm(),
        lambda claim: claim.get(state.name),
        lambda claim: claim.put(state.name, Message(body=b"x")),
    ]
    for request in requests:
        done = False
        turns = 0
        while not done:  # one turn later each time, until the answer comes before the cancel
            claim = await hold(transport, right.name)
            asking = asyncio.ensure_future(request(claim))
            for _ in range(turns):
                await asyncio.sleep(0)
            done = asking.done()
            asking.cancel()
            await asyncio.wait([asking])
            await claim.release()
            await becomes_free(other, right.name)
            turns += 1


@pytest.mark.parametrize("name", ["größe", "a b/c", "x" * 255])
async def test_a_right_may_have_any_name_of_a_queue(bench: Bench, name: str) -> None:
    transport = await bench.connect()
    queue = Queue(f"{bench.name()}-{name}"[:255])
    bench.queues.append(queue.name)
    await transport.declare(queues=[queue])
    claim = await hold(transport, f"{queue.name}-right"[-255:])
    await claim.put(queue.name, Message(body=b"x"))
    assert await bodies(claim, queue) == [b"x"]


async def test_a_full_queue_drops_its_oldest_message(bench: Bench) -> None:
    transport, inbox = await bench.connect(), Inbox()
    dead = bench.queue()
    await transport.declare(queues=[dead])
    queue = bench.queue(
        arguments={
            "x-max-length": 2,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead.name,
        }
    )
    await transport.declare(queues=[queue])
    for body in (b"1", b"2", b"3", b"4"):
        await transport.publish(to(queue, body))
    await holds(transport, queue, 2)
    await holds(transport, dead, 2)
    await transport.subscribe(queue, inbox, prefetch=1)
    assert await inbox.bodies(2) == [b"3", b"4"]
    for number in range(20):  # a consumer that takes them leaves no surplus
        await transport.publish(to(queue, b"%d" % number))
        assert await inbox.bodies(1) == [b"%d" % number]


async def test_a_full_queue_may_refuse_messages(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue(arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, b"1"))
    with pytest.raises(Overloaded, match="a queue of this message is full"):
        await transport.publish(to(queue, b"2"))
    await holds(transport, queue, 1)

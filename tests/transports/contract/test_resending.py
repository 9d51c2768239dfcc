"""
Messages while the connection is lost: re-sending, waiting, expiring, retracting, and size. Over
every transport.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiorpc.exceptions import (
    AioRpcError,
    ConnectionLost,
    Unroutable,
    UnserializableValueError,
)
from aiorpc.wire.message import Message
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    Outcome,
    no_longer_than,
    to,
)


async def test_a_message_that_expires_while_it_waits_is_never_sent(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)
    await link.cut()
    now = asyncio.get_running_loop().time()
    link.transport.send(to(queue, b"late", expires_at=now + 0.03, settled=outcome))
    with no_longer_than(1):
        assert [type(error) for error in await outcome.all()] == [ConnectionLost]
    with pytest.raises(ConnectionLost, match=r"0\.03 s|within its time"):
        await link.transport.publish(to(queue, b"late too"), 0.03)
    link.heal()
    await link.transport.publish(to(queue, b"in time", expires_at=now + 60), PATIENCE)
    assert await inbox.until(b"in time") == []


async def test_an_unconfirmed_message_is_resent_as_its_sender_says(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)
    asked: list[Message] = []

    def again(message: Message) -> Message:
        asked.append(message)
        return Message(body=message.body, headers={"resent": len(asked)})

    link.mute()
    sent = to(queue, b"important", again=again, settled=outcome)
    link.transport.send(sent)
    assert (await inbox.next()).message.headers is None
    assert (asked, outcome.outcomes) == ([], [])
    await link.break_connection()
    assert (await inbox.next()).message.headers == {"resent": 1}
    assert await outcome.all() == [None]
    assert [message.body for message in asked] == [b"important"]


@pytest.mark.parametrize("again", [None, lambda message: None], ids=["without", "declined"])
async def test_an_unconfirmed_message_is_not_resent_unless_its_sender_agrees(
    bench: Bench, again: Any
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)
    link.mute()
    link.transport.send(to(queue, b"once", again=again, settled=outcome))
    await inbox.next()
    await link.break_connection()
    (error,) = await outcome.all()
    assert isinstance(error, ConnectionLost)
    assert "may have been delivered" in str(error)
    await link.transport.publish(to(queue, b"marker"), PATIENCE)
    assert await inbox.until(b"marker") == []


async def test_a_confirmed_message_and_one_without_confirm_are_not_resent(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await other.subscribe(queue, inbox)

    def never(message: Message) -> Message:
        raise AssertionError("it was asked for again")

    await link.transport.publish(to(queue, b"confirmed", again=never))
    link.transport.send(to(queue, b"unconfirmed", again=never, confirm=False))
    assert await inbox.bodies(2) == [b"confirmed", b"unconfirmed"]
    await link.break_connection()
    await link.transport.publish(to(queue, b"marker"), PATIENCE)
    assert await inbox.until(b"marker") == []


async def test_a_cancelled_publish_is_not_sent_later(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await other.subscribe(queue, inbox)
    await link.cut()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await link.transport.publish(to(queue, b"given up"))
    link.heal()
    await link.transport.publish(to(queue, b"marker"), PATIENCE)
    assert await inbox.until(b"marker") == []


async def test_a_retracted_waiting_message_is_neither_sent_nor_settled(
    bench: Bench,
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)
    await link.cut()
    outgoing = to(queue, b"retracted", settled=outcome)
    link.transport.send(outgoing)
    assert link.transport.retract(outgoing)
    assert not link.transport.retract(outgoing)
    link.heal()
    await link.transport.publish(to(queue, b"marker"), PATIENCE)
    assert await inbox.until(b"marker") == []
    assert outcome.outcomes == []


async def test_a_sent_message_that_is_retracted_is_not_resent(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)
    link.mute()
    outgoing = to(queue, b"once", again=lambda message: message, settled=outcome)
    link.transport.send(outgoing)
    assert await inbox.bodies(1) == [b"once"]
    assert not link.transport.retract(outgoing)
    await link.break_connection()
    assert [type(error) for error in await outcome.all()] == [ConnectionLost]
    await link.transport.publish(to(queue, b"marker"), PATIENCE)
    assert await inbox.until(b"marker") == []


async def test_no_message_is_lost_while_connections_break(bench: Bench) -> None:
    sender, receiver = await bench.link(), await bench.link()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await receiver.transport.subscribe(queue, inbox, prefetch=10)
    missing = {b"%d" % number for number in range(300)}
    for number in range(300):
        sender.transport.send(
            to(queue, b"%d" % number, settled=outcome, again=lambda message: message)
        )
        if number % 100 == 50:
            await sender.break_connection()
        if number % 100 == 80:
            await receiver.break_connection()
    while missing:
        missing.discard((await inbox.next()).message.body)
    assert await outcome.all(300) == [None] * 300


async def test_a_sender_that_raises_when_asked_to_resend_fails_alone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, failing, resent = bench.queue(), Inbox(), Outcome(), Outcome()
    await other.subscribe(queue, inbox)

    def fail(message: Message) -> Message:
        raise RuntimeError("the sender's own")

    link.mute()
    link.transport.send(to(queue, b"failing", again=fail, settled=failing))
    link.transport.send(to(queue, b"resent", again=same, settled=resent))
    await inbox.bodies(2)
    await link.break_connection()
    await link.reconnected()
    assert [type(error) for error in await failing.all()] == [ConnectionLost]
    assert await resent.all() == [None]
    assert await inbox.bodies(1) == [b"resent"]
    assert "the sender's own" in caplog.text


async def test_a_settled_that_raises_after_a_lost_connection_harms_no_other_message(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, resent, lost = bench.queue(), Inbox(), Outcome(), Outcome()
    await other.subscribe(queue, inbox)

    def fail(error: AioRpcError | None) -> None:
        assert isinstance(error, ConnectionLost)
        raise RuntimeError("the sender's own")

    link.mute()
    link.transport.send(to(queue, b"failing", settled=fail))
    link.transport.send(to(queue, b"resent", again=same, settled=resent))
    link.transport.send(to(queue, b"lost", settled=lost))
    await inbox.bodies(3)
    await link.break_connection()
    await link.reconnected()
    assert await resent.all() == [None]
    assert [type(error) for error in await lost.all()] == [ConnectionLost]
    assert await inbox.bodies(1) == [b"resent"]
    assert "the sender's own" in caplog.text


async def test_a_settled_may_send_another_message_after_a_lost_connection(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)

    def send_instead(error: AioRpcError | None) -> None:
        link.transport.send(to(queue, b"instead", settled=outcome))

    link.mute()
    link.transport.send(to(queue, b"lost", settled=send_instead))
    await inbox.bodies(1)
    await link.break_connection()
    assert await outcome.all() == [None]
    assert await inbox.bodies(1) == [b"instead"]


async def test_a_resent_message_that_cannot_be_sent_fails_alone(bench: Bench) -> None:
    bench.config = {**bench.config, "MAX_MESSAGE_SIZE": 4096}
    link, other = await bench.link(), await bench.connect()
    queue, inbox, outcomes = bench.queue(), Inbox(), [Outcome() for _ in range(3)]
    await other.subscribe(queue, inbox)
    agains: list[Any] = [
        lambda message: Message(body=bytes(4097)),
        lambda message: Message(body=b"", headers={"bad": object()}),
        same,
    ]
    link.mute()
    for again, outcome in zip(agains, outcomes, strict=True):
        link.transport.send(to(queue, again=again, settled=outcome))
    await inbox.bodies(3)
    await link.break_connection()
    told = [(await outcome.all())[0] for outcome in outcomes]
    assert [type(error) for error in told[:2]] == [UnserializableValueError] * 2
    assert told[2] is None


async def test_a_resent_message_that_expires_while_it_waits_is_not_resent(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)
    at = asyncio.get_running_loop().time() + 0.3
    link.mute()
    link.transport.send(to(queue, b"late", again=same, expires_at=at, settled=outcome))
    await inbox.bodies(1)
    await link.cut()
    assert outcome.outcomes == []
    (error,) = await outcome.all()
    assert isinstance(error, ConnectionLost)
    assert "within its time" in str(error)
    link.heal()
    await link.transport.publish(to(queue, b"marker"), PATIENCE)
    assert await inbox.until(b"marker") == []


@pytest.mark.parametrize("size", [4096, 4097])
async def test_a_body_over_max_message_size_is_refused_while_disconnected(
    bench: Bench, size: int
) -> None:
    bench.config = {**bench.config, "MAX_MESSAGE_SIZE": 4096}
    link = await bench.link(start=False)
    queue, outcome = bench.queue(), Outcome()
    too_large = size > 4096
    link.transport.send(to(queue, bytes(size), settled=outcome))
    assert outcome.outcomes == []
    if too_large:
        (error,) = await outcome.all()
        assert isinstance(error, UnserializableValueError)
        assert "MAX_MESSAGE_SIZE" in str(error)
        with pytest.raises(UnserializableValueError, match="MAX_MESSAGE_SIZE"):
            link.transport.send(to(queue, bytes(size)))
    assert link.transport.waiting == (0 if too_large else 1)
    await link.transport.start(PATIENCE)
    await outcome.all()
    assert len(outcome.outcomes) == 1


async def test_a_message_can_be_retracted_in_every_state(bench: Bench) -> None:
    link, other = await bench.link(start=False), await bench.connect()
    queue, inbox, confirmed = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)
    early, late = to(queue, b"early"), to(queue, b"late")
    link.transport.send(early)
    assert link.transport.retract(early)
    assert link.transport.waiting == 0
    await link.transport.start(PATIENCE)
    sent = to(queue, b"sent", settled=confirmed)
    link.transport.send(sent)
    assert not link.transport.retract(sent)
    assert await confirmed.all() == [None]
    assert not link.transport.retract(sent)
    await link.transport.aclose()
    link.transport.send(late)
    assert not link.transport.retract(late)
    assert await inbox.until(b"sent") == []


async def test_a_returned_message_can_be_retracted(bench: Bench) -> None:
    transport = await bench.connect()
    outcome = Outcome()
    outgoing = to(bench.queue(), mandatory=True, settled=outcome)
    transport.send(outgoing)
    await outcome.all()
    assert not transport.retract(outgoing)
    assert [type(error) for error in outcome.outcomes] == [Unroutable]


def same(message: Message) -> Message:
    return message

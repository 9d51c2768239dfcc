"""Messages that wait for a connection, and the sender that sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from aiorpc.exceptions import AioRpcError, ConnectionLost
from aiorpc.transports import backlog as module
from aiorpc.transports.backlog import Backlog, Sender
from aiorpc.transports.base import Outgoing
from aiorpc.transports.outgoing import NO_LIMIT, SizeLimit
from aiorpc.wire.message import Message
from tests.support.waiting import eventually


def message(body: bytes = b"x", *, exchange: str = "x", **options: Any) -> Outgoing:
    expiration = options.pop("expiration", None)
    return Outgoing(
        exchange=exchange,
        routing_key="k",
        message=Message(body=body, expiration=expiration),
        settled=list[AioRpcError | None]().append,
        **options,
    )


def outcomes(outgoing: Outgoing) -> list[Any]:
    """What *outgoing* settled with; ``settled`` appends to it."""
    return outgoing.settled.__self__


def bodies(backlog: Backlog) -> list[bytes]:
    taken = []
    while (outgoing := backlog.take()) is not None:
        taken.append(outgoing.message.body)
    return taken


# --- the backlog


async def test_put_back_messages_come_first_in_their_order() -> None:
    backlog = Backlog("not connected", lambda: None)
    for body in (b"3", b"4"):
        backlog.add(message(body))
    backlog.put_back([message(b"1"), message(b"2")])
    assert len(backlog) == 4
    assert bodies(backlog) == [b"1", b"2", b"3", b"4"]


async def test_a_message_that_its_sender_does_not_want_any_more_is_not_sent() -> None:
    class Answered(Outgoing):
        @property
        def wanted(self) -> bool:
            return False

    idle: list[int] = []
    backlog = Backlog("not connected", lambda: idle.append(len(backlog)))
    backlog.add(message(b"1"))
    backlog.add(Answered(exchange="x", routing_key="k", message=Message(body=b"2")))
    assert bodies(backlog) == [b"1"]
    assert idle == [0]


async def test_a_message_that_is_sent_twice_waits_twice() -> None:
    backlog = Backlog("not connected", lambda: None)
    outgoing = message()
    backlog.add(outgoing)
    backlog.add(outgoing)
    assert bodies(backlog) == [b"x", b"x"]


async def test_a_full_outbox_settles_the_next_message_with_connection_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 3)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    by_count, by_bytes = (
        Backlog("not connected to there", lambda: None),
        Backlog("not connected", lambda: None),
    )
    for _ in range(3):
        by_count.add(message())
    one_more, too_big = message(), message(b"x" * 6)
    by_count.add(one_more)
    by_bytes.add(message(b"x" * 5))
    by_bytes.add(too_big)
    assert outcomes(one_more) == outcomes(too_big) == []  # never inside send
    await asyncio.sleep(0)
    for refused in (one_more, too_big):
        (error,) = outcomes(refused)
        assert isinstance(error, ConnectionLost)
        assert "wait already" in str(error)
    assert (len(by_count), len(by_bytes)) == (3, 1)
    by_bytes.put_back([message(b"x" * 20)])  # what was sent once is not refused
    assert len(by_bytes) == 2


async def test_an_expired_message_settles_in_time_and_the_others_stay() -> None:
    backlog = Backlog("not connected to there", lambda: None)
    now = asyncio.get_running_loop().time()
    settled = asyncio.Event()
    first = message(b"first", expires_at=now + 0.03)
    backlog.add(message(b"for ever"))
    backlog.add(message(b"later", expires_at=now + 60))
    backlog.add(first)
    last = message(b"last", expires_at=now + 0.06)
    last.settled = lambda error: settled.set()
    backlog.add(last)
    async with asyncio.timeout(5):
        await settled.wait()
    (error,) = outcomes(first)
    assert isinstance(error, ConnectionLost)
    assert "not sent within its time: not connected to there" in str(error)
    assert bodies(backlog) == [b"for ever", b"later"]
    backlog.fail(ConnectionLost("end"))


async def test_time_spent_waiting_shortens_the_expiration() -> None:
    backlog = Backlog("not connected", lambda: None)
    now = asyncio.get_running_loop().time()
    outgoing = message(expires_at=now + 5, expiration=30_000)
    as_sent = outgoing.message
    backlog.add(outgoing)
    backlog.add(message(expires_at=now + 60, expiration=1_000))
    first, second = backlog.take(), backlog.take()
    assert first is not None
    assert second is not None
    assert first.message.expiration is not None
    assert 4_000 < first.message.expiration <= 5_000
    assert second.message.expiration == 1_000
    assert as_sent.expiration == 30_000  # the sender's own message is left alone
    backlog.fail(ConnectionLost("end"))


async def test_crowded_changes_as_messages_come_and_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MANY_MESSAGES", 4)
    changes: list[bool] = []
    backlog = Backlog("not connected", lambda: changes.append(backlog.crowded))
    for _ in range(6):
        backlog.add(message())
    assert backlog.crowded
    bodies(backlog)
    assert not backlog.crowded
    assert changes == [True, False, False]  # crowded, not crowded any more, empty


# --- the sender


class Channel:
    """A channel on which everything leaves at once."""

    def __init__(self) -> None:
        self.left: list[int] = []
        self.ready = True
        self.confirmed = asyncio.Event()
        self.confirmed.set()

    @property
    def idle(self) -> bool:
        return self.confirmed.is_set()

    def publish(self, outgoing: Outgoing) -> None:
        self.left.append(int(outgoing.message.body))

    async def drained(self) -> None:
        pass

    async def all_confirmed(self) -> None:
        await self.confirmed.wait()


async def spin() -> None:
    """Let the loop run everything that is ready."""
    for _ in range(20):
        await asyncio.sleep(0)


class Sending:
    """A sender with a channel."""

    def __init__(self) -> None:
        self.channel = Channel()
        self.left = self.channel.left
        self.sender = Sender("no", limit=SizeLimit(NO_LIMIT), on_change=lambda: None)

    async def all_left(self, count: int) -> None:
        await eventually(lambda: len(self.left) >= count)


async def test_waiting_messages_are_sent_in_order_then_new_ones_at_once() -> None:
    sending = Sending()
    for number in range(1000):
        sending.sender.send(message(b"%d" % number))
    sending.sender.resume(sending.channel)
    await sending.all_left(1000)
    sending.sender.send(message(b"1000"))
    await sending.all_left(1001)
    assert sending.left == list(range(1001))


async def test_a_message_that_may_have_closed_a_channel_is_alone_on_the_next_one() -> None:
    sending = Sending()
    channel = sending.channel
    sending.sender.resume(channel)
    channel.confirmed.clear()
    for number, closes in enumerate([0, 1, 0]):
        sending.sender.send(message(b"%d" % number, closes=closes))
    await spin()
    assert sending.left == [0]
    channel.confirmed.set()
    await eventually(lambda: channel.left == [0, 1, 2])
    channel.confirmed.clear()
    sending.sender.take_back([message(b"3", closes=1), message(b"4")])
    await spin()
    assert sending.left == [0, 1, 2]


async def test_a_message_that_the_broker_never_confirms_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ALONE", 0.01)
    sending = Sending()
    sending.sender.resume(sending.channel)
    sending.channel.confirmed.clear()
    for number, closes in enumerate([0, 1, 0, 1, 1, 0]):
        sending.sender.send(message(b"%d" % number, closes=closes))
    await sending.all_left(6)
    assert sending.left == list(range(6))


async def test_nothing_follows_a_message_that_is_alone_before_its_confirm() -> None:
    sending = Sending()
    sending.sender.send(message(b"0", closes=1))
    sending.sender.send(message(b"1"))
    sending.sender.resume(sending.channel)
    sending.channel.confirmed.clear()
    sending.sender.send(message(b"2"))
    await spin()
    assert sending.left == [0]
    sending.channel.confirmed.set()
    await sending.all_left(3)


async def test_a_lost_connection_while_a_message_is_alone_is_no_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = Sending()

    async def drained() -> None:
        sending.sender.pause("lost")

    monkeypatch.setattr(sending.channel, "drained", drained)
    sending.sender.send(message(b"0", closes=1))
    sending.sender.resume(sending.channel)
    await spin()
    assert sending.left == [0]
    assert caplog.records == []


async def test_a_reply_taken_back_as_the_outbox_empties_is_sent() -> None:
    sending = Sending()
    for number in range(300):
        sending.sender.send(message(b"%d" % number))
    sending.sender.resume(sending.channel)
    await sending.all_left(300)
    reply = message(b"300")
    sending.sender.take_back([reply])
    await sending.all_left(301)
    sending.sender.send(message(b"301"))
    await sending.all_left(302)
    assert sending.left == list(range(302))


async def test_a_broker_that_blocks_and_unblocks_in_two_turns_gets_all_messages() -> None:
    sending = Sending()
    for number in range(1000):
        sending.sender.send(message(b"%d" % number))
    sending.sender.resume(sending.channel)
    await asyncio.sleep(0)
    sending.channel.ready = False
    sending.sender.pause("blocked")
    await asyncio.sleep(0)
    sending.channel.ready = True
    sending.sender.resume(sending.channel)
    await sending.all_left(1000)
    assert sending.left == list(range(1000))


async def test_a_sender_may_pause_while_an_expired_message_settles() -> None:
    sending = Sending()
    now = asyncio.get_running_loop().time()
    expired = message(b"0", expires_at=now - 1)
    expired.settled = lambda error: sending.sender.pause("lost")
    sending.sender.send(expired)
    sending.sender.send(message(b"1"))
    sending.sender.resume(sending.channel)
    assert (sending.left, len(sending.sender.backlog)) == ([], 1)
    sending.sender.send(message(b"2"))
    sending.sender.resume(sending.channel)
    assert sending.left == [1, 2]


@pytest.mark.parametrize("position", [50, 250])  # in the first batch, and in a later one
async def test_a_sender_may_reconnect_while_an_expired_message_settles(position: int) -> None:
    sending = Sending()
    other = Channel()

    def reconnect(error: AioRpcError | None) -> None:
        sending.sender.pause("lost")
        sending.sender.resume(other)

    now = asyncio.get_running_loop().time()
    for number in range(1000):
        if number == position:
            expired = message(b"expired", expires_at=now - 1)
            expired.settled = reconnect
            sending.sender.send(expired)
        sending.sender.send(message(b"%d" % number))
    sending.sender.resume(sending.channel)
    await eventually(lambda: len(sending.left) + len(other.left) == 1000)
    sending.sender.send(message(b"1000"))
    await eventually(lambda: len(sending.left) + len(other.left) == 1001)
    left = len(sending.left)  # on a slow machine, the message settles before its batch leaves
    assert left <= position
    assert sending.left == list(range(left))
    assert sorted(other.left) == list(range(left, 1001))


async def test_messages_sent_while_others_are_taken_back_wait_behind_them() -> None:
    sending = Sending()
    sending.sender.resume(sending.channel)

    def returning() -> Iterator[Outgoing]:
        sending.sender.send(message(b"2"))
        yield message(b"1")

    sending.sender.take_back(returning())
    assert sending.left == [1, 2]

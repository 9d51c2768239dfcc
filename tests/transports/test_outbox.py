"""Messages that wait for a connection, and what becomes of those whose channel ended too early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiorpc.exceptions import AioRpcError, ConfigurationError, ConnectionLost, Unroutable
from aiorpc.transports import outbox as module
from aiorpc.transports.amqp.errors import Refused
from aiorpc.transports.amqp.resend import sort_out
from aiorpc.transports.base import Outgoing
from aiorpc.transports.outbox import Outbox, Sender
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


def told(outgoing: Outgoing) -> list[Any]:
    """What its sender was told: ``settled`` appends to it."""
    return outgoing.settled.__self__


def bodies(outbox: Outbox) -> list[bytes]:
    taken = []
    while (outgoing := outbox.take()) is not None:
        taken.append(outgoing.message.body)
    return taken


# --- the outbox


async def test_what_comes_back_goes_first_and_in_its_order() -> None:
    outbox = Outbox("not connected", lambda: None)
    for body in (b"3", b"4"):
        outbox.add(message(body))
    outbox.put_back([message(b"1"), message(b"2")])
    assert len(outbox) == 4
    assert bodies(outbox) == [b"1", b"2", b"3", b"4"]


async def test_what_is_sent_twice_waits_twice() -> None:
    outbox = Outbox("not connected", lambda: None)
    outgoing = message()
    outbox.add(outgoing)
    outbox.add(outgoing)
    assert bodies(outbox) == [b"x", b"x"]


async def test_it_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 3)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    by_count, by_bytes = (
        Outbox("not connected to there", lambda: None),
        Outbox("not connected", lambda: None),
    )
    for _ in range(3):
        by_count.add(message())
    one_more, too_big = message(), message(b"x" * 6)
    by_count.add(one_more)
    by_bytes.add(message(b"x" * 5))
    by_bytes.add(too_big)
    assert told(one_more) == told(too_big) == []  # never inside send
    await asyncio.sleep(0)
    for refused in (one_more, too_big):
        (error,) = told(refused)
        assert isinstance(error, ConnectionLost)
        assert "wait already" in str(error)
    assert (len(by_count), len(by_bytes)) == (3, 1)
    by_bytes.put_back([message(b"x" * 20)])  # what was sent once is not refused
    assert len(by_bytes) == 2


async def test_what_expires_is_settled_in_time_and_the_rest_stays() -> None:
    outbox = Outbox("not connected to there", lambda: None)
    now = asyncio.get_running_loop().time()
    settled = asyncio.Event()
    first = message(b"first", expires_at=now + 0.03)
    outbox.add(message(b"for ever"))
    outbox.add(message(b"later", expires_at=now + 60))
    outbox.add(first)
    last = message(b"last", expires_at=now + 0.06)
    last.settled = lambda error: settled.set()
    outbox.add(last)
    async with asyncio.timeout(5):
        await settled.wait()
    (error,) = told(first)
    assert isinstance(error, ConnectionLost)
    assert "not sent within its time: not connected to there" in str(error)
    assert bodies(outbox) == [b"for ever", b"later"]
    outbox.fail(ConnectionLost("end"))


async def test_time_spent_waiting_is_taken_off_the_expiration() -> None:
    outbox = Outbox("not connected", lambda: None)
    now = asyncio.get_running_loop().time()
    outgoing = message(expires_at=now + 5, expiration=30_000)
    as_sent = outgoing.message
    outbox.add(outgoing)
    outbox.add(message(expires_at=now + 60, expiration=1_000))
    first, second = outbox.take(), outbox.take()
    assert first is not None
    assert second is not None
    assert first.message.expiration is not None
    assert 4_000 < first.message.expiration <= 5_000
    assert second.message.expiration == 1_000
    assert as_sent.expiration == 30_000  # the sender's own message is left alone
    outbox.fail(ConnectionLost("end"))


async def test_senders_are_asked_to_wait_and_told_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MANY_MESSAGES", 4)
    told: list[bool] = []
    outbox = Outbox("not connected", lambda: told.append(outbox.crowded))
    for _ in range(6):
        outbox.add(message())
    assert outbox.crowded
    bodies(outbox)
    assert not outbox.crowded
    assert told == [True, False]


# --- the sender


class Channel:
    """A channel on which everything leaves at once."""

    def __init__(self) -> None:
        self.left: list[int] = []
        self.ready = True

    def publish(self, outgoing: Outgoing) -> None:
        self.left.append(int(outgoing.message.body))

    async def drained(self) -> None:
        pass


class Sending:
    """A sender with a channel."""

    def __init__(self) -> None:
        self.channel = Channel()
        self.left = self.channel.left
        self.sender = Sender("no", check=lambda outgoing: None, on_crowded=lambda: None)

    async def all_left(self, count: int) -> None:
        await eventually(lambda: len(self.left) >= count)


async def test_what_waited_leaves_in_order_and_then_all_leaves_at_once() -> None:
    sending = Sending()
    for number in range(1000):
        sending.sender.send(message(b"%d" % number))
    sending.sender.resume(sending.channel)
    await sending.all_left(1000)
    sending.sender.send(message(b"1000"))
    await sending.all_left(1001)
    assert sending.left == list(range(1001))


async def test_a_reply_taken_back_in_the_turn_in_which_the_outbox_emptied_leaves() -> None:
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


async def test_a_broker_that_blocks_and_unblocks_in_two_turns_gets_the_rest() -> None:
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


# --- what was not confirmed


def same(sent: Message) -> Message:
    return sent


def sorted_out(refused: Refused | None, *outgoing: Outgoing) -> list[Outgoing]:
    return list(sort_out(dict(enumerate(outgoing, 1)), refused, "there"))


def test_after_a_lost_connection_the_sender_decides() -> None:
    changed = Message(body=b"changed")
    agrees, declines = message(again=lambda sent: changed), message(again=lambda sent: None)
    silent, unconfirmed = message(), message(confirm=False, again=same)
    returning = sorted_out(None, agrees, declines, silent, unconfirmed)
    assert returning == [agrees]
    assert agrees.message is changed
    assert told(agrees) == told(unconfirmed) == []
    for lost in (declines, silent):
        assert [type(error) for error in told(lost)] == [ConnectionLost]


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (Refused(404, "NOT_FOUND - no exchange 'gone' in vhost '/'"), Unroutable),
        (Refused(403, "ACCESS_REFUSED - access to exchange 'gone' in vhost"), ConfigurationError),
        (Refused(406, "PRECONDITION_FAILED - message size 3 is larger than"), AioRpcError),
    ],
)
def test_a_channel_closed_for_one_message_costs_that_message_alone(
    refused: Refused, kind: type[AioRpcError]
) -> None:
    before, culprit = message(again=same), message(b"big", exchange="gone", again=same)
    behind, unconfirmed = message(), message(b"y", confirm=False)
    returning = sorted_out(refused, before, culprit, behind, unconfirmed)
    assert [each.message.body for each in returning] == [b"x", b"x", b"y"]
    assert returning[:2] == [before, behind]
    assert returning[2].settled is None  # it was settled when it was written
    (error,) = told(culprit)
    assert isinstance(error, kind)
    assert "'gone'" in str(error)


def test_a_channel_that_closes_for_no_known_reason_is_tried_a_few_times() -> None:
    refused = Refused(406, "PRECONDITION_FAILED - something new")
    outgoing = message(again=same)
    assert sorted_out(refused, outgoing) == [outgoing]
    assert sorted_out(refused, outgoing) == [outgoing]
    assert sorted_out(refused, outgoing) == []
    (error,) = told(outgoing)
    assert "something new" in str(error)

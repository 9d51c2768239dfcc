"""
What every transport does, sentence by sentence of ``aiorpc/transports/base.py``, over each of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from aiorpc.config import resolve
from aiorpc.exceptions import (
    AioRpcError,
    ConfigurationError,
    ConnectionLost,
    Unroutable,
    UnserializableValueError,
)
from aiorpc.testing import faults
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing, QueueState, State
from aiorpc.wire.message import Exchange, Message, Queue
from tests.support.breakable import reaches
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    Outcome,
    holds,
    is_gone,
    look,
    no_longer_than,
    to,
)
from tests.support.waiting import eventually

# --- connecting, states, closing


async def test_every_change_of_state_is_told(bench: Bench) -> None:
    link = await bench.link(start=False)
    heard: list[State] = []
    stop = link.transport.on_state(heard.append)
    await link.transport.start(PATIENCE)
    assert link.transport.state is State.CONNECTED
    assert heard == [State.CONNECTING, State.CONNECTED]
    await link.break_connection()
    await link.reconnected()
    assert heard[2:] == [State.CONNECTING, State.CONNECTED]
    stop()
    await link.transport.aclose()
    assert len(heard) == 4
    assert link.transport.state is State.CLOSED


async def test_closing_is_told_too_and_a_failing_listener_stops_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await bench.connect()
    heard: list[State] = []

    def fail(state: State) -> None:
        raise RuntimeError("listener")

    transport.on_state(fail)
    transport.on_state(heard.append)
    await transport.aclose()
    assert heard == [State.CLOSED]
    assert "listener" in caplog.text


async def test_a_transport_is_entered_to_connect_and_left_to_hang_up(bench: Bench) -> None:
    async with bench.transport() as transport:
        assert transport.state is State.CONNECTED
    assert transport.state is State.CLOSED


async def test_the_url_shows_where_it_goes_without_a_password(bench: Bench) -> None:
    transport = await bench.connect()
    assert transport.url.partition("://")[0] == bench.config["AMQP_URI"].partition("://")[0]
    assert "guest:guest" not in transport.url


async def test_starting_gives_up_in_time_says_why_and_can_be_tried_again(bench: Bench) -> None:
    link = await bench.link(start=False)
    await link.cut()
    with no_longer_than(2), pytest.raises(ConnectionLost) as lost:
        await link.transport.start(0.1)
    assert link.transport.url in str(lost.value)
    assert "0.1 s" in str(lost.value)
    link.heal()
    await link.transport.start(PATIENCE)
    assert link.transport.state is State.CONNECTED


async def test_starting_without_a_timeout_waits_and_says_so_in_one_line(bench: Bench) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.put_nowait(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("aiorpc").addHandler(listener)
    try:
        link = await bench.link(start=False)
        await link.cut()
        starting = asyncio.create_task(link.transport.start())
        async with asyncio.timeout(PATIENCE):
            assert link.transport.url in await said.get()
        link.heal()
        async with asyncio.timeout(PATIENCE):
            await starting
        assert said.empty()
    finally:
        logging.getLogger("aiorpc").removeHandler(listener)


async def test_cancelled_starting_leaves_nothing_behind(bench: Bench) -> None:
    link = await bench.link(start=False)
    await link.cut()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await link.transport.start()
    # The bench sees that no task is left.


@pytest.mark.rabbitmq
@pytest.mark.parametrize("part", ["user", "vhost"])
async def test_a_broker_that_refuses_us_for_good_is_a_configuration_error(
    rabbitmq_uri: str, part: str
) -> None:
    host = rabbitmq_uri.rpartition("@")[2].rstrip("/")
    uri = {"user": f"amqp://nobody:wrong@{host}/", "vhost": rabbitmq_uri.rstrip("/") + "/nowhere"}
    transport = open_transport(resolve(uri[part]))
    with no_longer_than(PATIENCE), pytest.raises(ConfigurationError) as refused:
        await transport.start()
    assert {"user": "nobody", "vhost": "nowhere"}[part] in str(refused.value)
    assert "wrong" not in str(refused.value)
    await transport.aclose()


async def test_closing_lets_out_what_was_sent(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, outcome = bench.queue(), Outcome()
    await transport.declare(queues=[queue])
    for number in range(100):
        transport.send(to(queue, b"%d" % number, settled=outcome))
    await transport.aclose()
    assert outcome.told == [None] * 100
    inbox = Inbox()
    await other.subscribe(queue, inbox)
    assert await inbox.bodies(100) == [b"%d" % number for number in range(100)]


async def test_closing_is_bounded_and_fails_what_still_waits(bench: Bench) -> None:
    link = await bench.link()
    queue, outcome = bench.queue(), Outcome()
    await link.transport.declare(queues=[queue])
    await link.cut()
    link.transport.send(to(queue, settled=outcome))
    waiting = asyncio.create_task(link.transport.declare(queues=[queue]))
    await asyncio.sleep(0)
    with no_longer_than(3):
        await link.transport.aclose()
    assert [type(error) for error in outcome.told] == [ConnectionLost]
    with pytest.raises(ConnectionLost):
        await waiting


async def test_closing_is_bounded_where_the_broker_does_not_answer(bench: Bench) -> None:
    link = await bench.link()
    queue, outcome = bench.queue(), Outcome()
    await link.transport.declare(queues=[queue])
    link.mute()
    link.transport.send(to(queue, settled=outcome))
    with no_longer_than(10):
        await link.transport.aclose()
    assert [type(error) for error in outcome.told] == [ConnectionLost]


async def test_closing_twice_is_closing_once(bench: Bench) -> None:
    transport = await bench.connect()
    await asyncio.gather(transport.aclose(), transport.aclose())
    await transport.aclose()
    assert transport.state is State.CLOSED


async def test_closing_what_was_never_started_is_nothing(bench: Bench) -> None:
    transport = bench.transport()
    await transport.aclose()
    assert transport.state is State.CLOSED


async def test_closing_gives_back_what_is_unsettled(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, mine, theirs = bench.queue(), Inbox(ack=False), Inbox()
    await transport.subscribe(queue, mine)
    await other.publish(to(queue, b"a"))
    await other.publish(to(queue, b"b"))
    first, second = await mine.next(), await mine.next()
    assert (first.redelivered, second.redelivered) == (False, False)
    first.ack()
    await transport.aclose()
    await other.subscribe(queue, theirs)
    delivery = await theirs.next()
    assert (delivery.message.body, delivery.redelivered) == (b"b", True)


async def test_a_closed_transport_says_so_and_does_nothing(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(ack=False), Outcome()
    subscription = await transport.subscribe(queue, inbox)
    await other.publish(to(queue))
    delivery = await inbox.next()
    await transport.aclose()
    transport.send(to(queue, settled=outcome))
    assert outcome.told == []
    assert [type(error) for error in await outcome.all()] == [ConnectionLost]
    for refused in (
        lambda: transport.publish(to(queue)),
        lambda: transport.declare(queues=[queue]),
        lambda: transport.subscribe(queue, inbox),
        lambda: transport.start(),
    ):
        with pytest.raises(ConnectionLost):
            async with asyncio.timeout(PATIENCE):
                await refused()
    assert await transport.inspect(queue.name) is None
    await transport.delete(queue.name)
    await transport.drained()
    await subscription.cancel()
    assert not subscription.consuming
    assert delivery.stale
    delivery.ack()
    delivery.reject(requeue=True)
    await holds(other, queue, 1)


async def test_tests_can_break_a_connection(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(ack=False), Outcome()
    await transport.subscribe(queue, inbox)
    await other.publish(to(queue, b"unacked"))
    delivery = await inbox.next()
    for number in range(2):
        with faults.drop_connection(transport):
            await reaches(transport, State.CONNECTING)
            assert delivery.stale
            transport.send(to(bench.queue(), settled=outcome))
            await holds(other, queue, 1)
            assert len(outcome.told) == number
        await reaches(transport, State.CONNECTED)
        await outcome.all(number + 1)
        delivery = await inbox.next()
        assert (delivery.message.body, delivery.redelivered) == (b"unacked", True)


# --- sending


async def test_a_confirmed_message_settles_once_and_never_inside_send(bench: Bench) -> None:
    transport = await bench.connect()
    queue, outcome = bench.queue(), Outcome()
    await transport.declare(queues=[queue])
    transport.send(to(queue, mandatory=True, settled=outcome))
    assert outcome.told == []
    await outcome.all()
    await transport.publish(to(queue))
    assert outcome.told == [None]


async def test_an_unconfirmed_message_settles_when_it_is_written(bench: Bench) -> None:
    transport = await bench.connect()
    queue, outcome = bench.queue(), Outcome()
    await transport.declare(queues=[queue])
    transport.send(to(queue, confirm=False, settled=outcome))
    assert outcome.told == []
    assert await outcome.all() == [None]
    await holds(transport, queue, 1)


async def test_a_mandatory_message_that_no_queue_takes_comes_back(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue(bench.exchange(), "known")
    await transport.declare(queues=[queue])
    outcome = Outcome()
    lost = Outgoing(exchange=queue.exchange.name, routing_key="unknown", message=Message(body=b""))
    lost.mandatory, lost.settled = True, outcome
    transport.send(lost)
    assert outcome.told == []
    (error,) = await outcome.all()
    assert isinstance(error, Unroutable)
    assert queue.exchange.name in str(error)
    assert "'unknown'" in str(error)
    await transport.publish(to(queue, mandatory=True))
    assert len(outcome.told) == 1


async def test_a_message_that_no_queue_takes_is_dropped_unless_it_is_mandatory(
    bench: Bench,
) -> None:
    transport = await bench.connect()
    await transport.publish(to(bench.queue()))


async def test_an_unconfirmed_mandatory_message_may_settle_again_with_its_return(
    bench: Bench,
) -> None:
    transport = await bench.connect()
    outcome = Outcome()
    transport.send(to(bench.queue(), mandatory=True, confirm=False, settled=outcome))
    written, returned = await outcome.all(2)
    assert written is None
    assert isinstance(returned, Unroutable)


async def test_returns_find_their_messages_among_others(bench: Bench) -> None:
    transport = await bench.connect()
    queue, nowhere = bench.queue(), bench.queue()
    await transport.declare(queues=[queue])
    outcomes = [Outcome() for _ in range(20)]
    for number, outcome in enumerate(outcomes):
        transport.send(to(queue if number % 3 else nowhere, mandatory=True, settled=outcome))
    for number, outcome in enumerate(outcomes):
        (error,) = await outcome.all()
        assert isinstance(error, Unroutable) == (number % 3 == 0)


async def test_a_missing_exchange_is_unroutable_and_harms_nothing_else(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await transport.subscribe(queue, inbox)
    missing = bench.name()
    transport.send(to(queue, b"before", settled=outcome, again=lambda message: message))
    with pytest.raises(Unroutable, match=missing):
        await transport.publish(
            Outgoing(exchange=missing, routing_key="", message=Message(body=b"")), PATIENCE
        )
    await transport.publish(to(queue, b"after"), PATIENCE)
    assert set(await inbox.until(b"after")) == {b"before"}
    assert await outcome.all() == [None]


async def test_what_is_sent_before_starting_or_while_disconnected_waits_in_order(
    bench: Bench,
) -> None:
    link, other = await bench.link(start=False), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    await other.subscribe(queue, inbox)
    link.transport.send(to(queue, b"early", settled=outcome))
    await link.transport.start(PATIENCE)
    await outcome.all()
    await link.cut()
    link.transport.send(to(queue, b"1", settled=outcome))
    link.transport.send(to(queue, b"2", confirm=False, settled=outcome))
    published = asyncio.create_task(link.transport.publish(to(queue, b"3"), PATIENCE))
    await asyncio.sleep(0)
    assert len(outcome.told) == 1
    link.heal()
    await published
    assert await outcome.all(3) == [None] * 3
    assert await inbox.bodies(4) == [b"early", b"1", b"2", b"3"]


async def test_what_expires_while_it_waits_is_never_sent(bench: Bench) -> None:
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


async def test_what_was_not_confirmed_is_sent_again_as_its_sender_says(bench: Bench) -> None:
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
    assert (asked, outcome.told) == ([], [])
    await link.break_connection()
    assert (await inbox.next()).message.headers == {"resent": 1}
    assert await outcome.all() == [None]
    assert [message.body for message in asked] == [b"important"]


@pytest.mark.parametrize("again", [None, lambda message: None], ids=["without", "declined"])
async def test_what_was_not_confirmed_is_lost_without_its_senders_word(
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


async def test_what_was_confirmed_or_unconfirmed_by_wish_is_not_sent_again(bench: Bench) -> None:
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


async def test_publish_returns_when_the_broker_has_it(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue()
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, mandatory=True), PATIENCE)
    await holds(transport, queue, 1)


async def test_publish_tells_its_outcome_to_settled_too(bench: Bench) -> None:
    transport = await bench.connect()
    outcome = Outcome()
    with pytest.raises(Unroutable):
        await transport.publish(to(bench.queue(), mandatory=True, settled=outcome))
    assert [type(error) for error in outcome.told] == [Unroutable]


async def test_publish_gives_up_in_time_when_the_confirm_does_not_come(bench: Bench) -> None:
    link = await bench.link()
    queue = bench.queue()
    await link.transport.declare(queues=[queue])
    link.mute()
    with no_longer_than(1), pytest.raises(ConnectionLost, match=r"0\.05 s"):
        await link.transport.publish(to(queue), 0.05)
    await link.break_connection()


async def test_a_cancelled_publish_does_not_leave_later(bench: Bench) -> None:
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


async def test_what_is_retracted_leaves_no_more_and_is_not_settled(bench: Bench) -> None:
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
    assert outcome.told == []


async def test_what_was_sent_and_retracted_is_not_sent_again(bench: Bench) -> None:
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


async def test_senders_are_told_when_too_much_waits(bench: Bench) -> None:
    link = await bench.link()
    queue = bench.queue()
    assert not link.transport.congested
    await link.transport.drained()
    await link.cut()
    for _ in range(20_000):
        if link.transport.congested:
            break
        link.transport.send(to(queue, confirm=False))
    assert link.transport.congested
    drained = asyncio.create_task(link.transport.drained())
    await asyncio.sleep(0)
    assert not drained.done()
    link.heal()
    async with asyncio.timeout(PATIENCE):
        await drained
    assert not link.transport.congested


async def test_a_settled_that_raises_is_logged_and_stops_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await bench.connect()
    queue, outcome = bench.queue(), Outcome()
    await transport.declare(queues=[queue])

    def fail(error: AioRpcError | None) -> None:
        raise RuntimeError("the sender's own")

    transport.send(to(queue, settled=fail))
    transport.send(to(queue, settled=outcome))
    assert await outcome.all() == [None]
    assert "the sender's own" in caplog.text


# --- messages

EVERYTHING = {
    "text": "Grüße",
    "empty": "",
    "bytes": b"\x00\xff",
    "yes": True,
    "small": 200,
    "negative": -1000,
    "large": 1 << 40,
    "most": (1 << 63) - 1,
    "float": 0.1,
    "decimal": Decimal("-1.10"),
    "time": datetime(2026, 11, 23, 12, 30, 1, tzinfo=UTC),
    "none": None,
    "list": ["a", 1, None, ["b", {"c": 2.5}]],
    "table": {"d": {"e": [True]}},
}


async def test_all_properties_and_headers_arrive_as_they_were(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(bench.exchange(), "a.b"), Inbox()
    await transport.subscribe(queue, inbox)
    message = Message(
        body=b"\x00body",
        content_type="application/x-thing",
        content_encoding="binary",
        headers=EVERYTHING,
        persistent=False,
        priority=3,
        correlation_id="ümläut",
        reply_to="reply",
        expiration=60_000,
        message_id="id",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        type="kind",
        app_id="app",
    )
    await transport.publish(
        Outgoing(exchange=queue.exchange.name, routing_key="a.b", message=message)
    )
    delivery = await inbox.next()
    assert delivery.message == message
    assert (delivery.exchange, delivery.routing_key) == (queue.exchange.name, "a.b")
    assert not delivery.redelivered


async def test_properties_that_are_none_stay_out(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    bare = Message(
        body=b"", content_type=None, content_encoding=None, priority=None, persistent=False
    )
    await transport.publish(Outgoing(exchange="", routing_key=queue.name, message=bare))
    assert (await inbox.next()).message == bare
    await transport.publish(to(queue, headers={}))
    assert (await inbox.next()).message.headers == {}


async def test_values_come_as_amqp_has_them(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    naive = datetime(2026, 1, 2, 3, 4, 5, 678)
    headers = {"tuple": ("a", ("b",)), "time": naive, "array": bytearray(b"ab")}
    await transport.publish(to(queue, headers=headers))
    assert (await inbox.next()).message.headers == {
        "tuple": ["a", ["b"]],
        "time": naive.replace(microsecond=0, tzinfo=UTC),
        "array": b"ab",
    }


@pytest.mark.parametrize("size", [1, 131_064, 131_065, 1_000_000])
async def test_bodies_of_any_size_arrive_whole(bench: Bench, size: int) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    body = bytes(range(256)) * (size // 256 + 1)
    transport.send(to(queue, body[:size]))
    transport.send(to(queue, b"next"))
    assert (await inbox.next()).message.body == body[:size]
    assert (await inbox.next()).message.body == b"next"


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"thing": object()}, "'thing'"),
        ({"deep": {"er": [{1, 2}]}}, "deep"),
        ({"huge": 1 << 63}, "'huge'"),
        ({"n" * 256: 1}, "nnn"),
        ({5: "five"}, "5"),
        ({"lone": "\ud800"}, "'lone'"),
        ({"large": "x" * 131_050}, "one AMQP frame has room for"),  # the broker would hang up
        ({"large": ["x" * 1000] * 132}, "one AMQP frame has room for"),
    ],
)
@pytest.mark.parametrize("connected", [True, False])
async def test_a_header_that_amqp_cannot_carry_is_refused_by_name(
    bench: Bench, headers: Any, named: str, connected: bool
) -> None:
    link = await bench.link()
    queue, outcome = bench.queue(), Outcome()
    if not connected:
        await link.cut()
    link.transport.send(to(queue, headers=headers, settled=outcome))
    assert outcome.told == []
    (error,) = await outcome.all()
    assert isinstance(error, UnserializableValueError)
    assert named in str(error)
    with pytest.raises(UnserializableValueError):
        link.transport.send(to(queue, headers=headers))
    with pytest.raises(UnserializableValueError):
        await link.transport.publish(to(queue, headers=headers))


async def test_headers_may_be_as_large_as_a_frame(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    headers = {"large": "x" * 130_900}
    await transport.publish(to(queue, headers=headers))
    assert (await inbox.next()).message.headers == headers


async def test_an_overlong_property_is_refused(bench: Bench) -> None:
    transport = await bench.connect()
    for long in ({"correlation_id": "x" * 256}, {"reply_to": "é" * 128}, {"priority": 256}):
        outgoing = to(bench.queue())
        outgoing.message = Message(body=b"", **long)
        with pytest.raises(UnserializableValueError):
            await transport.publish(outgoing)
    with pytest.raises(UnserializableValueError):
        await transport.publish(
            Outgoing(exchange="", routing_key="k" * 256, message=Message(body=b""))
        )


async def test_a_body_over_max_message_size_is_refused(bench: Bench) -> None:
    bench.config = {**bench.config, "MAX_MESSAGE_SIZE": 1000}
    transport = await bench.connect()
    queue = bench.queue()
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, b"x" * 1000))
    with pytest.raises(UnserializableValueError, match="MAX_MESSAGE_SIZE"):
        await transport.publish(to(queue, b"x" * 1001))


async def test_nobody_shares_what_somebody_may_change(bench: Bench) -> None:
    transport = await bench.connect()
    exchange = bench.exchange("fanout")
    first, second, inbox = bench.queue(exchange), bench.queue(exchange), Inbox(ack=False)
    await transport.subscribe(first, inbox)
    await transport.subscribe(second, inbox)
    headers = {"list": ["a"], "table": {"b": ["c"]}}
    transport.send(to(first, headers=headers))
    headers["list"].append("changed by its sender")
    one, other = await inbox.next(), await inbox.next()
    expected = {"list": ["a"], "table": {"b": ["c"]}}
    assert one.message.headers == expected
    one.message.headers["list"].append("changed by a receiver")
    one.message.headers["table"]["b"].clear()
    assert other.message.headers == expected
    one.reject(requeue=True)
    assert (await inbox.next()).message.headers == expected


# --- deliveries


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


async def test_what_was_acked_is_forgotten(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue))
    await inbox.next()
    await transport.aclose()
    assert await look(other, queue) == QueueState(queue.name, True, 0, 0)


async def test_acks_ack_what_they_ack_in_any_order(bench: Bench) -> None:
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


async def test_what_is_heard_is_acked_whatever_its_handler_does(
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
    await subscription.cancel()
    await transport.aclose()
    assert await look(other, queue) == QueueState(queue.name, True, 0, 0)


async def test_who_listens_hears_nothing_after_it_cancelled(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, heard = bench.queue(), asyncio.Queue[Message]()
    subscription = await transport.listen(queue, heard.put_nowait)
    await subscription.cancel()
    await transport.publish(to(queue, b"late"))
    inbox = Inbox()
    await other.subscribe(queue, inbox)
    assert await inbox.bodies(1) == [b"late"]
    assert heard.empty()


async def test_what_comes_back_unasked_goes_to_whom_expects_it(bench: Bench) -> None:
    transport = await bench.connect()
    returned: asyncio.Queue[tuple[Message, AioRpcError]] = asyncio.Queue()
    transport.expect_returns("mine", lambda *back: returned.put_nowait(back))
    for reply_to in ("mine", "nobody's", "mine"):
        transport.send(unheard(bench.queue(), reply_to, returned))
    for _ in range(2):
        message, error = await asyncio.wait_for(returned.get(), PATIENCE)
        assert message.reply_to == "mine"
        assert isinstance(error, Unroutable)
    assert returned.empty()
    transport.forget_returns("mine")


def unheard(queue: Queue, reply_to: str, returned: asyncio.Queue[Any]) -> Outgoing:
    """Mandatory, not confirmed, and without ``settled``, for a queue that is not there."""

    class Unheard(Outgoing, eq=False):
        # memory:// knows who sent it, and tells it.
        def conclude(self, error: AioRpcError | None) -> None:
            if error is not None and self.message.reply_to == "mine":
                returned.put_nowait((self.message, error))

    return Unheard(
        exchange="",
        routing_key=queue.name,
        message=Message(body=b"", reply_to=reply_to),
        mandatory=True,
        confirm=False,
    )


async def test_what_is_given_back_comes_again_from_its_old_place(bench: Bench) -> None:
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


async def test_what_is_rejected_is_dropped(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(), Inbox(ack=False)
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue))
    (await inbox.next()).reject(requeue=False)
    await transport.aclose()
    assert (await look(other, queue)).messages == 0


async def test_a_delivery_is_settled_once_and_the_rest_is_ignored(bench: Bench) -> None:
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


async def test_a_rejected_message_goes_to_the_dead_letters(bench: Bench) -> None:
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


async def test_a_handler_that_raises_is_logged_and_the_next_message_comes(
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


@pytest.mark.parametrize("confirm", [False, True])
async def test_an_answer_is_sent_and_its_request_acked(bench: Bench, confirm: bool) -> None:
    server, client = await bench.connect(), await bench.connect()
    requests, replies, inbox, answers = bench.queue(), bench.queue(), Inbox(ack=False), Inbox()
    await server.subscribe(requests, inbox, prefetch=1)
    await client.subscribe(replies, answers)
    outcome = Outcome()
    for number in range(3):
        client.send(to(requests, b"%d" % number))
    for number in range(3):  # with a prefetch of 1 the next comes after an ack
        request = await inbox.next()
        assert request.message.body == b"%d" % number
        request.answer(to(replies, request.message.body, confirm=confirm, settled=outcome))
    assert await answers.bodies(3) == [b"0", b"1", b"2"]
    assert await outcome.all(3) == [None] * 3
    await server.aclose()
    assert await look(client, requests) == QueueState(requests.name, True, 0, 0)


async def test_an_answer_that_cannot_be_encoded_leaves_its_request_to_be_settled(
    bench: Bench,
) -> None:
    transport = await bench.connect()
    queue, replies, inbox, answers = bench.queue(), bench.queue(), Inbox(ack=False), Inbox()
    await transport.subscribe(queue, inbox)
    await transport.subscribe(replies, answers)
    await transport.publish(to(queue))
    request = await inbox.next()
    with pytest.raises(UnserializableValueError):
        request.answer(to(replies, headers={"bad": object()}))
    request.answer(to(replies, b"what went wrong"))
    assert await answers.bodies(1) == [b"what went wrong"]


async def test_an_answer_after_the_connection_was_lost_is_sent_on_the_next_one(
    bench: Bench,
) -> None:
    link, client = await bench.link(), await bench.connect()
    requests, replies, inbox, answers = bench.queue(), bench.queue(), Inbox(ack=False), Inbox()
    await link.transport.subscribe(requests, inbox)
    await client.subscribe(replies, answers)
    await client.publish(to(requests, b"question"))
    request = await inbox.next()
    assert not request.stale
    await link.break_connection()
    assert request.stale
    request.answer(to(replies, b"answer"))
    assert await answers.bodies(1) == [b"answer"]
    # The broker could not know.
    assert (await inbox.next()).redelivered


async def test_with_confirm_the_ack_waits_for_the_confirm_of_the_answer(bench: Bench) -> None:
    link, client = await bench.link(), await bench.connect()
    requests, replies, inbox, answers = bench.queue(), bench.queue(), Inbox(ack=False), Inbox()
    await link.transport.subscribe(requests, inbox)
    await client.subscribe(replies, answers)
    await client.publish(to(requests, b"question"))
    request = await inbox.next()
    link.mute()
    request.answer(to(replies, b"answer", confirm=True, again=lambda message: message))
    await answers.next()
    await link.break_connection()
    again = await inbox.next()
    assert again.redelivered
    assert await answers.bodies(1) == [b"answer"]
    again.ack()


async def test_what_a_lost_connection_brought_is_stale_and_comes_again(bench: Bench) -> None:
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


# --- routing


async def test_topics(bench: Bench) -> None:
    transport = await bench.connect()
    exchange = bench.exchange("topic")
    keys = ["", "a", "b", "a.b", "a.c", "a.b.c", "x.b", "x.y.b", "a.", "a..b"]
    bindings = {
        "a.b": {"a.b"},
        "a.*": {"a.b", "a.c", "a."},
        "*": {"a", "b"},
        "#": set(keys),
        "a.#": {"a", "a.b", "a.c", "a.b.c", "a.", "a..b"},
        "#.b": {"b", "a.b", "x.b", "x.y.b", "a..b"},
        "*.b": {"a.b", "x.b"},
        "a.*.c": {"a.b.c"},
        "a.#.b": {"a.b", "a..b"},
        "#.#": set(keys),
        "*.#": set(keys) - {""},
    }
    inboxes: list[tuple[Queue, Inbox, set[str]]] = []
    for binding, expected in bindings.items():
        queue, inbox = bench.queue(exchange, binding), Inbox()
        await transport.subscribe(queue, inbox)
        inboxes.append((queue, inbox, expected))
    for key in keys:
        await transport.publish(
            Outgoing(exchange=exchange.name, routing_key=key, message=Message(body=key.encode()))
        )
    for queue, inbox, expected in inboxes:
        marker = Outgoing(exchange="", routing_key=queue.name, message=Message(body=b"marker"))
        await transport.publish(marker)
        came = [body.decode() for body in await inbox.until(b"marker")]
        assert came == [key for key in keys if key in expected], queue.routing_key


async def test_direct_and_fanout_and_the_default_exchange(bench: Bench) -> None:
    transport = await bench.connect()
    for kind, expected in (("direct", [b"a"]), ("fanout", [b"a", b"b"])):
        exchange = bench.exchange(kind)
        bound, other, inbox = bench.queue(exchange, "a"), bench.queue(exchange, "c"), Inbox()
        await transport.declare(queues=[other])
        await transport.subscribe(bound, inbox)
        for key in ("a", "b"):
            await transport.publish(
                Outgoing(
                    exchange=exchange.name, routing_key=key, message=Message(body=key.encode())
                )
            )
        marker = Outgoing(exchange="", routing_key=bound.name, message=Message(body=b"marker"))
        await transport.publish(marker)
        assert await inbox.until(b"marker") == expected


async def test_a_queue_takes_a_message_once_however_many_bindings_match(bench: Bench) -> None:
    transport = await bench.connect()
    exchange, inbox = bench.exchange(), Inbox()
    queue = bench.queue(exchange, "a.*")
    await transport.declare(queues=[queue, Queue(queue.name, exchange, "#")])
    await transport.subscribe(queue, inbox)
    for key in ("a.b", "c"):
        await transport.publish(
            Outgoing(exchange=exchange.name, routing_key=key, message=Message(body=key.encode()))
        )
    assert await inbox.until(b"c") == [b"a.b"]


# --- declaring


async def test_what_is_declared_takes_messages(bench: Bench) -> None:
    transport = await bench.connect()
    exchange = bench.exchange()
    queue = bench.queue(exchange, "key")
    await transport.declare([exchange], [queue])
    await transport.publish(to(queue, mandatory=True))
    assert await look(transport, queue) == QueueState(queue.name, True, 1, 0)
    await transport.declare([exchange], [queue])
    assert (await look(transport, queue)).messages == 1


async def test_declaring_waits_for_a_connection(bench: Bench) -> None:
    link = await bench.link(start=False)
    queue = bench.queue()
    declared = asyncio.create_task(link.transport.declare(queues=[queue]))
    await asyncio.sleep(0)
    assert not declared.done()
    await link.transport.start(PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await declared
    assert (await look(link.transport, queue)).exists


async def test_what_was_declared_is_declared_again_before_what_waits_is_sent(
    bench: Bench,
) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, doomed = bench.queue(bench.exchange(), "key"), bench.queue()
    await link.transport.declare([queue.exchange], [queue, doomed])
    await link.transport.delete(doomed.name)
    await link.cut()
    await other.delete(queue.name)  # and with it the exchange
    published = asyncio.create_task(link.transport.publish(to(queue, mandatory=True), PATIENCE))
    await asyncio.sleep(0)
    link.heal()
    await published
    assert not (await look(other, doomed)).exists


@pytest.mark.parametrize(
    ("flag", "there", "asked", "named"),
    [
        ("expires", 300.0, 60.0, ["x-expires", "300000", "60000"]),
        ("auto_delete", True, False, ["auto_delete", "true", "false"]),
        ("durable", True, False, ["durable", "true", "false"]),
        ("arguments", {"x-message-ttl": 7000}, {"x-message-ttl": 8000}, ["x-message-ttl", "7000"]),
        ("arguments", {"x-dead-letter-exchange": "grave"}, {}, ["x-dead-letter-exchange"]),
    ],
)
async def test_a_queue_with_other_flags_is_a_configuration_error_that_names_them(
    bench: Bench, flag: str, there: Any, asked: Any, named: list[str]
) -> None:
    transport = await bench.connect()
    queue = bench.queue(**{flag: there})
    await transport.declare(queues=[queue])
    other = Queue(queue.name, **{flag: asked})
    for refused in (
        lambda: transport.declare(queues=[other]),
        lambda: transport.subscribe(other, Inbox()),
    ):
        with pytest.raises(ConfigurationError) as error:
            await refused()
        text = str(error.value).lower()
        assert queue.name in text
        assert [word for word in named if word not in text] == []
    # It harmed nothing.
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, mandatory=True))


async def test_an_exchange_of_another_type_is_a_configuration_error_that_names_both(
    bench: Bench,
) -> None:
    transport = await bench.connect()
    exchange = bench.exchange("topic")
    await transport.declare(queues=[bench.queue(exchange, "key")])
    with pytest.raises(ConfigurationError) as error:
        await transport.declare([Exchange(exchange.name, "direct", auto_delete=True)])
    assert exchange.name in str(error.value)
    assert "topic" in str(error.value)
    assert "direct" in str(error.value)


async def test_an_auto_delete_exchange_goes_with_its_last_binding(bench: Bench) -> None:
    transport = await bench.connect()
    first = bench.queue(bench.exchange("fanout"))
    second = bench.queue(first.exchange)
    await transport.declare(queues=[first, second])
    await transport.delete(first.name)
    await transport.publish(to(second, mandatory=True))
    await transport.delete(second.name)
    with pytest.raises(Unroutable):
        await transport.publish(to(second))


# --- subscriptions


async def test_subscribing_declares_the_queue_and_waits_for_a_connection(bench: Bench) -> None:
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


async def test_no_more_than_prefetch_are_unsettled_at_each_consumer(bench: Bench) -> None:
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


async def test_a_consumer_that_is_full_does_not_keep_messages_from_another(bench: Bench) -> None:
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


async def test_subscriptions_come_back_after_reconnecting_with_fresh_arguments(
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


async def test_a_subscription_comes_back_when_its_queue_was_deleted(bench: Bench) -> None:
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


async def test_with_keep_messages_wait_for_us_while_we_are_away(bench: Bench) -> None:
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


async def test_with_keep_a_queue_that_did_not_wait_is_told_once_it_is_made_anew(
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


async def test_a_cancelled_subscription_takes_no_more_but_settles_what_it_has(
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


async def test_what_a_cancelled_subscription_holds_goes_back_with_the_connection(
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


async def test_a_subscription_cancelled_while_disconnected_does_not_come_back(
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


async def test_cancelling_is_bounded_where_the_broker_does_not_answer(bench: Bench) -> None:
    link = await bench.link()
    subscription = await link.transport.subscribe(bench.queue(), Inbox())
    link.mute()
    with no_longer_than(10):
        await subscription.cancel()
    assert not subscription.consuming
    await link.break_connection()


# --- queues that go by themselves, and messages that do


async def test_an_exclusive_queue_is_its_connections_alone_and_goes_with_it(
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


async def test_an_exclusive_queue_is_back_after_reconnecting(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue, inbox = bench.queue(bench.exchange(), "key", exclusive=True), Inbox()
    await link.transport.subscribe(queue, inbox)
    await link.break_connection()
    await link.reconnected()
    await other.publish(to(queue, b"hello", mandatory=True))
    assert await inbox.bodies(1) == [b"hello"]


async def test_an_auto_delete_queue_goes_with_its_last_consumer(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue = bench.queue(auto_delete=True)
    first = await transport.subscribe(queue, Inbox())
    second = await other.subscribe(queue, Inbox())
    await first.cancel()
    assert (await look(other, queue)).consumers == 1
    await second.cancel()
    await is_gone(other, queue)


async def test_an_expiring_queue_goes_when_nobody_used_it_for_long_enough(bench: Bench) -> None:
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
            except Unroutable:
                return True
            return False

        return check

    await eventually(is_gone(never))
    await transport.publish(to(left, mandatory=True))
    await subscription.cancel()
    await eventually(is_gone(left))
    await transport.publish(to(consumed, mandatory=True))


async def test_a_look_at_an_expiring_queue_keeps_it(bench: Bench) -> None:
    transport = await bench.connect()
    queue, clock = bench.queue(expires=0.4), bench.queue()
    await transport.declare(queues=[queue, clock])
    await transport.publish(to(clock, expiration=600))

    async def time_is_up() -> bool:
        assert (await look(transport, queue)).exists
        return (await look(transport, clock)).messages == 0

    await eventually(time_is_up)


async def test_an_expired_message_is_dropped_with_nobody_there_to_take_it(bench: Bench) -> None:
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


async def test_expiry_is_seen_at_the_head_of_the_queue_only(bench: Bench) -> None:
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


async def test_the_ttl_of_a_queue_is_the_limit_of_every_message_in_it(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue(arguments={"x-message-ttl": 20})
    await transport.declare(queues=[queue])
    await transport.publish(to(queue))
    await transport.publish(to(queue, expiration=60_000))
    await holds(transport, queue, 0)


async def test_what_expires_at_once_goes_to_a_free_consumer_or_to_nobody(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, b"lost", expiration=0))
    await holds(transport, queue, 0)
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue, b"taken", expiration=0))
    assert await inbox.bodies(1) == [b"taken"]


# --- looking and deleting


async def test_a_look_counts_messages_and_consumers(bench: Bench) -> None:
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


async def test_looks_at_missing_queues_harm_nobody(bench: Bench) -> None:
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


async def test_a_look_says_nothing_where_nothing_can_be_known(bench: Bench) -> None:
    link = await bench.link()
    queue = bench.queue()
    await link.transport.declare(queues=[queue])
    await link.cut()
    assert await link.transport.inspect(queue.name) is None


async def test_a_queue_is_deleted_with_what_is_in_it(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue()
    await transport.declare(queues=[queue])
    await transport.publish(to(queue))
    await transport.delete(queue.name)
    assert not (await look(transport, queue)).exists
    await transport.delete(queue.name)
    await transport.declare(queues=[queue])
    assert (await look(transport, queue)).messages == 0


async def test_deleting_while_disconnected_does_nothing(bench: Bench) -> None:
    link, other = await bench.link(), await bench.connect()
    queue = bench.queue()
    await other.declare(queues=[queue])
    await link.cut()
    with no_longer_than(1):
        await link.transport.delete(queue.name)
    assert (await look(other, queue)).exists


# --- in numbers


async def test_a_thousand_messages_arrive_once_each_and_in_order(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox, outcome = bench.queue(bench.exchange(), "key"), Inbox(), Outcome()
    await other.subscribe(queue, inbox, prefetch=50)
    for number in range(1000):
        transport.send(to(queue, b"%d" % number, mandatory=True, settled=outcome))
    assert await inbox.bodies(1000) == [b"%d" % number for number in range(1000)]
    assert await outcome.all(1000) == [None] * 1000


async def test_nothing_is_lost_while_connections_break(bench: Bench) -> None:
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

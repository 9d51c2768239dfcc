"""
What only the amqp transport does: frames, TLS, credentials, fail-over, blocked and silent brokers,
and its log. What every transport does is in ``test_transport_contract.py``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import struct
from collections.abc import Iterator

import pamqp.base
import pamqp.commands as spec
import pamqp.frame
import pytest

from aiorpc.exceptions import (
    ConfigurationError,
    ConnectionLost,
    Unroutable,
    UnserializableValueError,
)
from aiorpc.testing import faults
from aiorpc.testing.connections import cut
from aiorpc.transports.amqp.errors import Refused
from aiorpc.transports.amqp.link import Link
from aiorpc.transports.amqp.topology import answered, declare_ahead
from aiorpc.transports.base import Delivery, Outgoing, State
from aiorpc.wire.message import Exchange, Message, Queue
from tests.support.amqp import (
    BLOCKED,
    UNBLOCKED,
    connected,
    from_broker,
    open_channels,
    sent_frames,
    through_proxy,
)
from tests.support.breakable import reaches
from tests.support.transports import Bench, Inbox, Outcome, holds, to
from tests.support.waiting import eventually

PATIENCE = 5.0


def ours(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged at INFO and above."""
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.levelno >= logging.INFO and record.name.startswith(("aio", "asyncio"))
    ]


# --- frames


async def test_frames_may_arrive_in_any_pieces(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue, inbox = bench.queue(), Inbox()
        await transport.subscribe(queue, inbox)
        proxy.piece = 3
        bodies = [bytes([number]) * 50 for number in range(20)]
        for body in bodies:
            await transport.publish(to(queue, body, headers={"n": 1, "l": ["a", {"b": None}]}))
        assert await inbox.bodies(20) == bodies


async def test_large_and_small_messages_of_many_senders_do_not_mix(bench: Bench) -> None:
    # Bodies over frame_max (131,072 bytes) are cut into frames, both ways.
    async with connected(bench.config) as transport:
        queue, inbox = bench.queue(), Inbox()
        await transport.subscribe(queue, inbox)
        bodies = [bytes([n]) * (1 if n % 2 else 300_000 + n) for n in range(40)]

        async def send(body: bytes) -> None:
            await transport.publish(to(queue, body, mandatory=True), PATIENCE)

        await asyncio.gather(*map(send, bodies))
        assert sorted(await inbox.bodies(40)) == sorted(bodies)


async def test_header_integers_go_in_the_types_that_nameko_survives(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue = bench.queue()
        await transport.declare(queues=[queue])
        await transport.publish(to(queue, headers={"n": 1000, "m": -5, "f": 0.1, "big": 1 << 40}))
        await eventually(lambda: b"big" in proxy.sent)
        for encoded in (
            b"\x01nI" + struct.pack(">i", 1000),
            b"\x01mI" + struct.pack(">i", -5),
            b"\x01fd" + struct.pack(">d", 0.1),
            b"\x03bigl" + struct.pack(">q", 1 << 40),
        ):
            assert encoded in proxy.sent


async def test_the_connection_bears_its_name(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, _):
        assert b"connection_name" in proxy.sent
        assert b"tests of amqp" in proxy.sent


async def test_acks_of_one_turn_leave_as_one(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue, inbox = bench.queue(), Inbox(ack=False)
        await transport.subscribe(queue, inbox)
        for _ in range(6):
            await transport.publish(to(queue))
        deliveries = [await inbox.next() for _ in range(6)]
        before = len(proxy.sent)
        for number in (0, 1, 2, 4):
            deliveries[number].ack()
        await eventually(lambda: len(proxy.sent) >= before + 2 * 21)
        acks = [proxy.sent[at : at + 21] for at in range(before, len(proxy.sent), 21)]
        settled = {(frame.delivery_tag, frame.multiple) for frame in map(unmarshal, acks)}
        assert settled == {(3, True), (5, False)}


async def test_acks_of_what_was_heard_leave_with_what_is_written_next(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport), connected(bench.config) as other:
        queue, elsewhere = bench.queue(), bench.queue()
        await transport.declare(queues=[elsewhere])
        await transport.listen(
            queue, lambda _: transport.send(to(elsewhere, b"mine", confirm=False))
        )
        await other.publish(to(queue))
        await eventually(lambda: b"mine" in proxy.sent)
        _, _, after = bytes(proxy.sent).rpartition(b"mine\xce")
        assert unmarshal(after).delivery_tag == 1


async def test_acks_of_what_was_heard_leave_soon_where_nothing_else_does(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport), connected(bench.config) as other:
        queue, heard = bench.queue(), asyncio.Queue[Message]()
        await transport.listen(queue, heard.put_nowait)
        before = len(proxy.sent)
        await other.publish(to(queue))
        await heard.get()
        await eventually(lambda: len(proxy.sent) > before)
        assert unmarshal(bytes(proxy.sent[before:])).delivery_tag == 1


def unmarshal(frame: bytes) -> spec.Basic.Ack:
    _, _, method = pamqp.frame.unmarshal(frame)
    assert isinstance(method, spec.Basic.Ack)
    return method


async def test_a_stream_that_is_no_amqp_is_given_up(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        proxy.inject(b"\x01\0\0\0\0\0\x04oops\0")
        await reaches(transport, State.CONNECTING)
        await reaches(transport, State.CONNECTED)
        queue = bench.queue()
        await transport.declare(queues=[queue])
        await transport.publish(to(queue, mandatory=True), PATIENCE)


async def test_text_that_is_no_utf8_harms_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """pamqp, the decoder of aiormq, raises at each of these."""
    async with connected(bench.config) as transport:
        exchange, inbox = bench.exchange(), Inbox()
        await transport.subscribe(bench.queue(exchange, "#"), inbox)

        def garbled(key: str) -> Outgoing:
            return Outgoing(
                exchange=exchange.name,
                routing_key=key,
                message=Message(body=b"x", correlation_id="\udcff", reply_to="r\udcfe"),
                mandatory=True,
            )

        for key in ("key", "key.\udcff"):
            await transport.publish(garbled(key), PATIENCE)
            delivery = await inbox.next()
            assert delivery.routing_key in (key, key.replace("\udcff", "?"))
            assert delivery.message.correlation_id == "\udcff"
            assert delivery.message.reply_to == "r\udcfe"
        lost = garbled("key")
        lost.exchange, lost.routing_key = "", bench.name()
        with pytest.raises(Unroutable):
            await transport.publish(lost, PATIENCE)
    assert "lost the connection" not in caplog.text


# --- sizes


async def test_a_socket_that_takes_no_more_is_congestion(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue, outcome = bench.queue(), Outcome()
        await transport.declare(queues=[queue])
        proxy.reading.clear()
        sent = 0
        while not transport.congested:  # no turn of the loop goes by here
            transport.send(to(queue, bytes(100_000), settled=outcome))
            sent += 1
            assert sent < 1000
        drained = asyncio.create_task(transport.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        proxy.reading.set()
        async with asyncio.timeout(PATIENCE):
            await drained
        assert await outcome.all(sent) == [None] * sent
        assert not transport.congested


async def test_a_body_over_the_limit_is_not_sent(bench: Bench) -> None:
    async with connected(bench.config, MAX_MESSAGE_SIZE=4096) as transport:
        queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
        await transport.subscribe(queue, inbox)
        await transport.publish(to(queue, bytes(4096)))
        transport.send(to(queue, bytes(4097), settled=outcome))
        (error,) = await outcome.all()
        assert isinstance(error, UnserializableValueError)
        assert "4097 bytes" in str(error)
        assert "MAX_MESSAGE_SIZE is 4096" in str(error)
        assert len((await inbox.bodies(1))[0]) == 4096


# --- channels that the broker closes


async def test_what_stood_behind_the_culprit_is_sent_again_without_asking(bench: Bench) -> None:
    async with connected(bench.config) as transport:
        queue, inbox = bench.queue(), Inbox()
        await transport.subscribe(queue, inbox)
        before, missing, after = Outcome(), Outcome(), Outcome()
        transport.send(to(queue, b"before", settled=before, again=lambda message: message))
        transport.send(
            Outgoing(
                exchange=bench.name(),
                routing_key="k",
                message=Message(body=b"missing"),
                again=lambda message: message,
                settled=missing,
            )
        )
        # The broker never saw these, so they go again though nobody agreed to a second sending.
        transport.send(to(queue, b"after", settled=after))
        transport.send(to(queue, b"unconfirmed", confirm=False))
        assert await before.all() == [None]
        assert [type(error) for error in await missing.all()] == [Unroutable]
        assert await after.all() == [None]
        assert await inbox.until(b"unconfirmed") in (
            [b"before", b"after"],
            [b"before", b"before", b"after"],
        )


async def test_a_consumer_comes_back_when_the_broker_closes_its_channel(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_proxy(bench.config) as (proxy, transport), connected(bench.config) as other:
        queue, inbox = bench.queue(), Inbox(ack=False)
        subscription = await transport.subscribe(queue, inbox, prefetch=5)
        await other.publish(to(queue, b"unsettled"))
        delivery = await inbox.next()
        (consuming,) = [
            channel
            for channel, frame in sent_frames(proxy.sent)
            if isinstance(frame, spec.Basic.Consume)
        ]
        unknown = spec.Basic.Ack(delivery_tag=999)  # the broker closes the channel with 406
        proxy.say(pamqp.frame.marshal(unknown, consuming))
        again = await inbox.next()
        assert again.redelivered
        assert delivery.stale
        delivery.ack()
        again.ack()
        await eventually(lambda: subscription.consuming)
        assert "unknown delivery tag 999" in caplog.text


async def test_subscribing_waits_for_three_answers(bench: Bench) -> None:
    """Each is a round trip, and how soon a service is ready is counted in those."""
    async with through_proxy(bench.config) as (proxy, transport):
        before = len(proxy.sent)
        await transport.subscribe(bench.queue(bench.exchange()), Inbox(), prefetch=5)
        assert [frame.name for frame in questions(proxy.sent[before:])] == [
            "Channel.Open",
            "Basic.Qos",
            "Basic.Consume",
        ]


def questions(sent: bytes) -> Iterator[pamqp.base.Frame]:
    """Yield the methods among *sent* that the broker answers."""
    for _, frame in sent_frames(sent):
        if getattr(frame, "synchronous", False) and not getattr(frame, "nowait", False):
            assert isinstance(frame, pamqp.base.Frame)
            yield frame


@pytest.mark.parametrize("prefetch", [0, 5])
async def test_a_refused_declaration_is_an_error_and_leaves_no_channel(
    bench: Bench, prefetch: int
) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        exchange = bench.exchange("topic")
        await transport.declare(queues=[bench.queue(exchange, "key")])
        other = Exchange(exchange.name, "direct", auto_delete=exchange.auto_delete)
        await eventually(lambda: open_channels(proxy.sent) == 1)
        for _ in range(10):
            queue = bench.queue(other, "key")
            with pytest.raises(ConfigurationError) as error:
                await transport.subscribe(queue, Inbox(), prefetch=prefetch)
            assert all(word in str(error.value) for word in (queue.name, other.name, "'direct'"))
            assert "406" in str(error.value)
        await transport.subscribe(bench.queue(exchange, "key"), Inbox(), prefetch=prefetch)
        await eventually(lambda: open_channels(proxy.sent) == 2)


async def test_a_refusal_that_came_before_the_next_question_is_told_in_full(bench: Bench) -> None:
    async with connected(bench.config) as transport:
        assert transport.supervisor.link is not None
        queue = bench.queue(durable=True)
        await transport.declare(queues=[queue])
        channel = await transport.supervisor.link.channel()
        await declare_ahead(channel, Queue(queue.name, durable=True, arguments={"x-max-length": 1}))
        await eventually(lambda: channel.is_closed)
        with pytest.raises(Refused, match=queue.name) as refused:
            async with answered(channel):
                await channel.basic_qos(prefetch_count=1)
        assert refused.value.code == 406


async def test_a_message_for_which_channels_close_and_close_is_given_up(bench: Bench) -> None:
    async with connected(bench.config) as transport:
        await transport.publish(to(bench.queue(), b""))
        outcome = Outcome()
        transport.send(
            Outgoing(
                exchange="",
                routing_key="k",
                message=Message(body=b"", user_id="somebody else"),
                again=lambda message: message,
                settled=outcome,
            )
        )
        (error,) = await outcome.all()
        assert "somebody else" in str(error)
        await transport.publish(to(bench.queue(), b""), PATIENCE)


async def test_looking_at_missing_queues_leaks_no_channel(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        await eventually(lambda: open_channels(proxy.sent) == 1)
        for _ in range(20):
            state = await transport.inspect(bench.name(), PATIENCE)
            assert state is not None
            assert not state.exists
        await eventually(lambda: open_channels(proxy.sent) <= 2)


async def test_a_queue_without_an_answer_delays_no_other_inspection(bench: Bench) -> None:
    """RabbitMQ 4.3 does not answer for a queue whose node is down."""
    silent, other = bench.queue(), bench.queue()
    async with through_proxy(bench.config) as (proxy, transport):
        await transport.declare(queues=[silent, other])
        proxy.drops = lambda frame: silent.name.encode() in frame
        unanswered = asyncio.create_task(transport.inspect(silent.name, 60))
        state = await transport.inspect(other.name, PATIENCE)
        assert state is not None
        assert state.exists
        assert not unanswered.done()
        unanswered.cancel()


# --- a broker that blocks, is silent, or hangs up


async def test_a_blocked_connection_holds_messages_and_answers_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_proxy(bench.config) as (proxy, transport), connected(bench.config) as other:
        requests, replies, inbox, answers = bench.queue(), bench.queue(), Inbox(ack=False), Inbox()
        await transport.subscribe(requests, inbox)
        await other.subscribe(replies, answers)
        await transport.publish(to(requests))
        request = await inbox.next()
        proxy.inject(BLOCKED)
        await reaches(transport, State.BLOCKED)
        assert "low on memory" in caplog.text
        expired, waiting = Outcome(), Outcome()
        at = asyncio.get_running_loop().time()
        transport.send(to(replies, b"expired", expires_at=at + 0.05, settled=expired))
        transport.send(to(replies, b"waited", settled=waiting))
        request.answer(to(replies, b"answer", confirm=False))
        (error,) = await expired.all()
        assert isinstance(error, ConnectionLost)
        assert "accepts no messages" in str(error)
        with pytest.raises(ConnectionLost, match="accepts no messages"):
            await transport.publish(to(replies), 0.01)
        assert waiting.outcomes == []
        assert answers.waiting == 0
        proxy.inject(UNBLOCKED)
        await reaches(transport, State.CONNECTED)
        assert await waiting.all() == [None]
        assert sorted(await answers.bodies(2)) == [b"answer", b"waited"]
        proxy.hang_up()
        await reaches(transport, State.CONNECTING)
        await reaches(transport, State.CONNECTED)
        await transport.publish(to(requests, b"marker"), PATIENCE)
        assert await inbox.until(b"marker") == []  # the answered request was acked


async def test_closing_a_blocked_transport_is_bounded(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        proxy.deaf = True
        proxy.inject(BLOCKED)
        await reaches(transport, State.BLOCKED)
        outcome = Outcome()
        transport.send(to(bench.queue(), settled=outcome))
        async with asyncio.timeout(PATIENCE):
            await transport.aclose()
        assert [type(error) for error in await outcome.all()] == [ConnectionLost]


async def test_a_silent_broker_is_given_up(
    rabbitmq_uri: str, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_proxy(bench.config, HEARTBEAT=1) as (proxy, transport):
        proxy.muted = True
        await reaches(transport, State.CONNECTING)
        proxy.muted = False
        await reaches(transport, State.CONNECTED)
        assert "the broker sent nothing for" in caplog.text


async def test_aiormq_gets_a_heartbeat_a_second_while_the_lane_takes_every_frame(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = b"\x08\0\0\0\0\0\0\xce"
    async with connected(bench.config) as transport:
        assert transport.supervisor.link is not None
        lane = transport.supervisor.link.lane
        number = transport.supervisor.publishing.number
        confirm = from_broker(spec.Basic.Ack(delivery_tag=1 << 40), channel=number)
        now = lane.loop.time() + 10
        with monkeypatch.context() as clock:
            clock.setattr(lane.loop, "time", lambda: now)
            assert lane.received(confirm) == heartbeat
            assert lane.received(confirm) == b""
            now += 1
            assert lane.received(b"") == heartbeat
            now += 1
            assert lane.received(b"") == b""  # idle: the broker sends its own heartbeats


async def test_the_log_has_one_line_for_each_change(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with through_proxy(bench.config) as (proxy, transport):
        queue = bench.queue()
        await transport.subscribe(queue, Inbox())
        caplog.clear()
        proxy.hang_up()
        await reaches(transport, State.CONNECTING)
        await reaches(transport, State.CONNECTED)
        await transport.aclose()
        (lost, connected_again, closed) = ours(caplog)
        assert lost[0] == "WARNING"
        assert "lost the connection to amqp://guest:***@localhost" in lost[1]
        assert "reconnecting" in lost[1]
        assert connected_again[0] == "INFO"
        assert "connected to amqp://guest:***@localhost" in connected_again[1]
        assert closed[0] == "INFO"


async def test_a_connection_closed_by_the_broker_says_why(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        proxy.inject(
            from_broker(
                spec.Connection.Close(
                    reply_code=320,
                    reply_text="CONNECTION_FORCED - broker forced connection closure",
                    class_id=0,
                    method_id=0,
                )
            )
        )
        await reaches(transport, State.CONNECTING)
        await reaches(transport, State.CONNECTED)
        assert "CONNECTION_FORCED" in caplog.text
        assert not [record for record in caplog.records if record.name.startswith("aiormq")]


async def test_many_reconnects_leave_nothing_behind(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue, came = bench.queue(), asyncio.Event()

        def received(delivery: Delivery) -> None:
            delivery.ack()  # and kept nowhere: a delivery holds on to its connection
            came.set()

        await transport.subscribe(queue, received)

        async def reconnect() -> None:
            proxy.hang_up()
            await reaches(transport, State.CONNECTING)
            await reaches(transport, State.CONNECTED)
            came.clear()
            await transport.publish(to(queue), PATIENCE)
            await came.wait()

        await reconnect()
        before = len(asyncio.all_tasks())
        links = count_links()
        for _ in range(5):
            await reconnect()
        # One more may just be looking whether the connection is blocked.
        await eventually(lambda: len(asyncio.all_tasks()) <= before + 1)
        await eventually(lambda: count_links() <= links)


def count_links() -> int:
    gc.collect()
    return sum(isinstance(each, Link) for each in gc.get_objects())


async def test_it_runs_on_uvloop(bench: Bench) -> None:
    uvloop = pytest.importorskip("uvloop")
    queue = bench.queue()

    async def talk() -> list[bytes]:
        async with connected(bench.config) as transport:
            inbox = Inbox()
            await transport.subscribe(queue, inbox)
            await transport.publish(to(queue, bytes(200_000), mandatory=True), PATIENCE)
            with pytest.raises(Unroutable):
                await transport.publish(to(bench.queue(), mandatory=True), PATIENCE)
            with faults.drop_connection(transport):
                await reaches(transport, State.CONNECTING)
            await transport.publish(to(queue, b"later"), PATIENCE)
            return await inbox.bodies(2)

    bodies = await asyncio.to_thread(lambda: uvloop.new_event_loop().run_until_complete(talk()))
    assert bodies == [bytes(200_000), b"later"]


# --- the end


async def test_a_transport_is_closing_as_soon_as_aclose_runs(bench: Bench) -> None:
    async with connected(bench.config) as transport:
        closing = asyncio.ensure_future(transport.aclose())
        await asyncio.sleep(0)
        assert transport.supervisor.closing
        await closing


async def test_a_supervisor_runs_until_its_task_has_ended(bench: Bench) -> None:
    async with connected(bench.config) as transport:
        supervisor = transport.supervisor
        stopping = asyncio.ensure_future(supervisor.stop())
        await asyncio.sleep(0)
        assert supervisor.running
        await asyncio.gather(stopping, supervisor.stop())
        assert not supervisor.running


async def test_a_channel_of_a_lost_connection_is_not_ready(bench: Bench) -> None:
    async with connected(bench.config) as transport:
        ready: list[bool] = []
        transport.on_state(lambda state: ready.append(transport.supervisor.publishing.ready))
        assert transport.supervisor.link is not None
        transport.supervisor.link.hung_up(320, "the broker shuts down")
        assert ready == [False]


async def test_a_supervisor_that_stops_does_not_cancel_the_end_of_its_link(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(bench.config) as transport:
        supervisor, links = transport.supervisor, list[Link]()

        async def fail(link: Link) -> bool:
            monkeypatch.setattr(link.lane, "abort", lambda: None)
            supervisor.link = link
            links.append(link)
            raise OSError("cannot be used")

        monkeypatch.setattr(supervisor, "_resume", fail)
        cut(transport)()
        await eventually(lambda: bool(links))
        await asyncio.sleep(0)
        await supervisor.stop()
        assert not links[0].lost.cancelled()


async def test_a_message_that_arrives_while_its_subscription_ends_is_requeued_by_its_owner(
    bench: Bench,
) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox, late = bench.queue(), Inbox(ack=False), Inbox(ack=False)
    subscription = await transport.subscribe(queue, inbox, prefetch=1, requeue=late)
    for body in (b"first", b"second"):
        await transport.publish(to(queue, body))
    first = await inbox.next()
    ending = asyncio.create_task(subscription.cancel())
    await asyncio.sleep(0)  # the subscription takes no messages from now on
    first.ack()  # before the broker reads the cancel, so it delivers the second message
    second = await late.next()
    await ending
    assert second.message.body == b"second"
    second.requeue()
    await holds(other, queue, 1)
    assert inbox.waiting == 0

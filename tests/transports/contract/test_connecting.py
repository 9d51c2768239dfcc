"""Connecting, states and closing, over every transport."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aiorpc.config import resolve
from aiorpc.exceptions import (
    ConfigurationError,
    ConnectionLost,
)
from aiorpc.testing import faults
from aiorpc.transports import open_transport
from aiorpc.transports.base import State
from tests.support.breakable import reaches
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    Outcome,
    holds,
    no_longer_than,
    to,
)


async def test_every_change_of_state_is_reported(bench: Bench) -> None:
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


async def test_closing_is_reported_though_another_listener_fails(
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


async def test_async_with_connects_and_closes_a_transport(bench: Bench) -> None:
    async with bench.transport() as transport:
        assert transport.state is State.CONNECTED
    assert transport.state is State.CLOSED


async def test_the_url_has_no_password(bench: Bench) -> None:
    transport = await bench.connect()
    assert transport.url.partition("://")[0] == bench.config["AMQP_URI"].partition("://")[0]
    assert "guest:guest" not in transport.url


async def test_a_start_times_out_with_its_reason_and_can_be_repeated(bench: Bench) -> None:
    link = await bench.link(start=False)
    await link.cut()
    with no_longer_than(2), pytest.raises(ConnectionLost) as lost:
        await link.transport.start(0.1)
    assert link.transport.url in str(lost.value)
    assert "0.1 s" in str(lost.value)
    link.heal()
    await link.transport.start(PATIENCE)
    assert link.transport.state is State.CONNECTED


async def test_a_start_without_a_timeout_waits_and_logs_one_line(bench: Bench) -> None:
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


async def test_a_cancelled_start_leaves_no_task(bench: Bench) -> None:
    link = await bench.link(start=False)
    await link.cut()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await link.transport.start()
    # The bench sees that no task is left.


@pytest.mark.parametrize("part", ["user", "vhost"])
async def test_a_wrong_user_or_vhost_is_a_configuration_error(rabbitmq_uri: str, part: str) -> None:
    host = rabbitmq_uri.rpartition("@")[2].rstrip("/")
    uri = {"user": f"amqp://nobody:wrong@{host}/", "vhost": rabbitmq_uri.rstrip("/") + "/nowhere"}
    transport = open_transport(resolve(uri[part]))
    with no_longer_than(PATIENCE), pytest.raises(ConfigurationError) as refused:
        await transport.start()
    assert {"user": "nobody", "vhost": "nowhere"}[part] in str(refused.value)
    assert "wrong" not in str(refused.value)
    await transport.aclose()


async def test_closing_writes_what_was_sent(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, outcome = bench.queue(), Outcome()
    await transport.declare(queues=[queue])
    for number in range(100):
        transport.send(to(queue, b"%d" % number, settled=outcome))
    await transport.aclose()
    assert outcome.outcomes == [None] * 100
    inbox = Inbox()
    await other.subscribe(queue, inbox)
    assert await inbox.bodies(100) == [b"%d" % number for number in range(100)]


async def test_what_settles_as_written_while_the_transport_closes_reaches_the_broker(
    bench: Bench,
) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, outcome = bench.queue(), Outcome()
    await transport.declare(queues=[queue])
    closing = asyncio.create_task(transport.aclose())
    sent = 0
    while not closing.done():
        transport.send(to(queue, confirm=False, settled=outcome))
        sent += 1
        await asyncio.sleep(0)
    outcomes = await outcome.all(sent)
    assert {type(error) for error in outcomes} <= {type(None), ConnectionLost}
    await holds(other, queue, outcomes.count(None))


async def test_closing_settles_waiting_messages_with_connection_lost(bench: Bench) -> None:
    link = await bench.link()
    queue, outcome = bench.queue(), Outcome()
    await link.transport.declare(queues=[queue])
    await link.cut()
    link.transport.send(to(queue, settled=outcome))
    waiting = asyncio.create_task(link.transport.declare(queues=[queue]))
    await asyncio.sleep(0)
    with no_longer_than(3):
        await link.transport.aclose()
    assert [type(error) for error in outcome.outcomes] == [ConnectionLost]
    with pytest.raises(ConnectionLost):
        await waiting


async def test_closing_is_bounded_if_the_broker_does_not_answer(bench: Bench) -> None:
    link = await bench.link()
    queue, outcome = bench.queue(), Outcome()
    await link.transport.declare(queues=[queue])
    link.mute()
    link.transport.send(to(queue, settled=outcome))
    with no_longer_than(10):
        await link.transport.aclose()
    assert [type(error) for error in outcome.outcomes] == [ConnectionLost]


async def test_a_transport_can_be_closed_twice(bench: Bench) -> None:
    transport = await bench.connect()
    await asyncio.gather(transport.aclose(), transport.aclose())
    await transport.aclose()
    assert transport.state is State.CLOSED


async def test_a_transport_that_was_never_started_can_be_closed(bench: Bench) -> None:
    transport = bench.transport()
    await transport.aclose()
    assert transport.state is State.CLOSED


async def test_closing_requeues_unsettled_deliveries(bench: Bench) -> None:
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


async def test_a_closed_transport_raises_connection_lost(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(ack=False), Outcome()
    subscription = await transport.subscribe(queue, inbox)
    await other.publish(to(queue))
    delivery = await inbox.next()
    await transport.aclose()
    transport.send(to(queue, settled=outcome))
    assert outcome.outcomes == []
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


async def test_tests_can_break_and_restore_a_connection(bench: Bench) -> None:
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
            assert len(outcome.outcomes) == number
        await reaches(transport, State.CONNECTED)
        await outcome.all(number + 1)
        delivery = await inbox.next()
        assert (delivery.message.body, delivery.redelivered) == (b"unacked", True)

"""Sending: what settles when, returns, waiting, and ``publish``; over every transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiorpc.exceptions import (
    AioRpcError,
    ConnectionLost,
    Unroutable,
)
from aiorpc.transports import backlog
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message, Queue
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    Outcome,
    holds,
    no_longer_than,
    to,
)


async def test_a_confirmed_message_settles_once_and_never_inside_send(bench: Bench) -> None:
    transport = await bench.connect()
    queue, outcome = bench.queue(), Outcome()
    await transport.declare(queues=[queue])
    transport.send(to(queue, mandatory=True, settled=outcome))
    assert outcome.outcomes == []
    await outcome.all()
    await transport.publish(to(queue))
    assert outcome.outcomes == [None]


async def test_an_unconfirmed_message_settles_when_it_is_written(bench: Bench) -> None:
    transport = await bench.connect()
    queue, outcome = bench.queue(), Outcome()
    await transport.declare(queues=[queue])
    transport.send(to(queue, confirm=False, settled=outcome))
    assert outcome.outcomes == []
    assert await outcome.all() == [None]
    await holds(transport, queue, 1)


async def test_a_mandatory_message_without_a_queue_settles_with_unroutable(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue(bench.exchange(), "known")
    await transport.declare(queues=[queue])
    outcome = Outcome()
    lost = Outgoing(exchange=queue.exchange.name, routing_key="unknown", message=Message(body=b""))
    lost.mandatory, lost.settled = True, outcome
    transport.send(lost)
    assert outcome.outcomes == []
    (error,) = await outcome.all()
    assert isinstance(error, Unroutable)
    assert queue.exchange.name in str(error)
    assert "'unknown'" in str(error)
    await transport.publish(to(queue, mandatory=True))
    assert len(outcome.outcomes) == 1


async def test_a_message_without_a_queue_is_dropped_silently_unless_mandatory(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await bench.connect()
    queue, inbox, outcome = bench.queue(), Inbox(), Outcome()
    transport.send(to(queue, b"dropped", settled=outcome))
    assert await outcome.all() == [None]
    with pytest.raises(Unroutable, match=r"\(312 NO_ROUTE\)\. Start the service"):
        await transport.publish(to(queue, b"returned", mandatory=True))
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue, b"marker"))
    assert await inbox.until(b"marker") == []
    assert caplog.text == ""
    assert outcome.outcomes == [None]


async def test_an_unconfirmed_mandatory_message_settles_again_when_returned(
    bench: Bench,
) -> None:
    transport = await bench.connect()
    outcome = Outcome()
    transport.send(to(bench.queue(), mandatory=True, confirm=False, settled=outcome))
    written, returned = await outcome.all(2)
    assert written is None
    assert isinstance(returned, Unroutable)


async def test_a_return_settles_its_own_message_among_others(bench: Bench) -> None:
    transport = await bench.connect()
    queue, nowhere = bench.queue(), bench.queue()
    await transport.declare(queues=[queue])
    outcomes = [Outcome() for _ in range(20)]
    for number, outcome in enumerate(outcomes):
        transport.send(to(queue if number % 3 else nowhere, mandatory=True, settled=outcome))
    for number, outcome in enumerate(outcomes):
        (error,) = await outcome.all()
        assert isinstance(error, Unroutable) == (number % 3 == 0)


async def test_a_missing_exchange_is_unroutable_and_harms_no_other_message(bench: Bench) -> None:
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


async def test_messages_sent_before_start_or_while_disconnected_wait_in_order(
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
    assert len(outcome.outcomes) == 1
    link.heal()
    await published
    assert await outcome.all(3) == [None] * 3
    assert await inbox.bodies(4) == [b"early", b"1", b"2", b"3"]


async def test_publish_returns_when_the_broker_has_the_message(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue()
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, mandatory=True), PATIENCE)
    await holds(transport, queue, 1)


async def test_publish_calls_settled_too(bench: Bench) -> None:
    transport = await bench.connect()
    outcome = Outcome()
    with pytest.raises(Unroutable):
        await transport.publish(to(bench.queue(), mandatory=True, settled=outcome))
    assert [type(error) for error in outcome.outcomes] == [Unroutable]


async def test_publish_times_out_if_no_confirm_arrives(bench: Bench) -> None:
    link = await bench.link()
    queue = bench.queue()
    await link.transport.declare(queues=[queue])
    link.mute()
    with no_longer_than(1), pytest.raises(ConnectionLost, match=r"0\.05 s"):
        await link.transport.publish(to(queue), 0.05)
    await link.break_connection()


async def test_a_transport_is_congested_while_too_many_messages_wait(bench: Bench) -> None:
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


async def test_senders_that_wait_for_drained_never_fill_the_outbox(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MANY_MESSAGES", 300)
    monkeypatch.setattr(backlog, "MAX_MESSAGES", 1_000)
    link = await bench.link(start=False)
    queue, outcome = bench.queue(), Outcome()

    async def send() -> None:
        if link.transport.congested:
            await link.transport.drained()
        link.transport.send(to(queue, settled=outcome))

    senders = [asyncio.create_task(send()) for _ in range(3_000)]
    await asyncio.sleep(0)
    assert link.transport.congested
    await link.transport.start(PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*senders)
    assert await outcome.all(3_000) == [None] * 3_000


async def test_a_settled_that_raises_is_logged_and_harms_no_other_message(
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


async def test_a_returned_untracked_message_goes_to_its_reply_to(bench: Bench) -> None:
    transport = await bench.connect()
    returned: asyncio.Queue[tuple[Message, AioRpcError]] = asyncio.Queue()
    transport.returns.expect("mine", lambda *back: returned.put_nowait(back))
    for reply_to in ("mine", "nobody's", "mine"):
        transport.send(unheard(bench.queue(), reply_to, returned))
    for _ in range(2):
        message, error = await asyncio.wait_for(returned.get(), PATIENCE)
        assert message.reply_to == "mine"
        assert isinstance(error, Unroutable)
    assert returned.empty()
    transport.returns.forget("mine")


def unheard(queue: Queue, reply_to: str, returned: asyncio.Queue[Any]) -> Outgoing:
    """Mandatory, not confirmed, and without ``settled``, for a queue that is not there."""

    class Unheard(Outgoing, eq=False):
        # memory:// tracks every message, and calls this.
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


async def test_a_thousand_messages_arrive_once_each_and_in_order(bench: Bench) -> None:
    transport, other = await bench.connect(), await bench.connect()
    queue, inbox, outcome = bench.queue(bench.exchange(), "key"), Inbox(), Outcome()
    await other.subscribe(queue, inbox, prefetch=50)
    for number in range(1000):
        transport.send(to(queue, b"%d" % number, mandatory=True, settled=outcome))
    assert await inbox.bodies(1000) == [b"%d" % number for number in range(1000)]
    assert await outcome.all(1000) == [None] * 1000


async def test_caught_up_returns_when_what_waited_for_a_connection_is_sent(bench: Bench) -> None:
    link = await bench.link()
    queue, outcome = bench.queue(), Outcome()
    await link.transport.declare(queues=[queue])
    await link.cut()
    for _ in range(500):
        link.transport.send(to(queue, settled=outcome))
    assert not await link.transport.caught_up(0.01)
    catching_up = asyncio.create_task(link.transport.caught_up(PATIENCE))
    link.heal()
    assert await catching_up
    assert link.transport.waiting == 0
    assert await outcome.all(500) == [None] * 500


async def test_caught_up_returns_when_what_waited_has_expired_or_was_retracted(
    bench: Bench,
) -> None:
    link = await bench.link()
    await link.cut()
    now = asyncio.get_running_loop().time()
    retracted = to(bench.queue())
    link.transport.send(retracted)
    link.transport.send(to(bench.queue(), expires_at=now + 0.01))
    catching_up = asyncio.create_task(link.transport.caught_up(PATIENCE))
    await asyncio.sleep(0)
    assert link.transport.retract(retracted)
    with no_longer_than(PATIENCE / 2):
        assert await catching_up


async def test_caught_up_returns_at_once_when_the_transport_is_closed(bench: Bench) -> None:
    link = await bench.link()
    await link.cut()
    link.transport.send(to(bench.queue()))
    catching_up = asyncio.create_task(link.transport.caught_up(PATIENCE))
    await asyncio.sleep(0)
    with no_longer_than(PATIENCE / 2):
        await link.transport.aclose()
        assert await catching_up

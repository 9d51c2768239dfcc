"""Answers to deliveries; over every transport."""

from __future__ import annotations

import pytest

from aiorpc.exceptions import (
    UnserializableValueError,
)
from aiorpc.transports.base import QueueState
from tests.support.transports import (
    Bench,
    Inbox,
    Outcome,
    look,
    to,
)


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


async def test_an_answer_that_cannot_be_encoded_leaves_its_request_unsettled(
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


async def test_an_answer_after_a_lost_connection_is_sent_on_the_next_one(
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

"""Properties, headers and bodies: what arrives, and what is refused; over every transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from aiorpc.exceptions import (
    UnserializableValueError,
)
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message
from aiorpc.wire.names import OVERSIZED
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    Outcome,
    holds,
    to,
)

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


async def test_all_properties_and_headers_arrive_unchanged(bench: Bench) -> None:
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


async def test_properties_that_are_none_are_not_sent(bench: Bench) -> None:
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


async def test_header_values_arrive_as_amqp_carries_them(bench: Bench) -> None:
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


async def test_times_of_all_centuries_and_the_longest_names_arrive(bench: Bench) -> None:
    transport = await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await transport.subscribe(queue, inbox)
    years = [1970, 2106, 2107, 2500, 9999]
    headers: dict[str, Any] = {str(year): datetime(year, 12, 31, tzinfo=UTC) for year in years}
    headers["x" * 255] = headers["é" * 127] = "longest"
    message = Message(body=b"", headers=headers, timestamp=headers["9999"])
    await transport.publish(Outgoing(exchange="", routing_key=queue.name, message=message))
    assert (await inbox.next()).message == message


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
        ({"\ud800": "lone"}, r"'\ud800'"),
        ({"deep": {"\ud800": "lone"}}, r"'\ud800'"),
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
    assert outcome.outcomes == []
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


async def test_an_overlong_property_or_one_with_a_lone_surrogate_is_refused(bench: Bench) -> None:
    transport = await bench.connect()
    for long in (
        {"correlation_id": "x" * 256},
        {"reply_to": "é" * 128},
        {"type": "\ud800"},
        {"priority": 256},
    ):
        outgoing = to(bench.queue())
        outgoing.message = Message(body=b"", **long)
        with pytest.raises(UnserializableValueError):
            await transport.publish(outgoing)
    for key in ("k" * 256, "\ud800"):
        with pytest.raises(UnserializableValueError):
            await transport.publish(
                Outgoing(exchange="", routing_key=key, message=Message(body=b""))
            )


async def test_a_body_over_max_message_size_is_refused(bench: Bench) -> None:
    bench.config = {**bench.config, "MAX_MESSAGE_SIZE": 4096}
    transport = await bench.connect()
    queue = bench.queue()
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, b"x" * 4096))
    with pytest.raises(UnserializableValueError, match="MAX_MESSAGE_SIZE"):
        await transport.publish(to(queue, b"x" * 4097))


async def test_a_larger_body_is_received_without_it_or_rejected(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sender = await bench.connect()
    bench.config = {**bench.config, "MAX_MESSAGE_SIZE": 200_000}
    transport = await bench.connect()
    dead, letters = bench.queue(), Inbox()
    to_dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
    queue, inbox = bench.queue(arguments=to_dead), Inbox()
    await sender.subscribe(dead, letters)
    await transport.subscribe(queue, inbox)
    request = Message(body=bytes(400_000), correlation_id="id", headers={"h": 1})
    await sender.publish(Outgoing(exchange="", routing_key=queue.name, message=request))
    await sender.publish(to(queue, bytes(200_001)))
    await sender.publish(to(queue, b"next"))
    first, second = await inbox.next(), await inbox.next()
    assert first.message.body == b""
    assert first.message.correlation_id == "id"
    assert first.message.headers == {"h": 1, OVERSIZED: 400_000}
    assert second.message.body == b"next"
    assert len((await letters.next()).message.body) == 200_001
    assert "400000 bytes" in caplog.text
    assert "larger than MAX_MESSAGE_SIZE (200000): it is rejected" in caplog.text


async def test_a_larger_message_is_heard_without_its_body_or_rejected(bench: Bench) -> None:
    sender = await bench.connect()
    bench.config = {**bench.config, "MAX_MESSAGE_SIZE": 200_000}
    transport = await bench.connect()
    queue = bench.queue()
    heard: asyncio.Queue[Message] = asyncio.Queue()
    await transport.listen(queue, heard.put_nowait)
    await sender.publish(to(queue, bytes(200_001)))
    reply = Message(body=bytes(200_001), correlation_id="id")
    await sender.publish(Outgoing(exchange="", routing_key=queue.name, message=reply))
    async with asyncio.timeout(PATIENCE):
        message = await heard.get()
    assert message.body == b""
    assert message.headers == {OVERSIZED: 200_001}
    await holds(sender, queue, 0)
    assert heard.empty()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [value]}])
async def test_a_number_for_which_rabbitmq_closes_the_connection_is_refused(
    bench: Bench, value: float, wrap: Callable[[float], Any]
) -> None:
    transport = await bench.connect()
    queue = bench.queue()
    await transport.declare(queues=[queue])
    with pytest.raises(UnserializableValueError, match=rf"'x.*' is {value}.*send a str"):
        await transport.publish(to(queue, headers={"x": wrap(value)}))


async def test_sender_and_receivers_share_no_mutable_header(bench: Bench) -> None:
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

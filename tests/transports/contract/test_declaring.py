"""Exchanges, bindings and queues; over every transport."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from aiorpc.exceptions import (
    ConfigurationError,
    Unroutable,
)
from aiorpc.transports.base import Outgoing, QueueState
from aiorpc.wire.message import Exchange, Message, Queue
from tests.support.transports import (
    PATIENCE,
    Bench,
    Inbox,
    look,
    to,
)


async def test_a_topic_exchange_matches_words(bench: Bench) -> None:
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


async def test_direct_and_fanout_exchanges_and_the_default_exchange_route(bench: Bench) -> None:
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


async def test_a_queue_takes_a_message_once_though_two_bindings_match(bench: Bench) -> None:
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


async def test_a_binding_takes_effect_at_once_and_ends_with_its_queue(bench: Bench) -> None:
    transport = await bench.connect()
    exchange = bench.exchange()
    first, second = bench.queue(exchange, "a.*"), bench.queue(exchange, "#")
    matching = Queue("", exchange, "a.b")
    for queues in ([first], [first, second]):
        await transport.declare(queues=queues)
        for _ in range(2):  # the second time, the route is known
            await transport.publish(to(matching))
    assert [(await look(transport, queue)).messages for queue in (first, second)] == [4, 2]
    await transport.delete(first.name)
    await transport.publish(to(matching))
    assert not (await look(transport, first)).exists
    assert (await look(transport, second)).messages == 3


async def test_a_declared_queue_takes_messages(bench: Bench) -> None:
    transport = await bench.connect()
    exchange = bench.exchange()
    queue = bench.queue(exchange, "key")
    await transport.declare([exchange], [queue])
    await transport.publish(to(queue, mandatory=True))
    assert await look(transport, queue) == QueueState(queue.name, True, 1, 0)
    await transport.declare([exchange], [queue])
    assert (await look(transport, queue)).messages == 1


async def test_declare_waits_for_a_connection(bench: Bench) -> None:
    link = await bench.link(start=False)
    queue = bench.queue()
    declared = asyncio.create_task(link.transport.declare(queues=[queue]))
    await asyncio.sleep(0)
    assert not declared.done()
    await link.transport.start(PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await declared
    assert (await look(link.transport, queue)).exists


async def test_everything_is_declared_again_before_waiting_messages_are_sent(
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
        ("arguments", {"x-queue-type": "quorum", "x-expires": 60_000}, {}, ["x-expires"]),
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


OPERATORS = {"x-queue-type": "quorum", "x-max-length": 1000, "x-message-ttl": 60_000}


async def test_a_queue_that_operators_declared_is_used_as_it_is(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await bench.connect()
    there = bench.queue(arguments=OPERATORS)
    await transport.declare(queues=[there])
    ours = Queue(there.name, bench.exchange(), "key", accept_existing=True)
    inbox = Inbox()
    caplog.set_level("INFO")
    await transport.declare(queues=[ours])
    await transport.subscribe(ours, inbox)
    await transport.publish(to(ours, mandatory=True))
    assert await inbox.bodies(1) == [b"x"]
    await transport.declare(queues=[there])  # its arguments are the operators' still


async def test_a_queue_that_operators_declared_is_used_after_a_reconnect(bench: Bench) -> None:
    link = await bench.link()
    there = bench.queue(arguments=OPERATORS)
    await link.transport.declare(queues=[there])
    ours, inbox = Queue(there.name, accept_existing=True), Inbox()
    await link.transport.subscribe(ours, inbox)
    await link.break_connection()
    await link.reconnected()
    await link.transport.publish(to(ours, mandatory=True))
    assert await inbox.bodies(1) == [b"x"]


QUORUM = {"x-queue-type": "quorum"}


@pytest.mark.parametrize(("there", "asked"), [(QUORUM, {}), ({}, QUORUM)])
async def test_a_queue_of_another_type_is_used_as_it_is(
    bench: Bench, there: dict[str, Any], asked: dict[str, Any]
) -> None:
    transport, inbox = await bench.connect(), Inbox()
    existing = bench.queue(arguments=there)
    await transport.declare(queues=[existing])
    ours = Queue(existing.name, arguments=asked)
    await transport.declare(queues=[ours])
    await transport.subscribe(ours, inbox)
    await transport.publish(to(ours, mandatory=True))
    assert await inbox.bodies(1) == [b"x"]
    await transport.declare(queues=[existing])


async def test_a_queue_that_got_another_type_is_used_after_a_reconnect(bench: Bench) -> None:
    """As when an operator changes the default queue type of the vhost."""
    link, other = await bench.link(), await bench.connect()
    replies, plain = bench.queue(expires=60), bench.queue()
    inbox, answers = Inbox(), Inbox()
    await link.transport.subscribe(replies, answers, keep=True)
    await link.transport.subscribe(plain, inbox)
    await link.transport.declare(queues=[plain])
    await link.cut()
    for queue in (replies, plain):
        await other.delete(queue.name)
        await other.declare(queues=[Queue(queue.name, expires=queue.expires, arguments=QUORUM)])
    link.heal()
    await link.reconnected()
    for queue in (replies, plain):
        await link.transport.publish(to(queue, mandatory=True))
    assert await answers.bodies(1) == await inbox.bodies(1) == [b"x"]


async def test_a_queue_that_loses_messages_is_not_accepted_for_one_that_keeps_them(
    bench: Bench,
) -> None:
    transport = await bench.connect()
    there = bench.queue(auto_delete=True)
    await transport.declare(queues=[there])
    with pytest.raises(ConfigurationError, match="auto_delete"):
        await transport.subscribe(Queue(there.name, accept_existing=True), Inbox())


@pytest.mark.parametrize("there", [True, False])
async def test_an_exchange_with_another_auto_delete_is_used_as_it_is(
    bench: Bench, there: bool
) -> None:
    transport = await bench.connect()
    name = bench.name()
    first = bench.queue(Exchange(name, "topic", auto_delete=there), "key")
    await transport.declare(queues=[first])
    ours = Exchange(name, "topic", auto_delete=not there, accept_existing=True)
    (declared,) = await transport.declare([ours])
    assert declared.auto_delete is there
    queue, inbox = bench.queue(ours, "key"), Inbox()
    await transport.subscribe(queue, inbox)
    await transport.publish(to(queue, mandatory=True))
    assert await inbox.bodies(1) == [b"x"]
    await transport.declare(queues=[first])  # others find it as they left it


async def test_an_exchange_is_named_if_its_flags_keep_a_queue_from_consuming(bench: Bench) -> None:
    transport = await bench.connect()
    exchange = bench.exchange("topic")
    await transport.declare(queues=[bench.queue(exchange, "key")])
    queue = bench.queue(Exchange(exchange.name, "topic"), "key")
    with pytest.raises(ConfigurationError, match=f"exchange '{exchange.name}'.*auto_delete"):
        await transport.subscribe(queue, Inbox())


async def test_refused_subscriptions_leave_no_exception_that_nobody_retrieved(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await bench.connect()
    queues = [bench.queue() for _ in range(5)]
    await transport.declare(queues=queues)

    async def start() -> None:
        async with asyncio.TaskGroup() as group:  # the first that fails cancels the others
            for queue in queues:
                other = Queue(queue.name, expires=60)
                group.create_task(transport.subscribe(other, Inbox()))

    with pytest.raises(ExceptionGroup):
        await start()
    await transport.aclose()
    gc.collect()
    await asyncio.sleep(0)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


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


async def test_an_auto_delete_exchange_is_deleted_with_its_last_binding(bench: Bench) -> None:
    transport = await bench.connect()
    first = bench.queue(bench.exchange("fanout"))
    second = bench.queue(first.exchange)
    await transport.declare(queues=[first, second])
    await transport.delete(first.name)
    await transport.publish(to(second, mandatory=True))
    await transport.delete(second.name)
    with pytest.raises(Unroutable):
        await transport.publish(to(second))


async def test_a_passive_queue_must_exist_and_keeps_its_flags(bench: Bench) -> None:
    transport, inbox = await bench.connect(), Inbox()
    queue = bench.queue(arguments={"x-max-length": 5})
    passive = Queue(queue.name, passive=True)
    with pytest.raises(ConfigurationError, match=f"{queue.name}.*404"):
        await transport.subscribe(passive, inbox)
    assert not (await look(transport, queue)).exists
    await transport.declare(queues=[queue])
    await transport.publish(to(queue, b"a"))
    await transport.subscribe(passive, inbox)
    assert await inbox.until(b"a") == []

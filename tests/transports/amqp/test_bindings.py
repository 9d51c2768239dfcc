"""Queues are bound again now and then: what was removed comes back, and nobody is disturbed."""

from __future__ import annotations

import asyncio
import uuid

import aio_pika
import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    Queue,
    ServiceContainer,
    UnknownService,
    rpc,
)
from aiorpc.transports.amqp import subscription as amqp_subscription, transport as amqp_transport
from aiorpc.transports.amqp.errors import Refused
from aiorpc.transports.amqp.link import Link
from tests.support.transports import Bench, Inbox, is_gone, to
from tests.support.waiting import eventually


async def test_a_service_binds_its_queue_again_when_the_binding_is_lost(
    rabbitmq_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_subscription, "BIND_EVERY", 0.3)

    class Service:
        name = f"bound_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            return "done"

    async with (
        ServiceContainer(Service, {"AMQP_URI": rabbitmq_uri}),
        ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5) as cluster,
        await aio_pika.connect(rabbitmq_uri) as connection,
    ):
        queue = await (await connection.channel()).get_queue(f"rpc-{Service.name}")

        async def answers() -> bool:
            try:
                return bool(await cluster[Service.name].method() == "done")
            except UnknownService:
                return False

        async def is_unbound() -> bool:
            await queue.unbind("nameko-rpc", f"{Service.name}.*")
            return not await answers()  # unless it was bound again in between

        assert await answers()
        await eventually(is_unbound)
        await eventually(answers)


async def test_a_service_that_stops_while_it_binds_again_loses_no_connection(
    rabbitmq_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(amqp_subscription, "BIND_EVERY", 0.003)  # all the time

    class Service:
        name = f"bound_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            return "done"

    for number in range(20):
        async with asyncio.timeout(10):
            async with (
                ServiceContainer(Service, {"AMQP_URI": rabbitmq_uri}),
                ClusterRpcProxy({"AMQP_URI": rabbitmq_uri}, timeout=5) as cluster,
            ):
                await asyncio.sleep(number / 1000)  # so that each stops at another point of binding
                assert await cluster[Service.name].method() == "done"
    # A second channel.close, for example, makes the broker close the connection.
    assert "lost the connection" not in caplog.text


async def test_a_queue_is_bound_again_after_the_vhost_got_another_default_queue_type(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, queue = await bench.connect(), bench.queue(bench.exchange(), "key")
    asked: list[Queue] = []
    bound = asyncio.Event()

    async def declare(link: Link, queue: Queue) -> None:
        asked.append(queue)
        if not queue.passive:  # as RabbitMQ 4.3 says it
            reason = f"inequivalent arg 'x-queue-type' for queue '{queue.name}' in vhost '/'"
            raise Refused(406, f"{reason}: received 'quorum' but current is 'classic'")
        bound.set()

    monkeypatch.setattr(amqp_subscription, "BIND_EVERY", 0.02)
    monkeypatch.setattr(amqp_subscription, "declare_queue", declare)
    await transport.subscribe(queue, Inbox())
    async with asyncio.timeout(5):
        await bound.wait()
    assert [each.passive for each in asked[:2]] == [False, True]


async def test_the_type_of_a_queue_is_asked_again_if_the_broker_does_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ 4 does not answer for a classic queue whose node is down."""
    transport, queue = await bench.connect(), bench.queue()
    answers = iter([TimeoutError(), TimeoutError(), "quorum"])

    async def type_of(link: Link, queue: Queue) -> str:
        answer = next(answers)
        if isinstance(answer, TimeoutError):
            raise answer
        return answer

    monkeypatch.setattr(amqp_transport, "type_of", type_of)
    async with asyncio.timeout(5):
        assert await transport.type_of(queue) == "quorum"
    assert caplog.text.count("; trying again") == 1
    assert f"queue {queue.name!r} on " in caplog.text


async def test_a_stream_is_not_used_as_a_queue(bench: Bench) -> None:
    transport = await bench.connect()
    queue = bench.queue(arguments={"x-queue-type": "stream"})
    await transport.declare(queues=[queue])
    with pytest.raises(ConfigurationError, match="stream"):
        await transport.subscribe(Queue(queue.name), Inbox())


async def test_a_passive_queue_that_was_deleted_is_not_declared_by_its_consumer(
    bench: Bench,
) -> None:
    transport, owner = await bench.connect(), await bench.connect()
    queue, inbox = bench.queue(), Inbox()
    await owner.declare(queues=[queue])
    passive = Queue(queue.name, passive=True)
    await transport.subscribe(passive, inbox)
    await owner.delete(queue.name)
    await asyncio.sleep(0.2)  # in which the consumer tries again
    await is_gone(owner, queue)
    await owner.declare(queues=[queue])
    await owner.publish(to(queue, b"again"))
    assert await inbox.bodies(1) == [b"again"]

"""
Whatever the broker refuses, a method runs once in its process, and each refusal ends. Also answers
that the broker did not read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import MagicMock

import aio_pika
import pytest
from pamqp import commands as spec

from aiorpc import AioRpcError, ClusterRpcProxy, ServiceContainer, event_handler, rpc
from aiorpc.entrypoints import answers
from aiorpc.entrypoints.cancellations import Cancellations
from aiorpc.transports import backlog
from aiorpc.transports.amqp.transport import AmqpTransport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message
from tests.support.amqp import BLOCKED, UNBLOCKED, from_broker
from tests.support.amqp_proxy import Proxy, proxied
from tests.support.waiting import eventually

pytestmark = pytest.mark.rabbitmq

INTERNAL_ERROR = from_broker(
    spec.Connection.Close(reply_code=541, reply_text="INTERNAL_ERROR", class_id=0, method_id=0)
)


@pytest.fixture
async def channel(rabbitmq_uri: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel without aiorpc."""
    async with await aio_pika.connect(rabbitmq_uri) as connection:
        yield await connection.channel()


@pytest.mark.parametrize("confirm", [False, True])
async def test_a_request_whose_answer_was_not_read_is_answered_without_a_second_run(
    rabbitmq_uri: str, confirm: bool
) -> None:
    runs, may_return = Counter[int](), asyncio.Event()

    class Service:
        name = f"refused_{uuid.uuid4().hex}"

        @rpc
        async def count(self, number: int) -> str:
            runs[number] += 1
            await may_return.wait()
            return f"the answer to {number}"

    async with proxied(rabbitmq_uri) as proxy:
        config = {"AMQP_URI": proxy.url, "CONFIRM_REPLIES": confirm}
        async with ServiceContainer(Service, config), ClusterRpcProxy(rabbitmq_uri) as cluster:
            method = cluster[Service.name].count
            calls = [asyncio.ensure_future(method(number)) for number in range(3)]
            await eventually(lambda: len(runs) == 3)
            proxy.deaf = True
            may_return.set()
            await eventually(lambda: proxy.sent.count(b"the answer to") == 3)
            proxy.hang_up()
            proxy.deaf = False
            assert await asyncio.gather(*calls) == [f"the answer to {each}" for each in range(3)]
            assert runs == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
async def test_a_reply_queue_that_is_full_ends_in_one_error_in_the_log(
    rabbitmq_uri: str,
    channel: aio_pika.abc.AbstractChannel,
    delivery: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(answers, "PAUSES", (0.0, 0.01))
    runs = Counter[int]()

    class Service:
        name = f"refused_{uuid.uuid4().hex}"

        @rpc(delivery=delivery)
        async def count(self, number: int) -> int:
            runs[number] += 1
            return number

    reply_to = uuid.uuid4().hex
    options = {"x-max-length": 1, "x-overflow": "reject-publish", "x-expires": 60_000}
    replies = await channel.declare_queue(f"full-{reply_to}", arguments=options)
    config = {"AMQP_URI": rabbitmq_uri, "CONFIRM_REPLIES": True}
    async with ServiceContainer(Service, config):
        exchange = await channel.get_exchange("nameko-rpc")
        await replies.bind(exchange, reply_to)
        for number in range(3):
            request = aio_pika.Message(
                json.dumps({"args": [number], "kwargs": {}}).encode(),
                content_type="application/json",
                reply_to=reply_to,
                correlation_id=str(number),
            )
            await exchange.publish(request, f"{Service.name}.count")
        refused = f"{Service.name}.count: the caller gets no answer, and the method ran: "
        await eventually(lambda: caplog.text.count(refused) == 2)
    assert runs == {0: 1, 1: 1, 2: 1}
    left = await channel.declare_queue(f"rpc-{Service.name}", passive=True)
    assert left.declaration_result.message_count == 0


async def test_a_stop_waits_for_an_answer_that_is_tried_again(
    rabbitmq_uri: str,
    channel: aio_pika.abc.AbstractChannel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise, another instance would get the request, and run the method again."""
    monkeypatch.setattr(answers, "PAUSES", (0.0, 0.0, *(0.1 for _ in range(40))))
    apart, send_apart = asyncio.Event(), answers.Answers._send_apart

    def sending_apart(self: Any, *given: Any) -> None:
        send_apart(self, *given)
        apart.set()

    monkeypatch.setattr(answers.Answers, "_send_apart", sending_apart)

    class Service:
        name = f"refused_{uuid.uuid4().hex}"

        @rpc
        async def count(self, number: int) -> int:
            return number

        @rpc
        async def hold(self) -> None:
            held.set()
            await may_return.wait()

    held, may_return = asyncio.Event(), asyncio.Event()
    reply_to = uuid.uuid4().hex
    options = {"x-max-length": 1, "x-overflow": "reject-publish", "x-expires": 60_000}
    replies = await channel.declare_queue(f"full-{reply_to}", arguments=options)
    config = {"AMQP_URI": rabbitmq_uri, "CONFIRM_REPLIES": True, "DISCOVERY": False}

    async def is_not_consumed() -> bool:
        queue = await channel.declare_queue(f"rpc-{Service.name}", passive=True)
        return not queue.declaration_result.consumer_count

    async with (
        ServiceContainer(Service, config) as container,
        ClusterRpcProxy(rabbitmq_uri) as cluster,
    ):
        holding = cluster[Service.name].hold.call_async()
        await held.wait()
        exchange = await channel.get_exchange("nameko-rpc")
        await replies.bind(exchange, reply_to)
        await exchange.publish(aio_pika.Message(b"fills the queue"), reply_to)
        request = aio_pika.Message(
            json.dumps({"args": [7], "kwargs": {}}).encode(),
            content_type="application/json",
            reply_to=reply_to,
            correlation_id="7",
        )
        await exchange.publish(request, f"{Service.name}.count")
        await asyncio.wait_for(apart.wait(), 10)
        stopping = asyncio.ensure_future(container.stop())
        await eventually(is_not_consumed)
        assert await is_not_consumed()  # and by now, the background tasks have ended
        await replies.purge()
        may_return.set()
        await holding
        await stopping
    answer = await replies.get()
    assert answer is not None
    assert json.loads(answer.body)["result"] == 7
    await answer.ack()
    left = await channel.declare_queue(f"rpc-{Service.name}", passive=True)
    assert left.declaration_result.message_count == 0


def event_counter() -> tuple[Any, str, Counter[int]]:
    """Return a service with an event handler, the source of its events, and the handled events."""
    handled = Counter[int]()
    source = f"source_{uuid.uuid4().hex}"

    class Service:
        name = f"refused_{uuid.uuid4().hex}"

        @event_handler(source, "made")
        async def handle(self, number: int) -> None:
            handled[number] += 1

    return Service, source, handled


async def test_an_event_that_cannot_be_counted_is_handled(
    rabbitmq_uri: str, channel: aio_pika.abc.AbstractChannel, caplog: pytest.LogCaptureFixture
) -> None:
    service, source, handled = event_counter()
    # An operator declared the queue. Five events were delivered to a process that ended.
    exchange = await channel.declare_exchange(f"{source}.events", "topic", durable=True)
    queue = await channel.declare_queue(
        f"evt-{source}-made--{service.name}.handle",
        durable=True,
        arguments={"x-max-length": 1, "x-overflow": "reject-publish"},
    )
    await queue.bind(exchange, "made")
    async with await aio_pika.connect(rabbitmq_uri) as connection:
        taken = await (await connection.channel()).get_queue(queue.name)
        for number in range(5):
            await exchange.publish(
                aio_pika.Message(str(number).encode(), content_type="application/json"), "made"
            )
            await taken.get()
    try:
        with caplog.at_level(logging.WARNING, "aiorpc.attempts"):
            config = {"AMQP_URI": rabbitmq_uri, "max_workers": 1}
            async with ServiceContainer(service, config):
                await eventually(lambda: len(handled) == 5)
        assert set(handled.values()) == {1}
        assert "is not counted, because a copy of it cannot be sent: the broker refused" in (
            caplog.text
        )
    finally:
        await queue.delete(if_unused=False, if_empty=False)
        await exchange.delete()


def test_an_id_that_a_caller_uses_again_keeps_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT_BYTES", 100)
    kept = answers.Answers(MagicMock(), Cancellations())
    kept._most = 10
    for _ in range(10):
        kept.keep(("r", "1"), answers.Kept(0, Message(body=b"x" * 40)))
    kept.keep(("r", "2"), answers.Kept(0, Message(body=b"x" * 40)))
    assert list(kept._kept) == [("r", "1"), ("r", "2")]


@pytest.mark.parametrize("confirm", [False, True])
async def test_an_answer_that_ends_two_connections_becomes_an_error(
    rabbitmq_uri: str, confirm: bool
) -> None:
    runs = Counter[int]()

    class Service:
        name = f"refused_{uuid.uuid4().hex}"

        @rpc
        async def count(self, number: int) -> str:
            runs[number] += 1
            return "poison" if number == 1 else "good"

    async with proxied(rabbitmq_uri) as proxy:
        config = {"AMQP_URI": proxy.url, "CONFIRM_REPLIES": confirm}
        async with ServiceContainer(Service, config), ClusterRpcProxy(rabbitmq_uri) as cluster:
            proxy.poison, proxy.last_words = b"poison", INTERNAL_ERROR
            calls = [cluster[Service.name].count(number) for number in range(3)]
            first, error, last = await asyncio.gather(*calls, return_exceptions=True)
            assert (first, last) == ("good", "good")
            assert "because of it (541 INTERNAL_ERROR)" in str(error)
            assert proxy.sent.count(b"poison") == 2
    assert runs == {0: 1, 1: 1, 2: 1}


async def test_an_answer_that_cannot_be_sent_for_long_is_sent_later(
    rabbitmq_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answers, "PAUSES", (0.0, 0.01))
    runs, may_return = Counter[int](), asyncio.Event()

    class Service:
        name = f"refused_{uuid.uuid4().hex}"

        @rpc
        async def count(self, number: int) -> int:
            runs[number] += 1
            await may_return.wait()
            return number

    async with proxied(rabbitmq_uri) as proxy:
        config = {"AMQP_URI": proxy.url, "CONFIRM_REPLIES": True}
        async with ServiceContainer(Service, config), ClusterRpcProxy(rabbitmq_uri) as cluster:
            call = asyncio.ensure_future(cluster[Service.name].count(1))
            await eventually(lambda: len(runs) == 1)
            proxy.inject(BLOCKED)
            with monkeypatch.context() as full:
                full.setattr(backlog, "MAX_MESSAGES", 0)
                await eventually(lambda: "accepts no messages" in caplog.text)
                may_return.set()
                await eventually(lambda: "an answer could not be sent and is kept" in caplog.text)
            proxy.inject(UNBLOCKED)
            assert await call == 1
    assert runs == {1: 1}


async def test_a_redelivered_request_with_the_id_of_another_runs(
    rabbitmq_uri: str, channel: aio_pika.abc.AbstractChannel
) -> None:
    runs = Counter[int]()

    class Service:
        name = f"refused_{uuid.uuid4().hex}"

        @rpc
        async def count(self, number: int) -> int:
            runs[number] += 1
            return number

    async def request(number: int) -> None:
        body = json.dumps({"args": [number], "kwargs": {}}).encode()
        same = {"content_type": "application/json", "reply_to": "r", "correlation_id": "1"}
        await exchange.publish(aio_pika.Message(body, **same), f"{Service.name}.count")

    async with ServiceContainer(Service, {"AMQP_URI": rabbitmq_uri}):
        exchange = await channel.get_exchange("nameko-rpc")
    async with await aio_pika.connect(rabbitmq_uri) as connection:
        await request(2)
        await (await (await connection.channel()).get_queue(f"rpc-{Service.name}")).get()
        async with (
            proxied(rabbitmq_uri) as proxy,
            ServiceContainer(Service, {"AMQP_URI": proxy.url}) as service,
        ):
            await request(1)
            await eventually(lambda: runs == {1: 1})
            proxy.hang_up()
            await eventually(lambda: proxy.connections == 2 and service.health().ok)
            await connection.close()
            await eventually(lambda: runs == {1: 1, 2: 1})


#: Class and method of the broker's confirm, as on the wire.
CONFIRM = b"\x00\x3c\x00\x50"


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_event_is_handled_once_if_the_broker_closes_the_channel_of_its_counted_copy(
    rabbitmq_uri: str, channel: aio_pika.abc.AbstractChannel, workers: int
) -> None:
    service, source, handled = event_counter()
    async with ServiceContainer(service, {"AMQP_URI": rabbitmq_uri}):
        exchange = await channel.get_exchange(f"{source}.events")
    queue = await channel.get_queue(f"evt-{source}-made--{service.name}.handle")
    async with await aio_pika.connect(rabbitmq_uri) as connection:
        await exchange.publish(aio_pika.Message(b"1", content_type="application/json"), "made")
        await (await (await connection.channel()).get_queue(queue.name)).get()
    async with proxied(rabbitmq_uri) as proxy:
        proxy.drops = lambda frame: frame[7:11] == CONFIRM
        config = {"AMQP_URI": proxy.url, "max_workers": workers, "DISCOVERY": False}
        async with ServiceContainer(service, config) as service:
            await eventually(lambda: b"aiorpc-copy" in proxy.sent)
            nowhere = Outgoing(exchange=source, routing_key="x", message=Message(body=b""))
            with pytest.raises(AioRpcError, match="no such exchange"):
                await service.transport.publish(nowhere, 10)
            await eventually(lambda: handled == {1: 1})
            proxy.drops = lambda frame: False
            await exchange.publish(aio_pika.Message(b"2", content_type="application/json"), "made")
            await eventually(lambda: 2 in handled)
        assert handled == {1: 1, 2: 1}
    left = await channel.declare_queue(queue.name, passive=True)
    assert left.declaration_result.message_count == 0


class Waiting:
    """A service on a proxy, and calls of it whose methods return when the broker is blocked."""

    def __init__(self, proxy: Proxy, name_: str) -> None:
        self.runs = runs = Counter[int]()
        self.proxy = proxy
        self._may_return = may_return = asyncio.Event()

        class service:
            name = name_

            @rpc
            async def count(self, number: int) -> str:
                runs[number] += 1
                await may_return.wait()
                return "x" * 1000 * number

        self.cls = service

    async def call(self, cluster: Any, log: pytest.LogCaptureFixture) -> asyncio.Future[list[Any]]:
        """Call the method with 0, 1 and 2. Return when all answers wait."""
        calls = [cluster[self.cls.name].count(number) for number in range(3)]
        answers = asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: len(self.runs) == 3)
        self.proxy.inject(BLOCKED)
        await eventually(lambda: "accepts no messages" in log.text)
        self._may_return.set()
        for _ in range(20):  # until the methods have ended
            await asyncio.sleep(0)
        return answers


@pytest.mark.parametrize("confirm", [False, True])
async def test_answers_that_wait_for_a_blocked_broker_outlive_the_connection(
    rabbitmq_uri: str, confirm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxied(rabbitmq_uri) as proxy:
        waiting = Waiting(proxy, f"refused_{uuid.uuid4().hex}")
        config = {"AMQP_URI": proxy.url, "CONFIRM_REPLIES": confirm}
        async with ServiceContainer(waiting.cls, config), ClusterRpcProxy(rabbitmq_uri) as cluster:
            answers = await waiting.call(cluster, caplog)
            proxy.hang_up()
            assert await answers == ["", "x" * 1000, "x" * 2000]
            await cluster[waiting.cls.name].count(3)  # behind the redelivered requests
    assert waiting.runs == {0: 1, 1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("lost", [False, True])
async def test_a_limit_that_is_lowered_while_answers_wait_fails_only_the_large_ones(
    rabbitmq_uri: str, lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxied(rabbitmq_uri) as proxy:
        waiting = Waiting(proxy, f"refused_{uuid.uuid4().hex}")
        async with (
            ServiceContainer(waiting.cls, {"AMQP_URI": proxy.url}) as service,
            ClusterRpcProxy(rabbitmq_uri) as cluster,
        ):
            answers = await waiting.call(cluster, caplog)
            assert isinstance(service.transport, AmqpTransport)
            service.transport._limit.lower(900, "max_message_size of the broker")
            if lost:
                proxy.hang_up()
            else:
                proxy.inject(UNBLOCKED)
            first, *others = await answers
    assert first == ""
    assert all("max_message_size of the broker is 900" in str(each) for each in others)
    assert waiting.runs == {0: 1, 1: 1, 2: 1}

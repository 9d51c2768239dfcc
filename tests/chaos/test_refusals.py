"""
A broker that refuses a message closes the channel of many. Each method runs once, and only the call
of the refused message fails.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aio_pika
import pytest

from aiorpc import (
    AioRpcError,
    ClusterRpcProxy,
    ConfigurationError,
    ServiceContainer,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.transports.amqp import transport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message
from tests.servers import Rabbit
from tests.support.waiting import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.alone]

LIMIT = 1_000_000
#: What RabbitMQ 3.x permits.
USUAL = 128 << 20


@pytest.fixture(scope="module")
def limited(node: Rabbit) -> Iterator[Rabbit]:
    """The broker, which refuses bodies of more than ``LIMIT`` bytes."""

    def limit(size: int) -> None:
        setting = f"max_message_size, {size}"  # 3.x reads the first place, 4.x the second
        node.ctl("eval", f"application:set_env(rabbit, {setting}), persistent_term:put({setting}).")

    limit(LIMIT)
    yield node
    limit(USUAL)


@pytest.fixture(autouse=True)
def _nothing_learnt() -> Iterator[None]:
    transport.LIMITS.clear()
    yield
    transport.LIMITS.clear()


def service() -> tuple[type, Counter[Any]]:
    """Return a service and the number of runs, by argument."""
    runs = Counter[Any]()

    class Service:
        name = f"refused_{secrets.token_hex(4)}"

        @rpc
        async def give(self, size: int) -> str:
            runs["give"] += 1
            return "x" * size

        @rpc
        async def count(self, number: int, data: str = "") -> int:
            runs[number] += 1
            await asyncio.sleep(number % 7 / 1000)  # the time that a method takes
            return number

    return Service, runs


@pytest.mark.parametrize("profile", ["durable", "fast"])
@pytest.mark.parametrize("confirm", [False, True])
async def test_a_reply_that_the_broker_refuses_fails_only_its_call(
    limited: Rabbit, profile: str, confirm: bool
) -> None:
    cls, runs = service()
    config = {"AMQP_URI": limited.url, "CALL_PROFILE": profile}
    async with (
        ServiceContainer(cls, {**config, "CONFIRM_REPLIES": confirm}),
        ClusterRpcProxy(config, timeout=20) as cluster,
    ):
        remote = cluster[cls.name]

        async def flow(first: int) -> list[int]:
            return [await remote.count(number) for number in range(first, first + 30)]

        flows = asyncio.gather(*(flow(1000 * each) for each in range(40)))
        with pytest.raises(AioRpcError, match="larger than the broker accepts"):
            await remote.give(2 * LIMIT)
        assert sum(map(len, await flows)) == 40 * 30
        with pytest.raises(AioRpcError, match=f"max_message_size of the broker is {LIMIT}"):
            await remote.give(2 * LIMIT)
    assert runs.pop("give") == 2
    assert set(runs.values()) == {1}
    assert len(runs) == 40 * 30


async def test_all_replies_that_are_too_large_fail_with_a_reason(limited: Rabbit) -> None:
    cls, runs = service()
    sizes = [2 * LIMIT, 3 * LIMIT, 10, 4 * LIMIT]
    config = {"AMQP_URI": limited.url}
    async with ServiceContainer(cls, config), ClusterRpcProxy(config, timeout=20) as cluster:
        calls = [cluster[cls.name].give(size) for size in sizes]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers.pop(2) == "x" * 10
    assert ["larger than the broker accepts" in str(each) for each in answers].count(True) == 1
    assert all("UnserializableValueError" in str(each) for each in answers)
    assert runs == {"give": 4}


@pytest.mark.parametrize("profile", ["durable", "fast"])
async def test_requests_that_the_broker_refuses_fail_only_their_calls(
    limited: Rabbit, profile: str
) -> None:
    cls, runs = service()
    config = {"AMQP_URI": limited.url, "CALL_PROFILE": profile}
    async with ServiceContainer(cls, config), ClusterRpcProxy(config, timeout=20) as cluster:
        count = cluster[cls.name].count
        sizes = {50: 2 * LIMIT, 70: 3 * LIMIT, 90: 4 * LIMIT}
        calls = [count(each, "x" * sizes.get(each, 0)) for each in range(200)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    small = [each for each in range(200) if each not in sizes]
    assert [answers[each] for each in small] == small
    assert "larger than the broker accepts" in str(answers[50])
    for each in (70, 90):
        assert f"max_message_size of the broker is {LIMIT}" in str(answers[each])
    assert runs == dict.fromkeys(small, 1)


async def test_methods_of_a_service_that_may_not_reply_run_once(
    node: Rabbit, caplog: pytest.LogCaptureFixture
) -> None:
    cls, runs = service()
    node.ctl("add_user", "mute", "mute")
    node.ctl("set_permissions", "mute", ".*", "^(?!nameko-rpc).*$", ".*")
    try:
        config = {"AMQP_URI": node.url.replace("guest:guest", "mute:mute")}
        async with ServiceContainer(cls, config), ClusterRpcProxy(node.url, timeout=2) as cluster:
            calls = [cluster[cls.name].count(number) for number in range(20)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        node.ctl("delete_user", "mute")
    assert all(isinstance(answer, AioRpcError) for answer in answers)
    assert runs == dict.fromkeys(range(20), 1)
    assert "the caller gets no answer, and the method ran: " in caplog.text
    assert "the user may not publish there (403 ACCESS_REFUSED" in caplog.text


async def test_a_service_that_may_not_publish_to_its_queue_handles_events(
    node: Rabbit, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Counter[int]()

    class Service:
        name = f"refused_{secrets.token_hex(4)}"

        @event_handler(name, "made")
        async def handle(self, number: int) -> None:
            runs[number] += 1

    config = {"AMQP_URI": node.url.replace("guest:guest", "mute:mute")}
    queue = f"evt-{Service.name}-made--{Service.name}.handle"
    node.ctl("add_user", "mute", "mute")
    node.ctl("set_permissions", "mute", ".*", r"^(?!amq\.default).*$", ".*")
    try:
        async with ServiceContainer(Service, config):
            pass
        async with await aio_pika.connect(node.url) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(f"{Service.name}.events")
            for number, headers in enumerate([{}, {"aiorpc-attempts": 100}]):
                body, kind = str(number).encode(), "application/json"
                event = aio_pika.Message(body, content_type=kind, headers=headers)
                await exchange.publish(event, "made")
                await (await channel.get_queue(queue)).get()
        async with ServiceContainer(Service, config):
            await eventually(lambda: runs == {0: 1})
            await eventually(lambda: "it cannot be parked (" in caplog.text)
    finally:
        node.ctl("delete_user", "mute")


async def test_a_routing_key_that_is_not_permitted_fails_only_its_messages(
    node: Rabbit, caplog: pytest.LogCaptureFixture
) -> None:
    node.ctl("add_user", "some", "some")
    node.ctl("set_permissions", "some", ".*", ".*", ".*")
    node.ctl("set_topic_permissions", "some", "amq.topic", "^good$", ".*")
    try:
        url = node.url.replace("guest:guest", "some:some")
        async with open_transport(resolve({"AMQP_URI": url})) as sending:
            keys = ["good", "good", "bad", "good", "bad", "bad"]
            message = Message(body=b"")
            sent = [
                Outgoing(exchange="amq.topic", routing_key=key, message=message, again=lambda m: m)
                for key in keys
            ]
            publishing = (sending.publish(each, 10) for each in sent)
            outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    finally:
        node.ctl("delete_user", "some")
    assert [outcome.__class__ for outcome in outcomes] == [
        {"good": type(None), "bad": ConfigurationError}[key] for key in keys
    ]
    assert caplog.text.count("closed the publishing channel") == 1


async def test_requests_that_an_empty_queue_refuses_are_sent_again(node: Rabbit) -> None:
    """A quorum queue without a leader does so, and a queue whose node is down (4.3)."""
    cls, runs = service()
    node.ctl(
        "set_policy", cls.name, f"^rpc-{cls.name}$", '{"max-length":0,"overflow":"reject-publish"}'
    )
    async with (
        ServiceContainer(cls, node.url),
        ClusterRpcProxy(node.url, timeout=20) as cluster,
    ):
        method = cluster[cls.name].count
        calls = [method.call_async(number) for number in range(50)]
        queues = method._client._pending._unreachable._queues
        await eventually(lambda: queues)
        node.ctl("clear_policy", cls.name)
        assert [await call.result() for call in calls] == list(range(50))
    assert runs == dict.fromkeys(range(50), 1)

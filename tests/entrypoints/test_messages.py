"""``Publisher`` and ``@consume``: messages of any exchange and queue, over every transport."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    EventDispatcher,
    Exchange,
    Publisher,
    Queue,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message


def service(suffix: str, *, fail_first: bool = False) -> Any:
    exchange = Exchange(f"things-{suffix}", type="direct", auto_delete=True)
    queue = Queue(f"things-{suffix}", exchange, "thing", exclusive=True, durable=False)

    class Things:
        name = f"things_{suffix}"
        seen: asyncio.Queue[Any] = asyncio.Queue()
        publish = Publisher(exchange, mandatory=True)
        failures = 0

        @rpc
        async def send(self, payload: object, routing_key: str = "thing") -> None:
            await self.publish(payload, routing_key=routing_key, expiration=60, priority=1)

        @consume(queue, requeue_on_error=fail_first)
        async def take(self, payload: object) -> None:
            if fail_first and not type(self).failures:
                type(self).failures += 1
                raise ValueError("again, please")
            await self.seen.put(payload)

    return Things


async def test_a_published_message_is_consumed(broker_config: dict[str, Any]) -> None:
    things = service(uuid.uuid4().hex[:8])
    async with (
        ServiceContainer(things, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        for payload in ({"id": 1}, [1, 2], None, "text"):
            await cluster[things.name].send(payload)
            assert await asyncio.wait_for(things.seen.get(), 5) == payload


async def test_a_mandatory_message_that_no_queue_takes_is_an_error(
    broker_config: dict[str, Any],
) -> None:
    things = service(uuid.uuid4().hex[:8])
    async with (
        ServiceContainer(things, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError) as info:
            await cluster[things.name].send(1, routing_key="nobody")
        assert info.value.exc_type == "Unroutable"


async def test_requeue_on_error_brings_the_message_again(broker_config: dict[str, Any]) -> None:
    things = service(uuid.uuid4().hex[:8], fail_first=True)
    async with (
        ServiceContainer(things, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        await cluster[things.name].send("twice")
        assert await asyncio.wait_for(things.seen.get(), 5) == "twice"
    assert things.failures == 1


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"timestamp": 5}, ConfigurationError, "timestamp"),
        ({"correlation_id": 5}, ConfigurationError, "correlation_id"),
        ({"priority": 300}, ConfigurationError, "priority"),
        ({"prio": 1}, TypeError, "prio"),
        ({"expiration": float("nan")}, ConfigurationError, "seconds above 0"),
        ({"expiration": -1}, ConfigurationError, "seconds above 0"),
    ],
)
async def test_publishing_with_an_unknown_property_names_it(
    broker_config: dict[str, Any], wrong: dict[str, Any], error: type[Exception], said: str
) -> None:
    class Sending:
        name = f"sending_{uuid.uuid4().hex[:8]}"
        publish = Publisher()

        @rpc
        async def send(self) -> None:
            with pytest.raises(error, match=said):
                await self.publish("x", routing_key="nobody", **wrong)
            await self.publish("x", routing_key="nobody", expiration=float("inf"), priority=9)

    async with (
        ServiceContainer(Sending, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        await cluster[Sending.name].send()


def test_consume_takes_a_queue() -> None:
    with pytest.raises(ConfigurationError, match=r"^consume\(\) takes aiorpc\.Queue, not str: "):
        consume("things")


# Exchanges


def test_an_exchange_is_direct_unless_it_says_otherwise_as_in_kombu() -> None:
    assert Exchange("orders").type == "direct"


def test_a_queue_wants_an_exchange_and_not_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"^Queue.* takes aiorpc\.Exchange, not str"):
        Queue("q", "orders", "key")


async def test_event_exchanges_that_others_declare_are_left_alone(
    broker_config: dict[str, Any],
) -> None:
    """``DECLARE_EVENT_EXCHANGES: false``: neither the dispatcher declares them nor the handler."""
    suffix = uuid.uuid4().hex[:8]
    heard: asyncio.Queue[str] = asyncio.Queue()

    class Both:
        name = f"both_{suffix}"
        dispatch = EventDispatcher()

        @rpc
        async def send(self) -> None:
            await self.dispatch("sent", "hello")

        @event_handler(name, "sent", reliable_delivery=False)
        async def hear(self, what: str) -> None:
            heard.put_nowait(what)

    config = {**broker_config, "DECLARE_EVENT_EXCHANGES": False}
    with pytest.raises(ConfigurationError, match="404"):
        async with ServiceContainer(Both, config):
            pass
    theirs = Exchange(
        f"both_{suffix}.events", "topic", arguments={"alternate-exchange": "amq.fanout"}
    )
    async with open_transport(resolve(broker_config), name="operations") as operations:
        await operations.declare([theirs])
        async with ServiceContainer(Both, config), ClusterRpcProxy(config, timeout=5) as cluster:
            await cluster[Both.name].send()
            assert await asyncio.wait_for(heard.get(), 5) == "hello"


@pytest.mark.parametrize("declared_by", ["configuration", "an old Nameko"])
async def test_dispatching_to_an_exchange_that_was_deleted_with_its_last_handler_is_no_error(
    broker_config: dict[str, Any], declared_by: str
) -> None:
    """
    Nobody handles the event, so it is dropped. An exchange of Nameko before 2.13, which declared
    ``auto_delete``, is used as it is.
    """
    config = {
        **broker_config,
        "AUTO_DELETE_EVENT_EXCHANGES": declared_by == "configuration",
    }
    suffix = uuid.uuid4().hex[:8]
    theirs = Exchange(f"source_{suffix}.events", "topic", auto_delete=True)
    handled = Queue(f"theirs-{suffix}", theirs, "sent", durable=False, exclusive=True)
    heard: asyncio.Queue[int] = asyncio.Queue()

    class Source:
        name = f"source_{suffix}"
        dispatch = EventDispatcher()

        @rpc
        async def send(self, number: int) -> None:
            await self.dispatch("sent", number)

    class Listener:
        name = f"listener_{suffix}"

        @event_handler(f"source_{suffix}", "sent", reliable_delivery=False)
        async def hear(self, number: int) -> None:
            heard.put_nowait(number)

    async with AsyncExitStack() as stack:
        nameko = await stack.enter_async_context(open_transport(resolve(config), name="theirs"))
        await nameko.declare(queues=[handled])
        await stack.enter_async_context(ServiceContainer(Source, config))
        cluster = await stack.enter_async_context(ClusterRpcProxy(config, timeout=5))
        dispatch = await stack.enter_async_context(event_dispatcher(config))
        source = cluster[Source.name]
        await source.send(1)
        await dispatch(Source.name, "sent", 1)
        await nameko.aclose()
        await source.send(1)
        async with ServiceContainer(Listener, config):
            await source.send(2)
            assert await asyncio.wait_for(heard.get(), 5) == 2
        await source.send(3)
        await dispatch(Source.name, "sent", 4)
        async with ServiceContainer(Listener, config):
            await source.send(5)
            await dispatch(Source.name, "sent", 6)
            assert {await asyncio.wait_for(heard.get(), 5) for _ in range(2)} == {5, 6}


# Under a deadline


async def test_an_event_dispatched_after_the_deadline_is_sent(
    broker_config: dict[str, Any],
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    sent: asyncio.Queue[str] = asyncio.Queue()
    name_of_it = f"late_{uuid.uuid4().hex[:8]}"

    class Late:
        name = name_of_it
        dispatch = EventDispatcher()
        publish = Publisher(Exchange(f"{name_of_it}.events", "topic"))

        @rpc
        async def compensates(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await self.dispatch("undone", "dispatched")
                await self.publish("published", routing_key="undone")
                sent.put_nowait("both")

        @event_handler(name_of_it, "undone", reliable_delivery=False)
        async def hear(self, what: str) -> None:
            heard.put_nowait(what)

    async with (
        ServiceContainer(Late, broker_config),
        ClusterRpcProxy(broker_config) as cluster,
    ):
        with pytest.raises(RpcTimeout):
            await cluster[Late.name].compensates.with_options(timeout=0.3)()
        assert await asyncio.wait_for(sent.get(), 5) == "both"
        got = {await asyncio.wait_for(heard.get(), 5) for _ in range(2)}
    assert got == {"dispatched", "published"}


# What is larger than we take


@pytest.mark.parametrize("content_type", ["application/json", "application/data", None])
async def test_no_handler_runs_with_a_body_that_was_too_large(
    rabbitmq_uri: str, content_type: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"AMQP_URI": rabbitmq_uri}
    queue = Queue(f"large-{uuid.uuid4().hex[:8]}", exclusive=False, auto_delete=True)
    seen: asyncio.Queue[Any] = asyncio.Queue()

    class Taking:
        name = f"taking_{uuid.uuid4().hex[:8]}"

        @consume(queue)
        async def take(self, payload: object) -> None:
            seen.put_nowait(payload)

    async with (
        ServiceContainer(Taking, {**config, "MAX_MESSAGE_SIZE": 4096}),
        open_transport(resolve(config), name="a test") as transport,
    ):
        for body in (b"x" * 5000, b'"small"'):
            message = Message(body=body, content_type=content_type, correlation_id="c")
            await transport.publish(Outgoing(exchange="", routing_key=queue.name, message=message))
        got = await asyncio.wait_for(seen.get(), 5)
        assert got in ("small", '"small"', b'"small"')
    assert "the body has 5000 bytes, more than MAX_MESSAGE_SIZE here" in caplog.text

"""Options of calls, events and messages: in a declaration, for one message, and misspelt ones."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    ClusterRpc,
    ClusterRpcProxy,
    ConfigurationError,
    EventDispatcher,
    Exchange,
    Publisher,
    Queue,
    RpcProxy,
    ServiceContainer,
    ServiceRpcProxy,
    consume,
    event_dispatcher,
    rpc,
    sync,
)
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery
from aiorpc.wire.message import Message
from aiorpc.wire.serializers import MSGPACK

#: Options in a declaration, and those of one message.
DECLARED: dict[str, Any] = {
    "headers": {"kept": "declared", "changed": "declared"},
    "priority": 4,
    "serializer": "msgpack",
    "persistent": False,
}
ONE: dict[str, Any] = {"headers": {"changed": "by one message"}, "priority": 5, "persistent": True}


@asynccontextmanager
async def inbox(config: Any, queue: Queue) -> AsyncIterator[Callable[[], Any]]:
    """Consume *queue*, and give a coroutine function that returns its next message."""
    arrived: asyncio.Queue[Message] = asyncio.Queue()

    def received(delivery: Delivery) -> None:
        delivery.ack()
        arrived.put_nowait(delivery.message)

    async with open_transport(resolve(config), name="inbox") as transport:
        subscription = await transport.subscribe(queue, received, prefetch=10)
        async with subscription:
            yield lambda: asyncio.wait_for(arrived.get(), 5)
        await transport.delete(queue.name)


def shop_with(options: dict[str, Any]) -> Any:
    suffix = uuid.uuid4().hex[:8]

    class Sending:
        name = f"sending_{suffix}"
        stock = RpcProxy(f"stock_{suffix}", **options)
        cluster = ClusterRpc(**options)
        dispatch = EventDispatcher(**options)
        publish = Publisher(Exchange(f"orders_{suffix}", auto_delete=True), **options)

        @rpc
        async def send(self, kind: str, options: dict[str, Any]) -> None:
            if kind == "event":
                await self.dispatch("sold", ["Emma"], **options)
            elif kind == "message":
                await self.publish(["Emma"], routing_key="order", **options)
            else:
                service = self.stock if kind == "call" else self.cluster[f"stock_{suffix}"]
                service.take.with_options(**options).call_async("Emma")

    return Sending


def queue_of(kind: str, shop: Any) -> Queue:
    suffix = shop.name.removeprefix("sending_")
    if kind == "event":
        exchange = Exchange(f"{shop.name}.events", "topic", accept_existing=True)
        return Queue(f"evt-{shop.name}", exchange, "sold", auto_delete=True, exclusive=True)
    if kind == "message":
        exchange = Exchange(f"orders_{suffix}", auto_delete=True)
        return Queue(f"orders_{suffix}", exchange, "order", auto_delete=True, exclusive=True)
    return Queue(f"rpc-stock_{suffix}", Exchange("nameko-rpc", "topic"), f"stock_{suffix}.*")


@pytest.mark.parametrize("kind", ["event", "message", "call", "call of a cluster"])
@pytest.mark.parametrize("declared", [{}, DECLARED], ids=["plain", "declared"])
@pytest.mark.parametrize("one", [{}, ONE], ids=["", "one"])
async def test_options_of_a_declaration_and_of_one_message_reach_the_broker(
    broker_config: dict[str, Any], kind: str, declared: dict[str, Any], one: dict[str, Any]
) -> None:
    shop = shop_with(declared)
    async with (
        ServiceContainer(shop, {**broker_config, "ACCEPT": ["json", "msgpack"]}),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
        inbox(broker_config, queue_of(kind, shop)) as next_message,
    ):
        await cluster[shop.name].send(kind, one)
        message = await next_message()
    expected = {**declared, **one}
    assert message.priority == expected.get("priority", 0)
    assert message.persistent == expected.get("persistent", True)
    headers = {**declared.get("headers", {}), **one.get("headers", {})}
    if kind.startswith("call"):
        headers = expected.get("headers", {})  # with_options replaces them
    assert {key: message.headers[key] for key in headers} == headers
    assert ("kept" in message.headers) == ("kept" in headers)
    packed = expected.get("serializer") == "msgpack"
    assert message.content_type == ("application/x-msgpack" if packed else "application/json")
    if packed:
        body = ["Emma"] if kind in ("event", "message") else {"args": ["Emma"], "kwargs": {}}
        assert MSGPACK.decode(message.body) == body


async def test_an_event_and_a_message_expire_as_declared_or_as_one_message_says(
    broker_config: dict[str, Any],
) -> None:
    source = f"source_{uuid.uuid4().hex[:8]}"
    exchange = Exchange(f"{source}.events", "topic", accept_existing=True)
    queue = Queue(f"evt-{source}", exchange, "sold", auto_delete=True, exclusive=True)
    async with (
        inbox(broker_config, queue) as next_message,
        event_dispatcher(broker_config, expiration=60, type="sale", headers={"a": 1}) as dispatch,
    ):
        await dispatch(source, "sold", 1)
        await dispatch(source, "sold", 1, expiration=5, headers={"b": 2})
        first, second = await next_message(), await next_message()
    assert [first.expiration, second.expiration] == [60_000, 5_000]
    assert [first.type, second.type] == ["sale", "sale"]
    assert ("b" in first.headers, second.headers["a"], second.headers["b"]) == (False, 1, 2)


async def test_a_service_reads_a_call_in_the_serializer_of_its_proxy(
    broker_config: dict[str, Any],
) -> None:
    class Packed:
        name = f"packed_{uuid.uuid4().hex[:8]}"

        @rpc
        async def echo(self, value: object) -> object:
            return value

    config = {**broker_config, "ACCEPT": ["json", "msgpack"]}
    async with (
        ServiceContainer(Packed, config),
        ClusterRpcProxy(config, timeout=5) as cluster,
    ):
        echo = cluster[Packed.name].echo.with_options(serializer="msgpack", priority=1)
        assert await echo([1, {"a": None}]) == [1, {"a": None}]


@pytest.mark.parametrize(
    "provider",
    [
        RpcProxy("x", serializer="jason"),
        ClusterRpc(serializer="jason"),
        EventDispatcher(serializer="jason"),
        Publisher(serializer="jason"),
    ],
)
async def test_a_declaration_with_an_unknown_serializer_fails_the_start(provider: Any) -> None:
    service = type("Service", (), {"name": "service", "provider": provider})
    with pytest.raises(ConfigurationError, match=r"option serializer .*'jason': use one of json,"):
        async with ServiceContainer(service, f"memory://{uuid.uuid4().hex}"):
            pass


async def test_one_call_and_one_event_with_an_unknown_serializer_name_it() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    async with ClusterRpcProxy(url) as cluster, event_dispatcher(url) as dispatch:
        with pytest.raises(ConfigurationError, match="option serializer names pickle"):
            cluster.service.method.with_options(serializer="pickle")
        with pytest.raises(ConfigurationError, match="'msgpack' of a call is not in ACCEPT"):
            cluster.service.method.with_options(serializer="msgpack")
        with pytest.raises(ConfigurationError, match="'jason'"):
            await dispatch("service", "happened", 1, serializer="jason")


# Misspelt options, and Nameko's


def entered(block: Any) -> Any:
    with block:
        pass


OWNERS: dict[str, Callable[..., Any]] = {
    "RpcProxy()": lambda **options: RpcProxy("service_x", **options),
    "ClusterRpc()": ClusterRpc,
    "EventDispatcher()": EventDispatcher,
    "Publisher()": Publisher,
    "ClusterRpcProxy()": lambda **options: ClusterRpcProxy("memory://", **options),
    "ServiceRpcProxy()": lambda **options: ServiceRpcProxy("service_x", "memory://", **options),
    "ClusterRpcProxy() ": lambda **options: sync.ClusterRpcProxy("memory://", **options),
    "ServiceRpcProxy() ": lambda **options: sync.ServiceRpcProxy("x", "memory://", **options),
    "event_dispatcher() ": lambda **options: entered(sync.event_dispatcher("memory://", **options)),
}


@pytest.mark.parametrize(
    ("owner", "option", "remedy"),
    [
        ("RpcProxy()", "timout", " (did you mean 'timeout'?)"),
        ("ClusterRpc()", "failfast", " (did you mean 'fail_fast'?)"),
        ("EventDispatcher()", "mandatry", " (did you mean 'mandatory'?)"),
        ("Publisher()", "priorty", " (did you mean 'priority'?)"),
        ("ClusterRpcProxy()", "timeuot", " (did you mean 'timeout'?)"),
        ("ServiceRpcProxy()", "contextdata", " (did you mean 'context_data'?)"),
        ("ClusterRpcProxy() ", "timeuot", " (did you mean 'timeout'?)"),
        ("ServiceRpcProxy() ", "timeuot", " (did you mean 'timeout'?)"),
        ("event_dispatcher() ", "serialiser", " (did you mean 'serializer'?)"),
        ("RpcProxy()", "use_confirms", ": write confirm=False"),
        ("RpcProxy()", "expiration", ": write timeout="),
        ("EventDispatcher()", "retry_policy", ": leave it out"),
        ("Publisher()", "delivery_mode", ": write persistent="),
        ("Publisher()", "queue", ": write declare=[queue]"),
        ("ClusterRpcProxy()", "headers", ": it is an option of a call: method.with_options()"),
        ("ClusterRpcProxy()", "reply_listener_cls", ": leave it out"),
    ],
)
def test_an_unknown_option_names_its_owner_and_the_remedy(
    owner: str, option: str, remedy: str
) -> None:
    with pytest.raises(TypeError) as info:
        OWNERS[owner](**{option: 3})
    text = str(info.value)
    assert text.startswith(f"{owner.strip()} has no option {option!r}{remedy}")
    assert "Its options: " in text


@pytest.mark.parametrize("kind", [ClusterRpcProxy, sync.ClusterRpcProxy])
def test_arguments_of_a_proxy_in_namekos_positions_are_refused_by_name(kind: Any) -> None:
    said = r"^ClusterRpcProxy\(\) takes context_data= and timeout= by name"
    with pytest.raises(TypeError, match=said):
        kind("memory://", {"language": "fr"}, 3)


async def test_an_unknown_option_of_one_call_event_or_message_names_the_nearest() -> None:
    url = f"memory://{uuid.uuid4().hex}"

    class Service:
        name = "service"
        publish = Publisher()

        @rpc
        async def method(self) -> None:
            with pytest.raises(
                TypeError, match=r"publish\(\) .*'expirations' .*mean 'expiration'\?"
            ):
                await self.publish(1, expirations=3)

    async with (
        ServiceContainer(Service, url),
        ClusterRpcProxy(url) as cluster,
        event_dispatcher(url) as dispatch,
    ):
        await cluster.service.method()
        with pytest.raises(TypeError, match=r"with_options\(\) .*'timout' .*mean 'timeout'\?"):
            cluster.service.method.with_options(timout=1)
        with pytest.raises(TypeError, match=r"dispatch\(\) .*'prority' .*mean 'priority'\?"):
            await dispatch("service", "happened", 1, prority=3)


@pytest.mark.parametrize("priority", [-1, 256, True, "1", None])
async def test_a_priority_of_a_call_that_amqp_cannot_carry_is_refused(priority: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"priority of .* a whole number from 0 to 255"):
        RpcProxy("service_x", priority=priority)


def test_a_declared_option_with_a_wrong_value_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"headers of .* a mapping .*, got 'x-trace'"):
        RpcProxy("service_x", headers="x-trace")
    with pytest.raises(ConfigurationError, match=r"mandatory of Publisher\(\) must be True"):
        Publisher(mandatory="yes")
    with pytest.raises(ConfigurationError, match=r"priority of EventDispatcher\(\)"):
        EventDispatcher(priority=300)
    with pytest.raises(ConfigurationError, match=r"expiration of Publisher\(\) .* above 0"):
        Publisher(expiration=0)


async def test_an_event_without_its_type_says_how_to_write_it() -> None:
    url = f"memory://{uuid.uuid4().hex}"

    class Service:
        name = "service"
        dispatch = EventDispatcher()

        @rpc
        async def method(self) -> None:
            with pytest.raises(TypeError, match=r'self\.dispatch\("its_type", payload\)'):
                await self.dispatch({"id": 1})

    async with (
        ServiceContainer(Service, url),
        ClusterRpcProxy(url) as cluster,
        event_dispatcher(url) as dispatch,
    ):
        await cluster.service.method()
        with pytest.raises(TypeError, match=r"a type, a str, before its payload, not a dict"):
            await dispatch("service", {"id": 1})


# What Nameko's declarations hold


def of_kombu(kind: str) -> Any:
    return type(kind, (), {"__module__": "kombu.entity"})()


@pytest.mark.parametrize(
    ("declare", "owner"),
    [
        (lambda: consume(of_kombu("Queue")), r"consume\(\)"),
        (lambda: Publisher(of_kombu("Exchange")), r"Publisher\(\)"),
        (lambda: Publisher(declare=[of_kombu("Queue")]), r"Publisher\(declare=\)"),
        (lambda: Queue("orders", of_kombu("Exchange")), r"Queue\('orders'\)"),
    ],
)
def test_exchanges_and_queues_of_kombu_are_refused_with_the_import_to_write(
    declare: Callable[[], Any], owner: str
) -> None:
    said = rf"^{owner} takes aiorpc\.\w+.*, not kombu\.entity\.\w+: import Exchange and Queue from"
    with pytest.raises(ConfigurationError, match=said):
        declare()


async def test_a_publisher_declares_exchanges_and_queues_and_has_a_routing_key(
    broker_config: dict[str, Any],
) -> None:
    suffix = uuid.uuid4().hex[:8]
    exchange = Exchange(f"orders_{suffix}", auto_delete=True)
    queue = Queue(f"orders_{suffix}", exchange, "order", auto_delete=True)

    class Sending:
        name = f"sending_{suffix}"
        publish = Publisher(exchange, declare=[exchange, queue], routing_key="order")

        @rpc
        async def send(self) -> None:
            await self.publish("by default", mandatory=True)
            await self.publish("explicit", routing_key="order", mandatory=True)

    async with (
        ServiceContainer(Sending, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        await cluster[Sending.name].send()
        async with inbox(broker_config, queue) as next_message:
            assert [(await next_message()).body for _ in range(2)] == [
                b'"by default"',
                b'"explicit"',
            ]

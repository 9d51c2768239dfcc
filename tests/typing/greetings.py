"""Typed proxies as type checkers see them. Never runs: mypy and pyright check it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, assert_type

from aiorpc import (
    BROADCAST,
    ClusterProxy,
    ClusterRpcProxy,
    EventDispatcher,
    Exchange,
    Publisher,
    Queue,
    RpcProxy,
    RpcReply,
    RpcStream,
    ServiceProxy,
    ServiceRpcProxy,
    consume,
    deserialize_to_instance,
    event_handler,
    rpc,
    timer,
)

P = ParamSpec("P")
R = TypeVar("R")


class ServiceY:
    name = "service_y"

    @rpc
    async def append_identifier(self, value: str) -> str:
        return f"{value}-y"

    @rpc(expected_exceptions=LookupError)
    async def find(self, key: int, *, default: str = "") -> list[str]:
        return [default * key]

    @rpc
    def sync_method(self, value: int) -> float:
        return value / 2


class YProtocol(Protocol):
    async def append_identifier(self, value: str) -> str: ...


class YDecorated(Protocol):
    @rpc
    async def append_identifier(self, value: str) -> str: ...


class ServiceX:
    name = "service_x"
    y = RpcProxy(ServiceY)
    untyped = RpcProxy("service_y", timeout=1)
    protocol = RpcProxy[YProtocol]("service_y")

    @rpc
    async def remote_method(self, value: str) -> str:
        assert_type(await self.y.append_identifier(value), str)
        assert_type(await self.y.find(1, default="x"), list[str])
        assert_type(await self.y.sync_method(1), float)
        assert_type(self.untyped, ServiceProxy)
        assert_type(await self.protocol.append_identifier("x"), str)
        reply = self.y.append_identifier.call_async("x")
        assert_type(reply, RpcReply[str])
        assert_type(await reply, str)
        assert_type(await reply.result(), str)
        faster = self.y.append_identifier.with_options(timeout=0.5)
        faster.with_options(idempotency_key="one", scope="a user")
        faster.with_options(idempotency_key=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert_type(await faster("x"), str)
        self.y.append_identifier.with_options(timout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        self.y.append_identifier.with_options(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await self.y.append_identifier(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await self.y.append_identifier()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await self.y.find("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.y.append_identifier.call_async(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await faster(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await self.protocol.append_identifier(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return await self.remote_method("itself")


async def standalone() -> None:
    async with ClusterRpcProxy("memory://") as cluster:
        assert_type(cluster, ClusterProxy)
        typed = cluster.typed(ServiceX)
        assert_type(await typed.remote_method("x"), str)
        await typed.remote_method(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        protocol = cluster.typed(YProtocol, "service_y")
        assert_type(await protocol.append_identifier("x"), str)
        await protocol.append_identifier(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        decorated = cluster.typed(YDecorated, "service_y")
        assert_type(decorated.append_identifier.call_async("x"), RpcReply[str])
        await cluster.service_x.anything(1, two=2)
        await cluster["service-x"]["typed"].with_options(timeout=1)()
        cluster["service-x"]["typed"].with_options(timout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def timed(method: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    raise NotImplementedError


class Untyped:
    """Methods whose results contain Any. Their arguments are checked all the same."""

    name = "untyped"

    @rpc
    async def anything(self, key: int) -> Any:
        return key

    @rpc
    async def mapping(self, key: int) -> dict[str, Any]:
        return {}

    @rpc(validate=False, idempotent=True)
    async def with_option(self, key: int) -> dict[str, Any]:
        return {}

    @rpc
    @timed
    async def decorated(self, key: int) -> list[Any]:
        return []

    @rpc
    def in_a_thread(self, key: int) -> Any:
        return key

    @rpc
    async def without_annotations(self, key, times=1):  # type: ignore[no-untyped-def]
        return key


class Overridden(Untyped):
    name = "overridden"

    @rpc
    async def mapping(self, key: int) -> dict[str, Any]:
        assert_type(await super().mapping(key), dict[str, Any])
        return await super().mapping("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def results_with_any(cluster: ClusterProxy) -> None:
    untyped = cluster.typed(Untyped)
    assert_type(await untyped.anything(1), Any)
    assert_type(await untyped.mapping(1), dict[str, Any])
    assert_type(untyped.mapping.call_async(key=1), RpcReply[dict[str, Any]])
    assert_type(await untyped.with_option.with_options(timeout=1)(1), dict[str, Any])
    assert_type(await untyped.decorated(1), list[Any])
    assert_type(await untyped.in_a_thread(1), Any)
    await untyped.without_annotations(1, times=2)
    await untyped.anything("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await untyped.mapping("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await untyped.mapping()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await untyped.with_option("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await untyped.decorated("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await untyped.in_a_thread("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await untyped.without_annotations()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    inherited = cluster.typed(Overridden)
    assert_type(await inherited.mapping(1), dict[str, Any])
    assert_type(await inherited.anything(1), Any)


class NamekosSpelling:
    name = "positional"

    @rpc(LookupError, "key")
    async def one(self, key: int) -> dict[str, Any]:
        return {}

    @rpc((LookupError, ValueError))
    async def two(self, key: int) -> list[int]:
        return [key]

    @rpc(ValueError)
    def three(self, key: int) -> int:
        return key

    @timer(5, True)
    async def tick(self) -> None: ...

    @event_handler("service_y", "happened", BROADCAST, False, True)
    async def handle(self, payload: str) -> None: ...

    @consume(Queue("queue"), True)
    async def take(self, payload: str) -> None: ...

    @timer("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def never(self) -> None: ...


async def namekos_spelling(cluster: ClusterProxy) -> None:
    positional = cluster.typed(NamekosSpelling)
    assert_type(await positional.one(1), dict[str, Any])
    assert_type(await positional.two(1), list[int])
    assert_type(await positional.three(1), int)
    await positional.two("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Publishing:
    name = "publishing"
    y = RpcProxy(ServiceY, priority=3, headers={"a": 1}, serializer="msgpack")
    dispatch = EventDispatcher(priority=3, expiration=1.5)
    publish = Publisher(Exchange("things"), declare=[Exchange("others"), Queue("q")])
    wrong_call = RpcProxy("service_y", expiration=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    wrong_event = EventDispatcher(priority="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    @rpc
    async def send(self) -> None:
        await self.dispatch("happened", 1, persistent=False)
        await self.publish(1, routing_key="q", headers={"a": 1})
        await self.publish(1, priorty=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await self.dispatch("happened", 1, delivery_mode=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@deserialize_to_instance("orders.exceptions.NotFound")
class OrderNotFound(Exception):
    def __init__(self, number: int) -> None: ...


async def from_outside() -> None:
    OrderNotFound("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with ServiceRpcProxy("service_y", "memory://", timeout=1) as y:
        assert_type(y, ServiceProxy)
    ClusterRpcProxy("memory://", timeuot=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Streaming:
    name = "streaming"

    @rpc
    async def rows(self, count: int) -> AsyncGenerator[str]:
        yield "row" * count

    @rpc(expected_exceptions=LookupError)
    async def more(self, count: int) -> AsyncIterator[int]:
        yield count


class StreamProtocol(Protocol):
    def rows(self, count: int) -> AsyncIterator[str]: ...


async def streams() -> None:
    async with ClusterRpcProxy("memory://") as cluster:
        typed = cluster.typed(Streaming)
        assert_type(typed.rows(1), RpcStream[str])
        async for row in typed.rows(1):
            assert_type(row, str)
        async for row in typed.rows.stream(count=1):
            assert_type(row, str)
        async for number in typed.more.with_options(idle_timeout=1)(1):
            assert_type(number, int)
        async with typed.more(1) as numbers:
            assert_type([number async for number in numbers], list[int])
        typed.rows("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        typed.rows()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await typed.rows(1)  # type: ignore[misc]  # pyright: ignore
        protocol = cluster.typed(StreamProtocol, "streaming")
        async for row in protocol.rows(1):
            assert_type(row, str)
        async for anything in cluster.streaming.rows.stream(1):
            assert_type(anything, Any)

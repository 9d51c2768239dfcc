"""Guards: dependencies through which methods run, and which see the encoded result."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    Call,
    ClusterRpcProxy,
    ConfigurationError,
    DependencyProvider,
    Entrypoint,
    Handler,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    WorkerContext,
    rpc,
)
from aiorpc.guards import Guard, Returned

EVENTS: list[str] = []


@pytest.fixture
def config() -> dict[str, Any]:
    EVENTS.clear()
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}


class Opened(DependencyProvider[str]):
    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[str]:
        EVENTS.append("opened")
        try:
            yield "value"
        except BaseException as error:
            EVENTS.append(f"rolled back: {type(error).__name__}")
            raise
        else:
            EVENTS.append("closed")


class Remembers(Guard[None]):
    """Answers a call whose argument is ``known`` without its method."""

    def guards(self, entrypoint: Entrypoint) -> bool:
        return entrypoint.method_name != "plain"

    def value(self, worker_ctx: WorkerContext) -> None:
        return None

    async def run(
        self, worker_ctx: WorkerContext, method: Callable[[], Awaitable[Returned]]
    ) -> Any:
        if worker_ctx.args == ("known",):
            return "remembered"
        if worker_ctx.args == ("refused",):
            raise LookupError("refused")
        answer = await method()
        EVENTS.append(f"encoded {bytes(answer.encoded.body).decode()}")
        return answer.result


class Shop:
    name = "shop"
    opened = Opened()
    guard = Remembers()

    @rpc
    async def quote(self, title: str) -> str:
        EVENTS.append(f"quote {title} with {self.opened}")
        return title.upper()

    @rpc
    def sync_quote(self, title: str) -> str:
        EVENTS.append(f"quote {title} with {self.opened}")
        return title.upper()

    @rpc
    async def nonsense(self) -> Any:
        return object()

    @rpc
    async def slow(self) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "too late"
        return "never"

    @rpc
    async def plain(self) -> str:
        return "plain"


@pytest.mark.parametrize("method", ["quote", "sync_quote"])
async def test_a_guard_sees_the_encoded_result_before_the_dependencies_close(
    config: dict[str, Any], method: str
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        assert await cluster.shop[method]("Emma") == "EMMA"
    assert EVENTS == [
        "opened",
        "quote Emma with value",
        'encoded {"result":"EMMA","error":null}',
        "closed",
    ]


async def test_a_guard_answers_without_the_method(config: dict[str, Any]) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        assert await cluster.shop.quote("known") == "remembered"
        assert EVENTS == ["opened", "closed"]
        EVENTS.clear()
        with pytest.raises(RemoteError, match="LookupError refused"):
            await cluster.shop.quote("refused")
        assert EVENTS == ["opened", "rolled back: LookupError"]
        EVENTS.clear()
        assert await cluster.shop.plain() == "plain"
    assert EVENTS == ["opened", "closed"]


async def test_a_guard_gets_the_errors_of_the_method_and_of_its_encoding(
    config: dict[str, Any],
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        with pytest.raises(RemoteError, match="UnserializableValueError"):
            await cluster.shop.nonsense()
        # The method caught its cancellation; nobody waits for its result.
        with pytest.raises(RpcTimeout):
            await cluster.shop.slow.with_options(timeout=0.05)()
        await asyncio.sleep(0)
    assert EVENTS == [
        "opened",
        "rolled back: UnserializableValueError",
        "opened",
        "rolled back: CancelledError",
    ]


async def test_the_middleware_sees_and_changes_the_answer_of_a_guard(
    config: dict[str, Any],
) -> None:
    seen: list[Any] = []

    async def exclaim(call: Call, handler: Handler) -> Any:
        answers = [await handler(call), await handler(call.replace(args=["known"]))]
        seen.extend(answers)
        return f"{answers[-1]}!"

    async with (
        ServiceContainer(Shop, config, middleware=[exclaim]),
        ClusterRpcProxy(config) as cluster,
    ):
        assert await cluster.shop.quote("Emma") == "remembered!"
    assert seen == ["EMMA", "remembered"]


async def test_two_guards_of_one_method_are_refused(config: dict[str, Any]) -> None:
    class Doubly(Shop):
        other = Remembers()

    with pytest.raises(ConfigurationError, match="runs through guard and other: declare one"):
        async with ServiceContainer(Doubly, config):
            pass

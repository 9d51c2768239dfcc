"""Proxies: their names, their options, and the replies that they return."""

from __future__ import annotations

import asyncio
import copy
import gc
import math
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
import pytest_asyncio

from aiorpc import (
    Call,
    ClusterRpcProxy,
    Config,
    ConfigurationError,
    Handler,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    ServiceUnavailable,
    rpc,
    timer,
)
from aiorpc.calling.proxies import MOST_NAMES, ClusterProxy
from tests.support.waiting import eventually


@dataclass
class Point:
    x: int


class Echo:
    name = "echo"

    @rpc
    async def say(self, value: Any = None) -> Any:
        return value

    @rpc
    async def typed(self) -> Point:
        return Point(3)

    @rpc
    async def with_options(self) -> str:
        return "a method like any other"

    @rpc
    async def fail(self) -> None:
        raise ValueError("boom")

    @rpc
    async def hang(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def config() -> dict[str, Any]:
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}


@pytest_asyncio.fixture
async def cluster(config: dict[str, Any]) -> AsyncGenerator[ClusterProxy]:
    async with ServiceContainer(Echo, config), ClusterRpcProxy(config, timeout=5) as cluster:
        yield cluster


async def test_a_service_named_like_an_attribute_does_not_hide_it(cluster: ClusterProxy) -> None:
    assert repr(cluster["typed"]) == "<ServiceProxy typed>"
    assert await cluster.typed(Echo).say(1) == 1


async def test_every_method_name_is_free(cluster: ClusterProxy) -> None:
    assert await cluster.echo["with_options"]() == "a method like any other"
    assert await cluster.echo.with_options() == "a method like any other"
    assert cluster["a-b"]["c-d"].__repr__() == "<MethodProxy a-b.c-d>"


@pytest.mark.parametrize("name", ["_private", "__wrapped__"])
async def test_leading_underscores_are_items_only(cluster: ClusterProxy, name: str) -> None:
    with pytest.raises(AttributeError, match="leading underscore"):
        getattr(cluster, name)
    with pytest.raises(AttributeError, match="leading underscore"):
        getattr(cluster.echo, name)
    assert repr(cluster[name][name]) == f"<MethodProxy {name}.{name}>"
    assert not hasattr(cluster, name)
    assert not hasattr(cluster[name], name)


async def test_a_proxy_keeps_a_bounded_number_of_names(cluster: ClusterProxy) -> None:
    for number in range(MOST_NAMES + 100):
        cluster[f"service{number}"]
        cluster.echo[f"method{number}"]
    assert len(vars(cluster)) == MOST_NAMES
    assert len(vars(cluster.echo)) == MOST_NAMES
    assert await cluster.echo.say("still") == "still"


async def test_proxies_can_be_copied_and_printed(cluster: ClusterProxy) -> None:
    assert await copy.copy(cluster).echo.say(1) == 1
    assert await copy.copy(cluster.echo).say(1) == 1
    assert (repr(cluster), repr(cluster.echo)) == ("<ClusterProxy>", "<ServiceProxy echo>")


async def test_options_of_two_with_options_calls_add_up(
    cluster: ClusterProxy, config: dict[str, Any]
) -> None:
    hang = cluster.echo.hang.with_options(fail_fast=True).with_options(timeout=0.05)
    with pytest.raises(RpcTimeout, match=r"within 0\.05 s"):
        await hang()
    async with ServiceContainer(type("Stopped", (Echo,), {"name": "stopped"}), config):
        pass
    stopped = cluster.stopped.say.with_options(fail_fast=True).with_options(timeout=0.05)
    with pytest.raises(ServiceUnavailable):
        await stopped()


@pytest.mark.parametrize("timeout", [None, math.inf, 1e18, 4e6, 10])
async def test_a_long_timeout_works_like_none(
    broker_config: dict[str, Any], timeout: float | None
) -> None:
    service = type("Echo", (Echo,), {"name": f"echo_{uuid.uuid4().hex}"})
    async with (
        ServiceContainer(service, broker_config),
        ClusterRpcProxy(broker_config, timeout=timeout) as cluster,
    ):
        assert await cluster[service.name].say(1) == 1


@pytest.mark.parametrize("timeout", [math.nan, "3", True, [1]])
async def test_a_timeout_that_is_not_a_number_of_seconds_is_refused(
    cluster: ClusterProxy, config: dict[str, Any], timeout: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"timeout of .* a number of seconds, or None"):
        cluster.echo.say.with_options(timeout=timeout)
    with pytest.raises(ConfigurationError, match=r"timeout of .* a number of seconds, or None"):
        ClusterRpcProxy(config, timeout=timeout)


async def test_a_call_whose_timeout_has_passed_is_not_sent(cluster: ClusterProxy) -> None:
    with pytest.raises(RpcTimeout, match=r"echo\.say was not sent"):
        await cluster.echo.say.with_options(timeout=-1)()


class Says(Protocol):
    async def typed(self) -> Point: ...


class Clerk(Echo):
    label = "not callable"
    config = Config()

    def helper(self) -> None: ...

    @timer(interval=1000)
    async def tick(self) -> None: ...


async def test_a_shell_completes_on_a_typed_proxy_only_what_a_caller_can_call(
    cluster: ClusterProxy,
) -> None:
    assert dir(cluster.typed(Clerk)) == ["fail", "hang", "say", "typed", "with_options"]
    assert dir(cluster.typed(Says, "echo")) == ["typed"]
    cluster.echo.say  # noqa: B018 - an untyped proxy knows the names that were used
    assert "say" in dir(cluster.echo)


async def test_typed_results_arrive_as_the_annotated_type(
    cluster: ClusterProxy,
) -> None:
    assert await cluster.typed(Echo).typed() == Point(3)
    assert await cluster.typed(Says, "echo").typed() == Point(3)
    assert await cluster.typed(Echo).typed.call_async() == Point(3)
    assert await cluster.echo.typed() == {"x": 3}


# Replies


async def through(call: Call, handler: Handler) -> Any:
    return await handler(call)


@pytest.fixture(params=["plain", "with middleware"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"middleware": [through]} if request.param == "with middleware" else {}


async def test_a_reply_can_be_awaited_again(
    config: dict[str, Any], options: dict[str, Any]
) -> None:
    async with ServiceContainer(Echo, config), ClusterRpcProxy(config, **options) as cluster:
        good, bad = cluster.echo.say.call_async(1), cluster.echo.fail.call_async()
        assert [await good, await good.result(), await good] == [1, 1, 1]
        for _ in range(2):
            with pytest.raises(RemoteError, match="boom"):
                await bad
        assert good.done()
        good.cancel()
        assert await good == 1


async def test_a_cancelled_reply_is_cancelled_for_every_task_that_awaits_it(
    config: dict[str, Any], options: dict[str, Any]
) -> None:
    async with ServiceContainer(Echo, config), ClusterRpcProxy(config, **options) as cluster:
        reply = cluster.echo.hang.call_async()
        waiting = [asyncio.ensure_future(reply.result()) for _ in range(2)]
        await asyncio.sleep(0)
        reply.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2
        assert reply.done()


async def test_an_error_that_nobody_awaits_is_not_logged(
    config: dict[str, Any], options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceContainer(Echo, config), ClusterRpcProxy(config, **options) as cluster:
        reply = cluster.echo.fail.call_async()
        await eventually(reply.done)
        del reply
        gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]

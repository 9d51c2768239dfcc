"""``json_lines``: what a line has, and what it never shows."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    EventDispatcher,
    MethodNotFound,
    RemoteError,
    RpcProxy,
    RpcTimeout,
    ServiceContainer,
    ServiceRunner,
    event_handler,
    rpc,
)
from aiorpc.middleware.logging import json_lines
from aiorpc.testing import entrypoint_hook
from tests.support.waiting import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def config() -> dict[str, Any]:
    return {
        "AMQP_URI": f"memory://{uuid.uuid4().hex}",
        "MIDDLEWARE": ["aiorpc.middleware.logging:json_lines"],
    }


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "aiorpc.calls")

    def read() -> list[dict[str, Any]]:
        own = [each for each in caplog.records if each.name == "aiorpc.calls"]
        return [json.loads(each.getMessage()) for each in own]

    return read


class Shop:
    name = "shop"
    dispatch = EventDispatcher()

    @rpc
    async def sell(self, title: str, *, pieces: int = 1) -> None:
        await self.dispatch("sold", {"title": title})

    @rpc(sensitive_arguments=("password", "card.number"))
    async def pay(self, user: str, password: str, card: dict[str, Any]) -> None:
        raise ValueError(f"{user} with {password} and {card['number']}:\nno")

    @rpc
    async def hang(self) -> None:
        await asyncio.Event().wait()


class Front:
    name = "front"
    shop = RpcProxy(Shop)

    @rpc
    async def buy(self, title: str) -> None:
        await self.shop.sell(title, pieces=2)

    @event_handler("shop", "sold")
    async def hear(self, payload: Any) -> None: ...


async def test_a_line_tells_the_call_its_trace_and_its_outcome(
    config: dict[str, Any], lines: Any
) -> None:
    context = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    async with (
        ServiceRunner(Shop, Front, config=config),
        ClusterRpcProxy(config, context_data=context) as cluster,
    ):
        await cluster.front.buy("Emma")
        await eventually(lambda: len(lines()) == 3)
    by_method = {line["method"]: line for line in lines()}
    sell, buy, hear = by_method["sell"], by_method["buy"], by_method["hear"]
    assert {line["trace_id"] for line in by_method.values()} == {TRACE}
    assert (sell["side"], sell["kind"], sell["service"]) == ("server", "rpc", "shop")
    assert (hear["side"], hear["kind"], hear["service"]) == ("consumer", "event", "front")
    assert sell["call_id"] == sell["call_id_stack"][-1]
    assert sell["call_id_stack"][-2] == buy["call_id"]
    assert hear["call_id_stack"][-2] == sell["call_id"]
    assert (sell["args"], sell["kwargs"]) == (["Emma"], {"pieces": 2})
    assert sell["outcome"] == "ok"
    assert 0 < sell["seconds"] < buy["seconds"] < 10


async def test_sensitive_arguments_are_masked_also_in_the_text_of_the_error(
    config: dict[str, Any], lines: Any
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        with pytest.raises(RemoteError):
            await cluster.shop.pay("ada", "pw-123456", {"number": "4111-1111", "month": 5})
    (line,) = lines()
    assert line["args"] == ["ada", "***", {"number": "***", "month": "5"}]
    assert (line["outcome"], line["error"]) == ("error", "ValueError")
    assert line["text"] == r"ada with *** and ***:\nno"


async def test_a_secret_where_the_text_of_an_error_is_cut_is_masked(
    config: dict[str, Any], lines: Any
) -> None:
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        with pytest.raises(RemoteError):
            await cluster.shop.pay("a" * 485, "pw-123456" * 10, {"number": "4111-1111"})
    (line,) = lines()
    assert "pw-1" not in line["text"]
    assert line["text"].endswith("... (506 characters)")


async def test_a_timeout_and_a_cancelled_call_have_an_outcome_of_their_own(
    config: dict[str, Any], lines: Any
) -> None:
    async with (
        ServiceContainer(Shop, config) as container,
        ClusterRpcProxy(config, timeout=None) as cluster,
    ):
        with pytest.raises(RpcTimeout):
            await cluster.shop.hang.with_options(timeout=0.05)()
        reply = cluster.shop.hang.call_async()
        await eventually(lambda: container.running == 1 and len(lines()) == 1)
        reply.cancel()
        await eventually(lambda: len(lines()) == 2)
    assert [line["outcome"] for line in lines()] == ["timeout", "cancelled"]


async def test_lines_of_callers_and_of_unknown_methods_have_no_arguments(
    config: dict[str, Any], lines: Any
) -> None:
    every = {"sides": ["client", "server", "producer", "consumer", "internal"]}
    config["MIDDLEWARE"] = [{"aiorpc.middleware.logging:json_lines": every}]
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        await cluster.shop.sell("Emma")
        with pytest.raises(MethodNotFound):
            await cluster.shop.sel("secret")
    found = {(line["side"], line["method"]): line for line in lines()}
    assert "args" in found.pop(("server", "sell"))
    assert set(found) == {("client", "sell"), ("client", "sel"), ("server", "sel")} | {
        ("producer", "sold")
    }
    assert all("args" not in line and "kwargs" not in line for line in found.values())


async def test_long_and_unusual_arguments_are_cut_texts(config: dict[str, Any], lines: Any) -> None:
    class Anything:
        name = "any"

        @rpc
        async def method(self, *args: Any) -> None: ...

    async with ServiceContainer(Anything, config) as container:
        method = await entrypoint_hook(container, "method")
        await method("x" * 600, {"long": ["y" * 600]}, object, iter([1]), None, float("nan"))
    long, nested, cls, iterator, nothing, nan = lines()[0]["args"]
    assert long == "x" * 500 + "... (600 characters)"
    assert nested == {"long": ["y" * 500 + "... (600 characters)"]}
    assert (cls, nothing, nan) == ("<class 'object'>", None, None)
    assert iterator.startswith("<list_iterator object")


async def test_without_arguments_and_below_the_level_nothing_of_them_is_written(
    config: dict[str, Any], lines: Any
) -> None:
    config["MIDDLEWARE"] = [{"aiorpc.middleware.logging:json_lines": {"arguments": False}}]
    async with ServiceContainer(Shop, config), ClusterRpcProxy(config) as cluster:
        await cluster.shop.sell("Emma")
        logging.getLogger("aiorpc.calls").setLevel(logging.WARNING)
        await cluster.shop.sell("Emma")
    (line,) = lines()
    assert "args" not in line


def test_an_option_with_a_wrong_value_is_an_error() -> None:
    for sides in (["caller"], "server", 5, None, [["server"]]):
        with pytest.raises(ConfigurationError, match=r"sides of json_lines\(\) must be a list of"):
            json_lines(sides=sides)
    with pytest.raises(ConfigurationError, match="arguments of json_lines"):
        json_lines(arguments=None)

"""Methods as tools of the Model Context Protocol, called by the protocol's own client."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import jsonschema
import pytest
from mcp import Client, MCPError, StdioServerParameters

from aiorpc import ClusterRpcProxy, ConfigurationError, ServiceContainer, rpc
from aiorpc.config import resolve
from aiorpc.contracts.describing import contract_of
from aiorpc.contracts.inputs import input_schema
from aiorpc.contracts.model import Contract, OfferedMethod, Service
from aiorpc.mcp import LARGEST, MOST_ITEMS, offered, server_of
from tests.support.contract_services import SERVICES


class SoldOut(Exception):
    """No copy is left."""


@dataclass
class Book:
    title: str
    due: date | None = None
    next: Book | None = None


class Shop:
    """Sells books."""

    name = "mcp_shop"

    @rpc(expected_exceptions=SoldOut)
    async def sell(self, book: Book, copies: int = 1) -> Book:
        """Sell a book."""
        if copies > 9:
            raise SoldOut(f"only 9 of {book.title}")
        return Book(book.title, date(2026, 12, copies))

    @rpc
    async def mixed(self, a: int, /, b: int, *rest: int, **more: int) -> list[Any]:
        return [a, b, list(rest), more]

    @rpc
    async def count(self, number: int) -> AsyncIterator[int]:
        for each in range(number):
            yield each

    @rpc
    async def fails(self) -> None:
        raise ValueError("the password of the database is secret")

    @rpc
    async def stay(self) -> None:
        await asyncio.Event().wait()

    @rpc
    async def large(self) -> str:
        return "x" * LARGEST

    @rpc(sensitive_arguments=("password", "pin"))
    async def log_in(self, password: str, *, pin: str = "hunter2") -> str:
        return "in"


CONTRACT = contract_of([Shop])


@asynccontextmanager
async def client_of(*methods: str, timeout: float = 5, **options: Any) -> AsyncGenerator[Client]:
    settings = resolve(f"memory://{uuid.uuid4().hex}")
    proxy = ClusterRpcProxy(settings, timeout=timeout)
    async with ServiceContainer(Shop, settings), proxy as cluster:
        chosen = offered(CONTRACT, Shop.name, methods, **options)
        async with Client(server_of(CONTRACT, Shop.name, chosen, cluster)) as client:
            yield client


async def called(client: Client, tool: str, arguments: Mapping[str, Any]) -> tuple[bool, Any]:
    """Whether the tool failed, and its result or the text of its error."""
    result = await client.call_tool(tool, dict(arguments))
    (content,) = result.content
    text = getattr(content, "text", "")
    return result.is_error, text if result.is_error else result.structured_content["result"]


async def test_a_named_method_is_a_tool_and_no_other() -> None:
    async with client_of("sell") as client:
        (tool,) = (await client.list_tools()).tools
        assert tool.name == "sell"
        assert tool.description == "Sell a book.\n\nErrors:\nSoldOut: No copy is left."
        assert set(tool.input_schema["properties"]) == {"book", "copies"}
        assert tool.input_schema["required"] == ["book"]
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.validate({"book": {"title": "Emma", "next": None}}, tool.input_schema)
        assert await called(client, "sell", {"book": {"title": "Emma"}, "copies": 2}) == (
            False,
            {"title": "Emma", "due": "2026-12-02", "next": None},
        )
        with pytest.raises(MCPError, match="there is no tool 'count'"):
            await client.call_tool("count", {"number": 1})


async def test_errors_say_what_the_agent_can_do_and_no_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of("sell", "fails", "large") as client:
        failed, text = await called(client, "sell", {"book": {"title": "Emma"}, "copies": 10})
        assert (failed, text) == (True, "SoldOut: only 9 of Emma")
        failed, text = await called(client, "sell", {"book": {"titel": "Emma"}})
        assert failed
        assert "BadArguments" in text
        assert "title" in text
        failed, text = await called(client, "sell", {})
        assert failed
        assert "IncorrectSignature" in text
        with caplog.at_level(logging.CRITICAL):
            failed, text = await called(client, "fails", {})
        assert (failed, text) == (
            True,
            "mcp_shop.fails failed with an unexpected error (ValueError)",
        )
        failed, text = await called(client, "large", {})
        assert failed
        assert "ask for less" in text


async def test_arguments_of_every_kind_arrive() -> None:
    async with client_of("mixed") as client:
        for given, result in [
            ({"a": 1, "b": 2}, [1, 2, [], {}]),
            ({"a": 1, "b": 2, "rest": [3, 4], "c": 5}, [1, 2, [3, 4], {"c": 5}]),
        ]:
            assert await called(client, "mixed", given) == (False, result)


async def test_a_stream_is_a_list_with_a_limit() -> None:
    async with client_of("count") as client:
        assert await called(client, "count", {"number": 3}) == (False, [0, 1, 2])
        _, items = await called(client, "count", {"number": MOST_ITEMS * 2})
        assert items == list(range(MOST_ITEMS))


async def test_a_service_that_is_gone_is_an_error_of_the_tool() -> None:
    settings = resolve(f"memory://{uuid.uuid4().hex}")
    async with ClusterRpcProxy(settings, timeout=0.2) as cluster:
        chosen = offered(CONTRACT, Shop.name, ["sell"])
        async with Client(server_of(CONTRACT, Shop.name, chosen, cluster)) as client:
            failed, text = await called(client, "sell", {"book": {"title": "Emma"}})
    assert failed
    assert text == "mcp_shop.sell is not available (UnknownService): try again later"


async def test_an_agent_is_not_asked_to_repeat_a_call_that_may_have_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of("stay", timeout=0.1) as client:
        failed, text = await called(client, "stay", {})
    assert failed
    assert text == (
        "mcp_shop.stay gave no answer (RpcTimeout), and may have run: find out before you call it "
        "again"
    )
    assert "mcp_shop.stay failed: " in caplog.text
    assert "within 0.1 s" in caplog.text


@pytest.mark.parametrize("name", ["größe", "x" * 129])
def test_a_name_that_agents_do_not_take_is_refused(name: str) -> None:
    service = Service("shop", methods=(OfferedMethod(name),))
    with pytest.raises(ConfigurationError, match=f"shop.{name} cannot be a tool"):
        offered(Contract({"shop": service}), "shop", [name])


async def test_sensitive_arguments_are_not_offered_unless_somebody_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"sensitive arguments \(password, pin\)"):
        offered(CONTRACT, Shop.name, ["log_in"])
    async with client_of("log_in", allow_sensitive=True) as client:
        (tool,) = (await client.list_tools()).tools
        assert "hunter2" not in json.dumps(tool.input_schema)
        assert tool.input_schema["required"] == ["password"]
        assert await called(client, "log_in", {"password": "x"}) == (False, "in")


def test_an_unknown_method_is_an_error_with_the_likely_name() -> None:
    with pytest.raises(ConfigurationError, match=r"no method 'sel'.*sell"):
        offered(CONTRACT, Shop.name, ["sel"])


def test_the_schema_of_each_method_is_a_json_schema() -> None:
    contract = contract_of(SERVICES)
    for service in contract.services.values():
        for method in service.methods:
            schema = input_schema(method, contract.schemas)
            jsonschema.Draft202012Validator.check_schema(schema)
            assert "components" not in str(schema)


@pytest.mark.slow
@pytest.mark.rabbitmq
async def test_an_agent_starts_the_command_and_calls_a_method(rabbitmq_uri: str) -> None:
    words = ["-m", "aiorpc", "mcp", "--service", Shop.name, "sell", "--broker", rabbitmq_uri]
    async with (
        ServiceContainer(Shop, rabbitmq_uri),
        Client(StdioServerParameters(command=sys.executable, args=words)) as client,
    ):
        (tool,) = (await client.list_tools()).tools
        assert tool.name == "sell"
        failed, book = await called(client, "sell", {"book": {"title": "Emma"}, "copies": 3})
    assert (failed, book["due"]) == (False, "2026-12-03")

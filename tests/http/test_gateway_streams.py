"""
Methods that are async generators, offered by a gateway: lines of JSON, or server-sent events. On
``memory://`` and on RabbitMQ.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, ClassVar, Protocol

import httpx
import openapi_spec_validator
import pytest

from aiorpc import ContextData, ServiceContainer, rpc
from aiorpc.http import Gateway
from tests.support.http import served_by_uvicorn

TOKEN = uuid.uuid4().hex[:8]
FEED, PRICES = f"/feed_{TOKEN}", f"/prices_{TOKEN}"


class Feed:
    name = FEED[1:]
    user = ContextData("user")
    closed: ClassVar[asyncio.Event]

    @rpc(expected_exceptions=LookupError)
    async def rows(self, count: int, fail_at: int = -1) -> AsyncIterator[dict[str, Any]]:
        for number in range(count):
            if number == fail_at:
                raise LookupError(f"no row {number}")
            yield {"number": number, "user": self.user}

    @rpc
    async def endless(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    @rpc
    async def silent(self) -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1


class Prices(Protocol):
    def all(self, shop: str) -> AsyncIterator[Decimal]: ...


class PricesService:
    name = PRICES[1:]

    @rpc
    async def all(self, shop: str) -> AsyncIterator[Any]:
        yield Decimal("1.50")
        yield "2"
        yield "\n"


@pytest.fixture
async def client(broker_config: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway to both services."""
    Feed.closed = asyncio.Event()
    gateway = Gateway(
        broker_config,
        services=[Feed, (Prices, PricesService.name)],
        authenticate=lambda request: {"user": "ada"},
        errors={LookupError: 404},
    )
    async with (
        ServiceContainer(Feed, broker_config),
        ServiceContainer(PricesService, broker_config),
        served_by_uvicorn(gateway) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/rpc", timeout=10) as client,
    ):
        yield client


EVENTS = {"accept": "text/event-stream"}


def events_in(text: str) -> list[tuple[str, Any]]:
    found = []
    for event in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in event.splitlines())
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


async def test_items_are_lines_of_json(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{FEED}/rows", json={"count": 1000})
    assert response.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in response.text.splitlines()]
    assert rows == [{"number": number, "user": "ada"} for number in range(1000)]
    response = await client.post(f"{FEED}/rows", json={"count": 0})
    assert (response.status_code, response.content) == (200, b"")


async def test_items_are_events_if_the_client_accepts_them(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{FEED}/rows", json={"count": 3}, headers=EVENTS)
    assert response.headers["content-type"] == "text/event-stream"
    row = {"user": "ada"}
    assert events_in(response.text) == [("message", {"number": n, **row}) for n in range(3)]


@pytest.mark.parametrize("headers", [{}, EVENTS])
async def test_an_error_before_the_first_item_is_an_answer(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    body = {"count": 3, "fail_at": 0}
    response = await client.post(f"{FEED}/rows", json=body, headers=headers)
    assert (response.status_code, response.json()["detail"]) == (404, "no row 0")
    response = await client.post(f"{FEED}/rows", json={"count": "3"}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_argument")
    deadline = {"connect-timeout-ms": "50", **headers}
    response = await client.post(f"{FEED}/silent", json={}, headers=deadline)
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")


async def test_an_error_between_lines_cuts_the_connection(client: httpx.AsyncClient) -> None:
    body = {"count": 3, "fail_at": 2}
    async with client.stream("POST", f"{FEED}/rows", json=body) as response:
        parts = response.aiter_text()
        received = ""
        while received.count("\n") < 2:
            received += await anext(parts)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(parts)
    assert (await client.post(f"{FEED}/rows", json={"count": 1})).status_code == 200


async def test_an_error_between_events_is_an_event(client: httpx.AsyncClient) -> None:
    body = {"count": 3, "fail_at": 2}
    response = await client.post(f"{FEED}/rows", json=body, headers=EVENTS)
    *rows, (kind, problem) = events_in(response.text)
    assert [row["number"] for _, row in rows] == [0, 1]
    assert (kind, problem["status"], problem["detail"]) == ("problem", 404, "no row 2")


@pytest.mark.parametrize("headers", [{}, EVENTS])
async def test_a_client_that_hangs_up_ends_the_stream_at_the_service(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    async with asyncio.timeout(10):
        async with client.stream("POST", f"{FEED}/endless", json={}, headers=headers) as response:
            async for part in response.aiter_text():
                assert "1" in part
                break
        await Feed.closed.wait()


async def test_the_deadline_ends_a_stream(client: httpx.AsyncClient) -> None:
    headers = {"connect-timeout-ms": "100", **EVENTS}
    response = await client.post(f"{FEED}/endless", json={}, headers=headers)
    await Feed.closed.wait()
    (_, first), (kind, problem) = events_in(response.text)
    assert (first, kind, problem["code"]) == (1, "problem", "deadline_exceeded")


async def test_items_have_the_form_of_their_annotation(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{PRICES}/all", json={"shop": "a"}, headers=EVENTS)
    *items, (kind, problem) = events_in(response.text)
    assert items == [("message", "1.50"), ("message", "2")]
    assert (kind, problem["status"]) == ("problem", 500)


async def test_the_document_says_which_methods_are_streams(client: httpx.AsyncClient) -> None:
    document = (await client.get("/../openapi.json")).json()
    page = (await client.get("/../docs")).text
    openapi_spec_validator.validate(document)
    operation = document["paths"][f"/rpc{PRICES}/all"]["post"]
    assert operation["x-aiorpc-stream"] is True
    item = {"schema": {"type": "string", "format": "decimal"}}
    content = {"application/x-ndjson": item, "text/event-stream": item}
    assert operation["responses"]["200"]["content"] == content
    assert "Items: string" in page

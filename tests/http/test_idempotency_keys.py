"""The header ``Idempotency-Key`` of requests to a gateway, on memory://."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx
import pytest
from starlette.requests import Request

from aiorpc import ConfigurationError, InMemoryIdempotency, ServiceContainer, rpc
from aiorpc.http import Gateway

BROKER = "memory://idempotency-keys"


class Orders:
    name = "orders"
    idempotency = InMemoryIdempotency()
    runs: list[str]
    gate: asyncio.Event

    @rpc(idempotent=True)
    async def place(self, title: str) -> int:
        self.runs.append(title)
        if title == "slow":
            await self.gate.wait()
        return len(self.runs)

    @rpc
    async def look(self) -> int:
        return len(self.runs)


class OrdersProtocol(Protocol):
    async def place(self, title: str) -> int: ...
    async def look(self) -> int: ...


def by_name(request: Request) -> dict[str, Any]:
    return {"user": request.headers.get("x-user", ""), "tenant": 1}


def by_request(request: Request) -> dict[str, Any]:
    return {**by_name(request), "request": request.headers["x-request"]}


def gateway_of(services: list[Any] | None = None, **options: Any) -> Gateway:
    given = {"services": services or [Orders], "authenticate": by_name, **options}
    return Gateway(BROKER, **given)


@asynccontextmanager
async def visiting(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    Orders.runs, Orders.gate = [], asyncio.Event()
    async with (
        ServiceContainer(Orders, BROKER),
        gateway.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://test") as client,
    ):
        yield client


async def place(client: httpx.AsyncClient, title: str, key: str, **more: str) -> httpx.Response:
    headers = {"idempotency-key": key, **{f"x-{name}": value for name, value in more.items()}}
    return await client.post("/rpc/orders/place", json={"title": title}, headers=headers)


async def test_requests_with_one_key_run_once() -> None:
    async with visiting(gateway_of()) as client:
        answers = [await place(client, "Emma", key) for key in ("1", "1", '"1"', "2")]
        assert [each.json() for each in answers] == [1, 1, 1, 2]


async def test_another_body_under_a_key_answers_422() -> None:
    async with visiting(gateway_of()) as client:
        await place(client, "Emma", "1")
        answer = await place(client, "Persuasion", "1")
        assert answer.status_code == 422
        assert "was used with other arguments" in answer.json()["detail"]
        assert Orders.runs == ["Emma"]


async def test_a_request_while_the_first_runs_answers_409() -> None:
    async with visiting(gateway_of()) as client:
        first = asyncio.create_task(place(client, "slow", "1"))
        while not Orders.runs:
            await asyncio.sleep(0)
        headers = {"idempotency-key": "1", "connect-timeout-ms": "200"}
        answer = await client.post("/rpc/orders/place", json={"title": "slow"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")
        assert answer.headers["retry-after"] == "1"
        Orders.gate.set()
        assert (await first).json() == (await place(client, "slow", "1")).json() == 1


async def test_another_client_with_the_same_key_gets_an_answer_of_its_own() -> None:
    async with visiting(gateway_of()) as client:
        answers = [await place(client, "Emma", "1", user=user) for user in ("ada", "bob", "ada")]
        assert [each.json() for each in answers] == [1, 2, 1]


async def test_the_user_says_who_a_client_is() -> None:
    def principal(data: Mapping[str, Any]) -> str:
        return f"{data['tenant']}/{data['user']}"

    async def numbers(**options: Any) -> list[int]:
        async with visiting(gateway_of(authenticate=by_request, **options)) as client:
            answers = [
                await place(client, "Emma", "1", user="ada", request=request) for request in "xy"
            ]
            return [each.json() for each in answers]

    assert await numbers() == [1, 2]
    assert await numbers(principal=principal) == [1, 1]
    with pytest.raises(ConfigurationError, match="principal of Gateway"):
        gateway_of(principal="user")


async def test_a_principal_that_is_no_text_is_an_error_of_the_gateway() -> None:
    async with visiting(gateway_of(principal=lambda data: 7)) as client:
        assert (await place(client, "Emma", "1")).status_code == 500
        assert Orders.runs == []


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "with\ttab"])
async def test_a_wrong_key_answers_400(key: str) -> None:
    async with visiting(gateway_of()) as client:
        answer = await place(client, "Emma", key)
        assert (answer.status_code, Orders.runs) == (400, [])
        assert "1 to 255 printable characters" in answer.json()["detail"]


async def test_a_key_for_a_method_that_is_not_idempotent_answers_400() -> None:
    for services in ([Orders], [(OrdersProtocol, "orders")], [("orders", ["look"])]):
        async with visiting(gateway_of(services)) as client:
            answer = await client.post(
                "/rpc/orders/look", json={}, headers={"idempotency-key": "1"}
            )
            assert answer.status_code == 400
            assert "is not idempotent" in answer.json()["detail"]


async def test_a_key_for_a_stream_answers_400() -> None:
    class Pages:
        name = "pages"

        @rpc
        async def read(self) -> AsyncIterator[int]:
            yield 1

    async with visiting(gateway_of([Pages])) as client:
        answer = await client.post("/rpc/pages/read", json={}, headers={"idempotency-key": "1"})
        assert answer.status_code == 400
        assert "pages.read is a stream, so a request with" in answer.json()["detail"]


async def test_openapi_names_the_header_where_a_method_may_heed_it() -> None:
    gateway = gateway_of([Orders, ("old", ["f"])])
    transport = httpx.ASGITransport(gateway)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        document = (await client.get("/openapi.json")).json()
    header = {"$ref": "#/components/parameters/Idempotency-Key"}
    for path, heeds in (("orders/place", True), ("orders/look", False), ("old/f", True)):
        described = document["paths"][f"/rpc/{path}"]["post"]
        assert (header in described["parameters"]) is heeds
        assert ({"409", "422"} <= set(described["responses"])) is heeds
    assert document["components"]["parameters"]["Idempotency-Key"]["in"] == "header"

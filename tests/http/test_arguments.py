"""Arguments from the path, the query and the JSON body, checked by their annotations."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pydantic
import pytest
from starlette.requests import Request

from aiorpc import ConfigurationError
from aiorpc.http import http
from tests.support.http import serving


class Order(msgspec.Struct):
    title: str
    amount: int = 1


@dataclass
class Address:
    street: str


class Customer(pydantic.BaseModel):
    name: str
    age: int


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Shop:
    name = "shop"

    @http("GET", "/books/{number}")
    async def book(self, number: int, pages: Annotated[int, msgspec.Meta(ge=1)] = 1) -> Any:
        return [number, pages]

    @http("GET", "/find")
    async def find(
        self,
        since: date,
        size: Size = Size.SMALL,
        sort: Literal["title", "price"] = "title",
        ids: list[UUID] | None = None,
        sold: bool = False,
        word: str | None = None,
    ) -> Any:
        return [since, size, sort, ids, sold, word]

    @http("POST", "/orders")
    async def order(self, order: Order, dry_run: bool = False) -> Any:
        return [order, dry_run]

    @http("POST", "/ship")
    async def ship(self, order: Order, address: Address) -> Any:
        return [order, address]

    @http("POST", "/many")
    async def many(self, orders: list[Order]) -> Any:
        return orders

    @http("POST", "/sell")
    async def sell(self, title: str, amount: int = 1, tags: list[str] | None = None) -> Any:
        return [title, amount, tags]

    @http("PUT", "/customers/<int:number>")
    async def customer(self, number: int, customer: Customer) -> Any:
        return [number, customer]

    @http("POST", "/more")
    async def more(self, title: str, **others: Any) -> Any:
        return [title, others]

    @http("GET", "/with")
    async def with_request(self, request: Request, page: int = 1) -> Any:
        return [request.headers["x-a"], page]

    @http("POST", "/unchecked")
    async def unchecked(self, anything: Any = None) -> Any:
        return anything


async def ask(method: str, path: str, **options: Any) -> Any:
    async with serving(Shop) as (_, client):
        response = await client.request(method, path, **options)
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
        return response.status_code, response.json()["detail"]
    return response.json()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/books/7", [7, 1]),
        ("/books/7?pages=3&utm_source=x", [7, 3]),
        ("/books/x", (400, "shop.book: argument 'number' must be int, got str")),
        ("/books/7?pages=0", (400, "shop.book: argument 'pages' must be int >= 1, got str")),
        ("/find?since=2026-01-02", ["2026-01-02", "s", "title", None, False, None]),
        (
            "/find?since=2026-01-02&size=l&sort=price&sold=true&word=a%26b"
            "&ids=6ba7b810-9dad-11d1-80b4-00c04fd430c8&ids=6ba7b811-9dad-11d1-80b4-00c04fd430c8",
            [
                "2026-01-02",
                "l",
                "price",
                [
                    "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
                    "6ba7b811-9dad-11d1-80b4-00c04fd430c8",
                ],
                True,
                "a&b",
            ],
        ),
        ("/find", (400, "shop.find: the query lacks the argument 'since'")),
        (
            "/find?since=2026-01-02&size=x",
            (400, "shop.find: argument 'size' must be one of 's', 'l', got another str"),
        ),
    ],
)
async def test_values_of_the_path_and_the_query_are_converted(path: str, found: Any) -> None:
    assert await ask("GET", path) == found


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        ("/orders?dry_run=1", {"title": "Emma"}, [{"title": "Emma", "amount": 1}, True]),
        (
            "/orders",
            {"title": 5},
            (400, "shop.order: argument 'order' must be Order: title must be str, got int"),
        ),
        (
            "/ship",
            {"order": {"title": "Emma"}, "address": {"street": "Main"}},
            [{"title": "Emma", "amount": 1}, {"street": "Main"}],
        ),
        (
            "/ship",
            {"order": {"title": "Emma"}},
            (400, "shop.ship: the JSON body lacks the member 'address'"),
        ),
        ("/many", [{"title": "a"}, {"title": "b"}], None),
        ("/sell", {"title": "Emma", "amount": 2}, ["Emma", 2, None]),
        ("/sell?amount=3&tags=a&tags=b", {"title": "Emma"}, ["Emma", 3, ["a", "b"]]),
        (
            "/sell",
            {"title": "Emma", "amount": "2"},
            (400, "shop.sell: argument 'amount' must be int, got str"),
        ),
        (
            "/sell",
            {"titel": "Emma", "title": "Emma"},
            (400, "shop.sell: the body has unknown members: 'titel'"),
        ),
        (
            "/sell?title=Emma",
            {"title": "Emma"},
            (
                400,
                "shop.sell: the argument 'title' is in the query and in the JSON body: send it "
                "once",
            ),
        ),
        (
            "/sell",
            [1],
            (400, "shop.sell: the body must be a JSON object with the arguments, got list"),
        ),
        ("/more", {"title": "Emma", "x": 1}, ["Emma", {"x": 1}]),
        (
            "/more",
            {"title": "Emma", "self": 1},
            (400, "shop.more: the body has unknown members: 'self'"),
        ),
        ("/unchecked", {"anything": [{}]}, [{}]),
    ],
)
async def test_the_json_body_is_one_argument_or_has_them_as_members(
    path: str, body: Any, found: Any
) -> None:
    if found is None:
        found = [{"title": "a", "amount": 1}, {"title": "b", "amount": 1}]
    assert await ask("POST", path, json=body) == found


async def test_a_pydantic_model_and_a_value_of_the_path() -> None:
    body = {"name": "Ada", "age": 36}
    assert await ask("PUT", "/customers/7", json=body) == [7, body]
    status, detail = await ask("PUT", "/customers/7", json={"name": "Ada", "age": "swordfish"})
    assert status == 400
    assert "age" in detail
    assert "swordfish" not in detail


async def test_the_request_may_come_with_further_arguments() -> None:
    assert await ask("GET", "/with?page=3", headers={"x-a": "b"}) == ["b", 3]


@pytest.mark.parametrize(
    ("body", "kind", "status", "detail"),
    [
        (b"", "application/json", 400, "the JSON body is missing, which is the argument 'order'"),
        (b"{", "application/json", 400, "the body is no JSON"),
        (b'{"title": NaN}', "application/json", 400, "the body is no JSON"),
        (b'{"title": "\xff"}', "application/json", 400, "the body is no JSON in UTF-8"),
        (
            '{"title": "a"}'.encode("utf-16"),
            "application/json",
            400,
            "the body is no JSON in UTF-8",
        ),
        (b"[" * 100_000, "application/json", 400, "nested too deep"),
        (b'{"title": "a"}', "application/vnd.shop+json; charset=utf-8", 200, ""),
        (b'{"title": "a"}', "text/plain", 415, "The body must be JSON"),
        (b'{"title": "a"}', None, 415, "The body must be JSON"),
        (b"title=a", "application/x-www-form-urlencoded", 415, "The body must be JSON"),
    ],
)
async def test_a_body_that_is_no_json_is_refused(
    body: bytes, kind: str | None, status: int, detail: str
) -> None:
    async with serving(Shop) as (_, client):
        headers = {} if kind is None else {"content-type": kind}
        response = await client.post("/orders", content=body, headers=headers)
    assert response.status_code == status
    assert detail in json.dumps(response.json())


async def test_lax_takes_text_for_numbers_and_off_converts_nothing() -> None:
    async with serving(Shop, VALIDATE_ARGUMENTS="lax") as (_, client):
        response = await client.post("/sell", json={"title": "Emma", "amount": "2"})
        assert response.json() == ["Emma", 2, None]
    async with serving(Shop, VALIDATE_ARGUMENTS="off") as (_, client):
        assert (await client.get("/books/7?pages=x")).json() == ["7", "x"]


async def test_a_decorator_that_adds_arguments_works_without_validation() -> None:
    def with_user(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        async def wrapper(self: Any, request: Any, **values: Any) -> Any:
            return await method(self, request, user=request.headers["x-user"], **values)

        return wrapper

    class Old:
        name = "old"

        @http("GET", "/<int:number>", validate=False)
        @with_user
        async def get(self, request, number, user):
            return [number, user]

    async with serving(Old) as (_, client):
        assert (await client.get("/7", headers={"x-user": "ada"})).json() == [7, "ada"]


def refused(method: Any, url: str, **options: Any) -> Any:
    return type("Refused", (), {"name": "refused", "method": http("GET", url, **options)(method)})


async def no_number(self: Any, request: Any) -> None: ...
async def body_of_get(self: Any, order: Order) -> None: ...
async def positional(self: Any, number: int, /) -> None: ...
async def no_values(self: Any, request: Any) -> None: ...
async def no_request(self: Any) -> None: ...


@pytest.mark.parametrize(
    ("method", "url", "validate", "text"),
    [
        (no_number, "/<int:number>", True, "takes no argument 'number', which the path"),
        (body_of_get, "/", True, "is a JSON body, and a request with GET has none"),
        (positional, "/<int:number>", True, "the parameter 'number' has no name for requests"),
        (no_values, "/<int:number>", False, "an unexpected keyword argument 'number'"),
        (no_request, "/", False, "takes 1 positional argument but 2 were given"),
    ],
)
async def test_a_method_that_cannot_take_its_requests_is_refused_at_the_start(
    method: Any, url: str, validate: bool, text: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        async with serving(refused(method, url, validate=validate)):
            pass
    assert text in str(raised.value)

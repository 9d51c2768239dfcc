"""What a gateway offers, how a body becomes arguments, and how a result becomes JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

import pydantic
import pytest

from aiorpc import (
    BadArguments,
    ConfigurationError,
    IncorrectSignature,
    MalformedReply,
    rpc,
)
from aiorpc.http.operations import Operation, operations_of
from aiorpc.http.responses import json_of
from aiorpc.wire.json import encode


class Colour(Enum):
    RED = "red"


@dataclass
class Book:
    title: str
    price: Decimal = Decimal("1.5")
    tags: set[str] = field(default_factory=set)


class Person(pydantic.BaseModel):
    name: str
    born: date | None = None


class Shop:
    name = "shop"

    @rpc
    async def quote(self, title: str, count: int = 1) -> Decimal: ...
    @rpc
    async def add(self, book: Book, colour: Colour = Colour.RED) -> Book: ...
    @rpc
    async def greet(self, person: Person) -> Person: ...
    @rpc
    async def total(self, first: int, /, second: int, *more: int, **named: int) -> int: ...
    @rpc
    async def keep(self, data: bytes, after: timedelta) -> timedelta: ...
    @rpc(validate=False)
    async def loose(self, count: int) -> None: ...
    @staticmethod
    @rpc
    async def ping(self: int) -> int: ...

    async def hidden(self) -> None: ...


class Prices(Protocol):
    async def of(self, title: str) -> Decimal: ...
    async def all(self) -> list[Decimal]: ...


OFFERED = operations_of([Shop], "strict")


def operation(method: str) -> Operation:
    return OFFERED["shop", method]


def names(*services: Any) -> list[str]:
    return sorted(map(str, operations_of(services, "strict").values()))


def test_a_class_offers_its_remote_methods() -> None:
    assert {method for _, method in OFFERED} == {
        *("quote", "add", "greet", "total", "keep", "loose", "ping")
    }


def test_a_part_of_a_class_or_a_protocol_can_be_offered() -> None:
    assert names((Prices, "prices")) == ["prices.all", "prices.of"]
    assert names((Prices, "prices", ["of"])) == ["prices.of"]
    assert names((Shop, ["quote"])) == ["shop.quote"]
    assert names((Shop, "second-shop", ("quote", "add"))) == [
        "second-shop.add",
        "second-shop.quote",
    ]


def test_a_service_without_a_class_needs_the_names_of_its_methods() -> None:
    offered = operations_of([("orders", ["place"])], "strict")
    assert offered["orders", "place"].signature is None
    assert offered["orders", "place"].arguments({"x": [1]}) == ((), {"x": [1]})
    with pytest.raises(ConfigurationError, match=r'\("service", \["method"\]\)'):
        operations_of(["orders"], "strict")


class Empty:
    name = "empty"


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ([], "offers nothing by default"),
        (Shop, r"write services=\[Shop\]"),
        ("shop", "is a list, got 'shop'"),
        ([3], "has 3: write a service class"),
        ([Prices], "give it a class attribute `name`"),
        ([Empty], "has no method that a Gateway could offer"),
        ([Shop, (Shop, ["add"])], r"shop\.add twice"),
        ([(Shop, ["qoute"])], "did you mean 'quote'"),
        ([(Shop, ["hidden"])], "no method 'hidden' with @rpc"),
        ([("shop", [1])], "are names, got 1"),
        ([("a/b", ["c"])], "no slash"),
        ([("shop", [""])], "no slash"),
    ],
)
def test_a_wrong_service_is_an_error_that_says_what_to_write(services: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        operations_of(services, "strict")


@pytest.mark.parametrize(
    ("method", "body", "arguments"),
    [
        ("quote", {"title": "Emma"}, ((), {"title": "Emma"})),
        (
            "add",
            {"book": {"title": "Emma", "price": "2.5", "tags": ["a"], "unknown": 1}},
            ((), {"book": {"title": "Emma", "price": Decimal("2.5"), "tags": ["a"]}}),
        ),
        (
            "add",
            {"book": {"title": "Emma"}, "colour": "red"},
            (
                (),
                {
                    "book": {"title": "Emma", "price": Decimal("1.5"), "tags": []},
                    "colour": "red",
                },
            ),
        ),
        (
            "greet",
            {"person": {"name": "Ada", "born": "1815-12-10"}},
            ((), {"person": {"name": "Ada", "born": date(1815, 12, 10)}}),
        ),
        ("keep", {"data": "eA==", "after": 2}, ((), {"data": b"x", "after": timedelta(seconds=2)})),
        (
            "keep",
            {"data": "", "after": "PT2S"},
            ((), {"data": b"", "after": timedelta(seconds=2)}),
        ),
        ("total", {"first": 1, "second": 2}, ((1,), {"second": 2})),
        ("total", {"first": 1, "second": 2, "more": [3, 4], "x": 5}, ((1, 2, 3, 4), {"x": 5})),
        ("loose", {"count": "three"}, ((), {"count": "three"})),
        ("ping", {"self": 1}, ((), {"self": 1})),
    ],
)
def test_a_body_becomes_the_arguments_of_a_call(method: str, body: Any, arguments: Any) -> None:
    bound = operation(method).arguments(body)
    assert bound == arguments
    assert encode(bound)  # the wire can carry them


@pytest.mark.parametrize(
    ("method", "body", "error"),
    [
        ("quote", {"title": 7}, "argument 'title' must be str, got int"),
        ("quote", {"title": "Emma", "count": "2"}, "argument 'count' must be int, got str"),
        ("quote", {}, r"quote\(\) missing 1 required positional argument: 'title'"),
        ("quote", {"titel": "x", "title": "y"}, "unexpected keyword argument 'titel'"),
        ("add", {"book": {"title": "Emma", "price": "cheap"}}, "argument 'book' must be Book"),
        ("greet", {"person": {"born": "soon"}}, "name: Field required"),
        ("keep", {"data": "no base64!", "after": 1}, "argument 'data' must be bytes"),
        ("total", {"second": 2}, "missing 1 required positional argument: 'first'"),
        ("total", {"first": 1, "more": [3]}, "needs 'second' too, because 'more' follows it"),
        ("total", {"second": 1, "more": [3]}, "needs 'first' too"),
        ("total", {"first": 1, "second": 1, "more": 3}, "argument 'more' must be list, got int"),
        ("total", {"first": 1, "second": 1, "more": ["a"]}, r"'\*more\[0\]' must be int, got str"),
        ("total", {"first": 1, "second": 1, "x": "a"}, "argument 'x' must be int, got str"),
        ("loose", {"amount": 3}, "unexpected keyword argument 'amount'"),
    ],
)
def test_a_body_that_does_not_fit_the_signature_is_refused(
    method: str, body: Any, error: str
) -> None:
    with pytest.raises((IncorrectSignature, BadArguments), match=error):
        operation(method).arguments(body)


def test_the_body_of_a_request_stays_as_it_was() -> None:
    body = {"first": 1, "second": 2, "more": [3]}
    operation("total").arguments(body)
    assert body == {"first": 1, "second": 2, "more": [3]}


def test_a_lax_configuration_is_lax_here_too() -> None:
    offered = operations_of([Shop], "lax")["shop", "quote"]
    assert offered.arguments({"title": "x", "count": "2"}) == ((), {"title": "x", "count": 2})


@pytest.mark.parametrize(
    ("method", "result", "encoded"),
    [
        ("quote", Decimal("1.50"), '"1.50"'),
        ("quote", "1.50", '"1.50"'),  # from a service with JSON_TYPES: plain
        ("add", {"title": "Emma", "price": "2"}, '{"title":"Emma","price":"2","tags":[]}'),
        ("greet", {"name": "Ada", "born": "1815-12-10T00:00:00"}, None),
        (
            "greet",
            {"name": "Ada", "born": date(1815, 12, 10)},
            '{"name":"Ada","born":"1815-12-10"}',
        ),
        ("keep", 1.5, '"PT1.5S"'),
        ("loose", None, "null"),
    ],
)
def test_a_result_is_json_in_the_form_of_its_schema(
    method: str, result: Any, encoded: str | None
) -> None:
    answer = operation(method).encoded(result)
    if encoded is not None:
        assert answer.decode() == encoded


def test_a_result_that_does_not_fit_the_annotation_is_no_answer() -> None:
    with pytest.raises(MalformedReply, match=r"shop\.quote: the result must be Decimal, got list"):
        operation("quote").encoded([1])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"x", "eA=="),
        ({1: {"a"}}, {"1": ["a"]}),
        (float("inf"), None),
        (["half a pair: \ud800", date(2020, 1, 2)], ["half a pair: \ud800", "2020-01-02"]),
        (2**70, 2**70),
    ],
)
def test_any_value_of_the_wire_has_a_form_in_json(value: Any, read: Any) -> None:
    assert json.loads(json_of(value)) == read

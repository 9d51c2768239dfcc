"""The OpenAPI document of a gateway, its page, and requests that schemathesis makes of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from html.parser import HTMLParser
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypedDict
from uuid import UUID

import httpx
import msgspec
import openapi_spec_validator
import pydantic
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from aiorpc import BadArguments, ServiceContainer, rpc
from aiorpc.http import Gateway

BROKER = "memory://openapi"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Book:
    """A book that the shop has."""

    title: Annotated[str, msgspec.Meta(max_length=50)]
    price: Decimal = Decimal("1.5")
    tags: list[str] = field(default_factory=list)


@dataclass
class Spare:
    x: int = 7
    y: int = 8


class Row(msgspec.Struct, rename="camel"):
    row_id: int
    when: datetime | None = None
    next_row: Row | None = None


class Options(TypedDict, total=False):
    depth: int


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Address(pydantic.BaseModel):
    town: str = pydantic.Field(alias="Town")


class Person(pydantic.BaseModel):
    name: str
    home: Address
    friend: Person | None = None


class Handle:
    """A type that nothing describes."""


class Shop:
    name = "shop"

    @rpc
    async def echo(self, text: str, count: Annotated[int, msgspec.Meta(ge=0)] = 1) -> str:
        """Return *text*.

        And <b>nothing</b> else.
        """
        return text * min(count, 3)

    @rpc
    async def book(self, book: Book, colour: Colour = Colour.RED) -> Book:
        return book

    @rpc
    async def row(self, row: Row, options: Options = {}) -> Row:  # noqa: B006
        return row

    @rpc
    async def person(self, person: Person) -> Person:
        return person

    @rpc
    async def many(self, first: int, /, *rest: float, mode: Literal["a", "b"] = "a") -> list[float]:
        return [first, *rest]

    @rpc
    async def anything(self, value, **others: UUID | None) -> dict[str, Any]:
        return {"value": value, **others}

    @rpc
    async def times(
        self, day: date, after: timedelta | None = None, data: bytes = b""
    ) -> dict[str, Any]:
        return {"day": day, "after": after, "data": data}

    @rpc
    async def point(self, points: list[Point], flags: dict[str, bool]) -> list[Point]:
        return points

    @rpc(validate=False)
    async def loose(self, count: int) -> None: ...

    @rpc
    async def rows(
        self, count: Annotated[int, msgspec.Meta(ge=0, le=5)], fails: bool = False
    ) -> AsyncIterator[Row]:
        if fails:
            raise BadArguments("the rows fail")
        for number in range(count):
            yield Row(number)

    @rpc
    async def handle(self, handle: Handle = None) -> Handle:
        return handle


class Warehouse(Protocol):
    async def stock(self, title: str) -> int: ...


def gateway_of(**options: Any) -> Gateway:
    given: dict[str, Any] = {"authenticate": None, "title": "shop <1>", "version": "7", **options}
    services = [Shop, (Warehouse, "warehouse"), ("old", ["f"])]
    return Gateway(BROKER, services=services, **given)


async def get(application: Any, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)


async def document_of(gateway: Gateway) -> dict[str, Any]:
    response = await get(gateway, "/openapi.json")
    assert response.headers["content-type"] == "application/json"
    document: dict[str, Any] = response.json()
    return document


@pytest.fixture
async def document() -> dict[str, Any]:
    return await document_of(gateway_of(errors={"shop.NotFound": 404, "shop.Gone": 410}))


def body_of(document: dict[str, Any], method: str) -> dict[str, Any]:
    operation = document["paths"][f"/rpc/shop/{method}"]["post"]
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


async def test_the_document_has_no_default_of_a_sensitive_argument() -> None:
    class Vault:
        name = "vault"

        @rpc(sensitive_arguments=("pin", "book.price"))
        async def open(self, book: Book, pin: str = "4711", door: str = "front") -> None: ...

    gateway = Gateway(BROKER, services=[Vault], authenticate=None)
    document = await document_of(gateway)
    body = document["paths"]["/rpc/vault/open"]["post"]["requestBody"]["content"]
    schema = body["application/json"]["schema"]
    assert schema["required"] == ["book"]
    assert schema["properties"]["door"]["default"] == "front"
    assert "default" not in schema["properties"]["pin"]
    fields = document["components"]["schemas"]["Book"]["properties"]
    assert [name for name, each in fields.items() if "default" in each] == ["tags"]
    assert "<code>pin</code><td>string<td>hidden<" in (await get(gateway, "/docs")).text


async def test_the_document_hides_defaults_of_arguments_that_it_does_not_check() -> None:
    class Vault:
        name = "vault"

        @rpc(sensitive_arguments="book.price", validate=False)
        async def open(self, book: Book) -> None: ...

        @rpc(sensitive_arguments="spare.x")
        async def more(self, **keys: Spare) -> None: ...

    gateway = Gateway(BROKER, services=[Vault], authenticate=None)
    schemas = (await document_of(gateway))["components"]["schemas"]
    assert "default" not in schemas["Book"]["properties"]["price"]
    fields = schemas["Spare"]["properties"]
    assert [name for name, each in fields.items() if "default" in each] == ["y"]


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    openapi_spec_validator.validate(document, cls=openapi_spec_validator.OpenAPIV31SpecValidator)
    assert document["info"] == {"title": "shop <1>", "version": "7"}
    assert document["openapi"].startswith("3.1.")


def test_a_body_has_the_parameters_of_the_method(document: dict[str, Any]) -> None:
    assert body_of(document, "echo") == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer", "minimum": 0, "default": 1},
        },
        "required": ["text"],
        "additionalProperties": False,
    }
    many = body_of(document, "many")
    assert many["properties"]["rest"] == {"type": "array", "items": {"type": "number"}}
    assert (many["required"], many["properties"]["mode"]["default"]) == (["first"], "a")
    anything = body_of(document, "anything")
    assert anything["properties"]["value"] == {}
    assert anything["additionalProperties"] == {
        "anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]
    }


def test_types_are_schemas_with_the_names_of_the_wire(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas) == {
        *("Book", "Colour", "Row", "Options", "Point", "Person", "Address", "problem.json")
    }
    assert schemas["Book"]["description"] == "A book that the shop has."
    assert schemas["Book"]["properties"]["title"] == {"type": "string", "maxLength": 50}
    assert set(schemas["Row"]["properties"]) == {"rowId", "when", "nextRow"}
    assert schemas["Address"]["properties"]["Town"]["type"] == "string"
    assert body_of(document, "book")["properties"]["colour"]["default"] == "red"
    result = document["paths"]["/rpc/shop/person"]["post"]["responses"]["200"]
    schema = result["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Person"}


def test_what_the_gateway_does_not_check_is_said(document: dict[str, Any]) -> None:
    paths = document["paths"]
    old = paths["/rpc/old/f"]["post"]
    assert old["x-aiorpc-unchecked"] is True
    assert "does not know the signature" in old["description"]
    assert "Only the service checks" in paths["/rpc/shop/loose"]["post"]["description"]
    assert "x-aiorpc-unchecked" not in paths["/rpc/shop/echo"]["post"]
    assert body_of(document, "handle")["properties"]["handle"] == {"default": None}


def test_the_docstring_is_summary_and_description(document: dict[str, Any]) -> None:
    echo = document["paths"]["/rpc/shop/echo"]["post"]
    assert echo["summary"] == "Return *text*."
    assert echo["description"] == "And <b>nothing</b> else."


def test_the_statuses_are_those_that_requests_get(document: dict[str, Any]) -> None:
    echo = document["paths"]["/rpc/shop/echo"]["post"]
    statuses = {"400", "404", "410", "413", "415", "429", "500", "503", "504"}
    assert set(echo["responses"]) == {"200", *statuses}
    keys = {"409", "422"}  # of methods that may heed an idempotency key
    assert set(document["components"]["responses"]) == statuses | keys
    assert document["components"]["responses"]["410"]["description"] == "Gone"


async def test_only_a_gateway_with_authenticate_answers_401() -> None:
    document = await document_of(gateway_of(authenticate=lambda request: {}))
    assert {"401", "403"} < set(document["paths"]["/rpc/shop/echo"]["post"]["responses"])


class OtherBook(msgspec.Struct):
    isbn: str


OtherBook.__name__ = "Person"


class SameName:
    name = "same_name"

    @rpc
    async def f(self, struct: OtherBook, model: Person) -> None: ...


async def test_classes_of_one_name_have_schemas_of_their_own() -> None:
    document = await document_of(Gateway(BROKER, services=[SameName], authenticate=None))
    openapi_spec_validator.validate(document)
    operation = document["paths"]["/rpc/same_name/f"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    schemas = document["components"]["schemas"]

    def referred(schema: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]]["properties"]
        return found

    assert set(referred(body["struct"])) == {"isbn"}
    model = referred(body["model"])
    assert set(model) == {"name", "home", "friend"}
    assert set(referred(model["home"])) == {"Town"}
    assert set(referred(model["friend"]["anyOf"][0])) == {"name", "home", "friend"}


async def test_the_server_of_a_mounted_gateway_is_where_it_is_mounted() -> None:
    application = FastAPI()
    application.mount("/api/v1", gateway_of())
    response = await get(application, "/api/v1/openapi.json")
    assert response.json()["servers"] == [{"url": "/api/v1"}]
    page = await get(application, "/api/v1/docs")
    assert "POST /api/v1/rpc/shop/echo" in page.text


async def test_the_document_and_the_page_can_be_left_out() -> None:
    gateway = gateway_of(openapi_url=None, docs_url=None)
    assert (await get(gateway, "/openapi.json")).status_code == 404
    assert (await get(gateway, "/docs")).status_code == 404


# The page


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.ids.add(given.get("id") or "")
        self.links |= {value or "" for name, value in given.items() if name in ("href", "src")}
        if tag not in ("meta", "td", "th"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    response = await get(gateway_of(), "/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = Page(response.text)
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe", "base", "b"}
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"url\(|@import", response.text)
    assert "color-scheme: light dark" in response.text


async def test_the_page_shows_operations_arguments_and_schemas() -> None:
    page = Page((await get(gateway_of(), "/docs")).text)
    for text in (
        "shop <1>",
        "POST /rpc/shop/echo",
        "And <b>nothing</b> else.",
        "integer (minimum: 0)",
        '"a" or "b"',
        "array of number",
        "does not know the signature",
        """curl /rpc/shop/echo -H 'Content-Type: application/json' -d '{"text": ...}'""",
        "A book that the shop has.",
    ):
        assert text in page.text, text
    assert {"shop.echo", "schema-Book", "schema-Person"} <= page.ids


# Requests that the document allows, and others


# Formats of msgspec's schemas that schemathesis does not know.
schemathesis.openapi.format("decimal", strategies.decimals(allow_nan=False).map(str))
schemathesis.openapi.format(
    "duration", strategies.integers(0, 10**9).map(lambda seconds: f"PT{seconds}S")
)


@contextmanager
def hosted() -> Iterator[tuple[dict[str, Any], Callable[[httpx.Request], httpx.Response]]]:
    """The document of a gateway whose services run, and what sends it a request."""
    gateway = gateway_of()
    with asyncio.Runner() as runner:

        async def start() -> AsyncExitStack:
            stack = AsyncExitStack()
            await stack.enter_async_context(ServiceContainer(Shop, BROKER))
            await stack.enter_async_context(ServiceContainer(Stock, BROKER))
            await stack.enter_async_context(ServiceContainer(Old, BROKER))
            await stack.enter_async_context(gateway.lifespan())
            return stack

        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(gateway, raise_app_exceptions=True)
        )
        stack = runner.run(start())
        try:
            document = runner.run(document_of(gateway))
            yield document, lambda request: runner.run(_sent(client, request))
        finally:
            runner.run(stack.aclose())


async def _sent(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    return await client.send(request)


class Stock:
    name = "warehouse"

    @rpc
    async def stock(self, title: str) -> int:
        return len(title)


class Old:
    name = "old"

    @rpc
    async def f(self, **anything: Any) -> Any:
        return anything


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_makes_the_gateway_fail(mode: GenerationMode) -> None:
    with hosted() as (document, send):
        for path in document["paths"].values():
            del path["post"]["parameters"]  # a deadline of 0 ms is a wish for 504
        schema = schemathesis.openapi.from_dict(document)
        statuses = set()
        for found in schema.get_all_operations():
            operation = found.ok()

            @given(operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=6,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
                phases=[Phase.generate],
            )
            def ask(case: schemathesis.Case) -> None:
                made = case.as_transport_kwargs(base_url="http://test")
                names = {"method", "url", "headers", "json"}
                sent = {name: value for name, value in made.items() if name in names}
                response = send(httpx.Request(**sent, content=made.get("data")))
                statuses.add(response.status_code)
                # A service takes no 1.0 for an int, which JSON Schema allows.
                case.validate_response(response, excluded_checks=[positive_data_acceptance])

            ask()
    assert (200 if mode is GenerationMode.POSITIVE else 400) in statuses
    assert max(statuses) < 500

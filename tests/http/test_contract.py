"""Nameko's contract of ``@http``: what a method gets and returns, and how errors are answered."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pydantic
import pytest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from aiorpc import (
    BadRequest,
    ConfigurationError,
    DependencyProvider,
    RpcProxy,
    WorkerContext,
    rpc,
)
from aiorpc.http import HttpEntrypoint, HttpRequest, NamekoHttpEntrypoint, http
from aiorpc.wire.errors import safe_for_serialization
from tests.support.http import serving


@dataclass
class Size:
    width: int
    height: int = 1


@dataclass
class Shelf:
    sizes: list[Size]
    label: str = "none"
    tags: list[str] = field(default_factory=list)


class Book(msgspec.Struct):
    title: str
    price: Decimal
    printed: datetime


class Model(pydantic.BaseModel):
    name: str
    sold: datetime


class Results:
    name = "results"

    @http("GET", "/text")
    async def text(self, request: HttpRequest) -> str:
        return "hello, ö"

    @http("GET", "/bytes")
    async def content(self, request: HttpRequest) -> bytes:
        return b"\x00\x01"

    @http("GET", "/nothing")
    async def nothing(self, request: HttpRequest) -> None:
        return None

    @http("GET", "/status")
    async def status(self, request: HttpRequest) -> tuple[int, str]:
        return 202, "accepted"

    @http("GET", "/headers")
    async def headers(self, request: HttpRequest) -> Any:
        return 201, {"Content-Type": "application/json", "X-Shop": "a"}, json.dumps({"a": 1})

    @http("GET", "/pairs")
    async def pairs(self, request: HttpRequest) -> Any:
        return 200, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], "two cookies"

    @http("GET", "/away")
    async def away(self, request: HttpRequest) -> Any:
        return 302, {"Location": "https://example.com/"}, ""

    @http("GET", "/response")
    async def response(self, request: HttpRequest) -> Response:
        return JSONResponse({"a": 1}, 203)

    @http("GET", "/redirect")
    async def redirect(self, request: HttpRequest) -> Response:
        return RedirectResponse("/text")

    @http("GET", "/dict")
    async def mapping(self, request: HttpRequest) -> dict[str, Any]:
        return {"a": [1, None, "ö"]}

    @http("GET", "/dataclass")
    async def dataclass(self, request: HttpRequest) -> Size:
        return Size(2)

    @http("GET", "/struct")
    async def struct(self, request: HttpRequest) -> Book:
        return Book("Emma", Decimal("9.90"), datetime(2026, 1, 2, tzinfo=UTC))

    @http("GET", "/models")
    async def models(self, request: HttpRequest) -> list[Model]:
        return [Model(name="Emma", sold=datetime(2026, 1, 2, tzinfo=UTC))]

    @http("GET", "/number")
    async def number(self, request: HttpRequest) -> tuple[int, int]:
        return 201, 7

    @http("GET", "/strange")
    async def strange(self, request: HttpRequest) -> Any:
        return object()

    @http("GET", "/sync")
    def sync(self, request: HttpRequest) -> str:
        return f"from a thread: {request.method}"


async def test_a_method_returns_a_body_or_a_status_and_headers_or_a_response() -> None:
    async with serving(Results) as (_, client):

        async def answer(path: str) -> tuple[int, str, str]:
            response = await client.get(path)
            return response.status_code, response.headers.get("content-type", ""), response.text

        plain, as_json = "text/plain; charset=utf-8", "application/json"
        assert await answer("/text") == (200, plain, "hello, ö")
        assert await answer("/bytes") == (200, "application/octet-stream", "\x00\x01")
        assert await answer("/nothing") == (204, "", "")
        assert await answer("/status") == (202, plain, "accepted")
        assert await answer("/headers") == (201, as_json, '{"a": 1}')
        assert await answer("/response") == (203, as_json, '{"a":1}')
        assert await answer("/dict") == (200, as_json, '{"a":[1,null,"ö"]}')
        assert await answer("/dataclass") == (200, as_json, '{"width":2,"height":1}')
        book = '{"title":"Emma","price":"9.90","printed":"2026-01-02T00:00:00Z"}'
        assert await answer("/struct") == (200, as_json, book)
        models = '[{"name":"Emma","sold":"2026-01-02T00:00:00Z"}]'
        assert await answer("/models") == (200, as_json, models)
        assert await answer("/number") == (201, as_json, "7")
        assert await answer("/sync") == (200, plain, "from a thread: GET")
        assert (await client.get("/headers")).headers["x-shop"] == "a"
        assert (await client.get("/pairs")).headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert (await client.get("/away")).headers["location"] == "https://example.com/"
        assert (await client.get("/redirect")).headers["location"] == "/text"


async def test_a_result_that_has_no_form_is_answered_with_500_and_the_log_names_its_type(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Results) as (_, client):
        response = await client.get("/strange")
    assert response.status_code == 500
    assert "object" not in response.json()["detail"]
    assert "object" in caplog.text


WRONG = {
    "999": (999, "x"),
    "0": (0, "x"),
    "informational": (100, "x"),
    "a line break": (200, {"X-A": "a\r\nX-B: b"}, "x"),
    "a space": (200, {"X A": "b"}, "x"),
    "too short": (200, {"Content-Length": "1"}, "xyz"),
    "too long": (200, {"Content-Length": "100"}, "xyz"),
    "of a response": Response("x", 999),
    "of a stream": StreamingResponse(iter(["x"]), headers={"X-A": "a\nb"}),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_response_that_no_server_can_send_is_answered_with_500_and_rolls_back(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    committed = []

    class Session(DependencyProvider[None]):
        @asynccontextmanager
        async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
            yield
            committed.append(worker_ctx)

    class Shop:
        name = "shop"
        session = Session()

        @http("GET", "/")
        async def get(self) -> Any:
            return WRONG[wrong]

    async with serving(Shop) as (_, client):
        response = await client.get("/")
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert re.search(
        "the response has (the status|a header|the Content-Length)|header", caplog.text
    )
    assert not committed


@pytest.mark.parametrize("status", [204, 304])
async def test_a_body_that_the_status_forbids_is_left_out(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Shop:
        name = "shop"

        @http("GET", "/tuple")
        async def tuple(self) -> Any:
            return status, {"deleted": True}

        @http("GET", "/response")
        async def response(self) -> Response:
            return JSONResponse({"deleted": True}, status)

    async with serving(Shop) as (_, client):
        for path in ("/tuple", "/response"):
            response = await client.get(path)
            assert (response.status_code, response.content) == (status, b"")
    assert not caplog.records


async def test_a_wrong_status_of_an_error_or_of_a_middleware_is_answered_with_500() -> None:
    async def refuses(call: Any, handler: Any) -> Any:
        return (999, "no") if call.kwargs.get("refuse") else await handler(call)

    class Shop:
        name = "shop"

        @http("GET", "/<path>")
        async def get(self, path: str, refuse: bool = False) -> None:
            raise HTTPException(1, "too low")

    async with serving(Shop, middleware=[refuses]) as (_, client):
        assert (await client.get("/a")).status_code == 500
        assert (await client.get("/a?refuse=true")).status_code == 500


async def test_a_tuple_that_begins_with_a_bool_is_a_list_in_json() -> None:
    class Shop:
        name = "shop"

        @http("GET", "/")
        async def get(self) -> tuple[bool, str]:
            return False, "sold out"

        @http("HEAD", "/size")
        async def size(self) -> Any:
            return 200, {"Content-Length": "100"}, None

    async with serving(Shop) as (_, client):
        response = await client.get("/")
        assert (response.status_code, response.json()) == (200, [False, "sold out"])
        assert (await client.head("/size")).headers["content-length"] == "100"


async def test_a_result_that_contains_itself_is_answered_with_500_and_the_log_names_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shop:
        name = "shop"

        @http("GET", "/")
        async def get(self) -> list[Any]:
            shelf: list[Any] = []
            shelf.append(shelf)
            return shelf

    async with serving(Shop) as (_, client):
        assert (await client.get("/")).status_code == 500
    assert "contains itself; send a flatter value" in caplog.text


class Arguments:
    name = "arguments"

    @http("GET,POST", "/books/<int:number>")
    async def old(self, request, number):
        return {"path": number, "type": type(number).__name__, "method": request.method}

    @http("GET", "/isbn/<isbn>/<path:rest>")
    async def two(self, request, rest, isbn):
        return [isbn, rest]

    @http("GET", "/star/{a:int}/{b:float}/{c:uuid}/{d}")
    async def starlette(self, request, **values):
        return {name: str(value) for name, value in values.items()}

    @http("POST", "/body")
    async def body(self, request):
        data = await request.json()
        return {"query": dict(request.query_params), "data": data, "content": len(request.content)}

    @http("GET", "/nothing")
    async def nothing(self):
        return "no arguments"


async def test_the_request_comes_first_and_the_values_of_the_path_after_it() -> None:
    async with serving(Arguments) as (_, client):
        assert (await client.get("/books/7")).json() == {"path": 7, "type": "int", "method": "GET"}
        assert (await client.post("/books/7")).json()["method"] == "POST"
        assert (await client.get("/isbn/a/b/c")).json() == ["a", "b/c"]
        number = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
        assert (await client.get(f"/star/1/2.5/{number}/x")).json() == {
            "a": "1",
            "b": "2.5",
            "c": number,
            "d": "x",
        }
        assert (await client.post("/body?a=1", json=[1])).json() == {
            "query": {"a": "1"},
            "data": [1],
            "content": 3,
        }
        assert (await client.get("/nothing")).text == "no arguments"


async def test_a_dataclass_from_a_body_keeps_its_defaults_in_a_response() -> None:
    class Shelves:
        name = "shelves"

        @http("POST", "/")
        async def put(self, shelf: Shelf) -> Shelf:
            return shelf

    async with serving(Shelves) as (_, client):
        response = await client.post("/", json={"sizes": [{"width": 2}]})
    assert response.text == '{"sizes":[{"width":2,"height":1}],"label":"none","tags":[]}'


class NotFound(Exception):
    pass


class Errors:
    name = "errors"

    @http("GET", "/expected", expected_exceptions=NotFound, sensitive_arguments="word")
    async def expected(self, word: str) -> str:
        raise NotFound(f"no book {word}")

    @http("GET", "/refused")
    async def refused(self) -> str:
        raise BadRequest("the cart is empty")

    @http("GET", "/status")
    async def status(self) -> str:
        raise HTTPException(418, "I am a teapot", {"X-Tea": "green"})

    @http("GET", "/failed")
    async def failed(self) -> str:
        raise ValueError("the password of the database is tiger")

    @http("GET", "/exit")
    async def ended(self) -> str:
        raise SystemExit("no")


async def test_errors_are_problems_with_a_code_and_the_call_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Errors) as (_, client):
        expected = await client.get("/expected?word=swordfish")
        refused = await client.get("/refused")
        status = await client.get("/status")
        failed = await client.get("/failed")
        ended = await client.get("/exit")
    assert expected.headers["content-type"] == "application/problem+json"
    assert expected.status_code == 400
    assert expected.json()["code"] == "invalid_argument"
    assert expected.json()["detail"] == "no book ***"
    assert "swordfish" not in caplog.text
    assert (refused.status_code, refused.json()["detail"]) == (400, "the cart is empty")
    assert (status.status_code, status.json()["detail"]) == (418, "I am a teapot")
    assert status.headers["x-tea"] == "green"
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len([each for each in warned if "raised an expected error" in each]) == 3
    for problem in (failed, ended):
        assert (problem.status_code, problem.json()["code"]) == (500, "internal")
        assert problem.json()["call_id"] in caplog.text
    assert "tiger" not in failed.text


class Mapped(HttpEntrypoint):
    """As the gateway of Nameko's example shop has it, with Starlette's spelling of a response."""

    mapped_errors: ClassVar = {
        BadRequest: (400, "BAD_REQUEST"),
        NotFound: (404, "PRODUCT_NOT_FOUND"),
    }

    def response_from_exception(self, exc: Exception) -> Response:
        status_code, error_code = 500, "UNEXPECTED_ERROR"
        if isinstance(exc, self.expected_exceptions):
            if type(exc) in self.mapped_errors:
                status_code, error_code = self.mapped_errors[type(exc)]
            else:
                status_code, error_code = 400, "BAD_REQUEST"
        return Response(
            json.dumps({"error": error_code, "message": safe_for_serialization(exc)}),
            status_code=status_code,
            media_type="application/json",
        )


mapped = Mapped.decorator


class Products:
    name = "products"

    @rpc(expected_exceptions=NotFound)
    async def get(self, product_id: str) -> dict[str, Any]:
        return {"id": product_id, "title": "The Odyssey"}


class Gateway:
    name = "gateway"
    products_rpc = RpcProxy("products")

    @mapped("GET", "/products/<string:product_id>", expected_exceptions=NotFound)
    async def get_product(self, request, product_id):
        if product_id == "unknown":
            raise NotFound(product_id)
        product = await self.products_rpc.get(product_id)
        return Response(json.dumps(product), media_type="application/json")

    @mapped("POST", "/products", expected_exceptions=(ValueError, BadRequest))
    async def create_product(self, request):
        try:
            data = json.loads(await request.body())
        except ValueError as exc:
            raise BadRequest(f"Invalid json: {exc}") from exc
        return Response(json.dumps({"id": data["id"]}), media_type="application/json")


async def test_the_gateway_of_namekos_example_shop_works() -> None:
    async with serving(Products, Gateway) as (_, client):
        odyssey = await client.get("/products/the_odyssey")
        unknown = await client.get("/products/unknown")
        created = await client.post("/products", content=b'{"id": "the_odyssey"}')
        malformed = await client.post("/products", content=b"{")
        failed = await client.post("/products", content=b"{}")
    assert odyssey.json() == {"id": "the_odyssey", "title": "The Odyssey"}
    assert unknown.status_code == 404
    assert unknown.json() == {"error": "PRODUCT_NOT_FOUND", "message": "unknown"}
    assert created.json() == {"id": "the_odyssey"}
    assert malformed.status_code == 400
    assert malformed.json()["error"] == "BAD_REQUEST"
    assert failed.status_code == 500
    assert failed.json()["error"] == "UNEXPECTED_ERROR"


async def test_one_class_restores_namekos_text_of_errors() -> None:
    nameko = NamekoHttpEntrypoint.decorator

    class Old:
        name = "old"

        @nameko("GET", "/<int:number>", expected_exceptions=NotFound)
        async def get(self, request, number):
            raise NotFound("gone") if number == 1 else ValueError("oops")

    async with serving(Old) as (_, client):
        expected, failed = await client.get("/1"), await client.get("/2")
    assert (expected.status_code, expected.text) == (400, "Error: NotFound: gone\n")
    assert (failed.status_code, failed.text) == (500, "Error: ValueError: oops\n")


async def test_a_subclass_can_replace_the_arguments_and_the_response() -> None:
    class Own(HttpEntrypoint):
        def get_entrypoint_parameters(self, request: HttpRequest) -> Any:
            return (), {"title": request.headers["x-title"]}

        def response_from_result(self, result: Any) -> Response:
            return JSONResponse({"result": result})

    class Shop:
        name = "shop"

        @Own.decorator("GET", "/")
        async def get(self, title: str) -> str:
            return title

    async with serving(Shop) as (_, client):
        assert (await client.get("/", headers={"x-title": "Emma"})).json() == {"result": "Emma"}
        missing = await client.get("/")
    assert missing.status_code == 500


async def test_an_error_in_response_from_exception_is_a_problem_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(HttpEntrypoint):
        def response_from_exception(self, exc: Exception) -> Response:
            raise KeyError("mapping")

    class Shop:
        name = "shop"

        @Broken.decorator("GET", "/")
        async def get(self) -> str:
            raise ValueError

    async with serving(Shop) as (_, client):
        assert (await client.get("/")).status_code == 500
    assert "response_from_exception failed" in caplog.text


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("args", "query_params"),
        ("get_data", "await request.body()"),
        ("get_json", "await request.json()"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_name_of_werkzeugs_request_names_its_replacement(name: str, replacement: str) -> None:
    request = HttpRequest({"type": "http"})
    with pytest.raises(AttributeError, match=f"'{name}'.*{re.escape(replacement)}|'nonsense'$"):
        getattr(request, name)
    assert not hasattr(request, name)


async def test_a_parameter_annotated_with_werkzeugs_request_is_refused() -> None:
    Request = type("Request", (), {"__module__": "werkzeug.wrappers.request"})

    class Old:
        name = "old"

        @http("GET", "/")
        async def get(self, request: Request) -> str:
            return ""

    Old.get.__annotations__["request"] = Request
    from aiorpc.http.arguments import Binder
    from aiorpc.http.routes import Rule

    with pytest.raises(ConfigurationError, match=r"request is Starlette's, not werkzeug's"):
        Binder(Old.get, Rule("/"), ["GET"], skip_self=True, mode="strict", name="old.get")

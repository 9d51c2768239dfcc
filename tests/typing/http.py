"""``@http`` as type checkers see it. Never runs: mypy and pyright check it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, assert_type

import httpx
from starlette.requests import Request
from starlette.responses import Response

from aiorpc import Call, Handler, ServiceContainer
from aiorpc.http import (
    HttpCall,
    HttpEntrypoint,
    HttpRequest,
    ServerSentEvent,
    WebServer,
    http,
    web_server,
)
from aiorpc.testing import http_client


class Books:
    name = "books"

    @http("GET,POST", "/books/<int:number>", expected_exceptions=LookupError, timeout=3)
    async def book(self, number: int, pages: int = 1) -> dict[str, int]:
        return {"number": number, "pages": pages}

    @http("GET", "/events", max_concurrency=2)
    async def events(self) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent({"a": 1}, event="sold")

    @http("GET", "/old")
    def old(self, request: Request) -> tuple[int, str]:
        return 200, request.query_params["a"]

    @http("GET", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def wrong_path(self) -> None: ...

    @http("GET")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    async def no_path(self) -> None: ...


class Own(HttpEntrypoint):
    def context_data_from_headers(self, request: HttpRequest) -> Mapping[str, Any]:
        return {"user": request.headers["x-user"]}

    def response_from_exception(self, exc: Exception) -> Response:
        return super().response_from_exception(exc)


async def unit_test() -> None:
    assert_type(await Books().book(1, pages=2), dict[str, int])
    assert_type(Books().events(), AsyncIterator[ServerSentEvent])
    await Books().book("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def middleware(call: Call, handler: Handler) -> Any:
    if isinstance(call, HttpCall):
        assert_type(call.request, HttpRequest | None)
    return await handler(call)


async def client(container: ServiceContainer) -> None:
    assert_type(web_server(container), WebServer)
    assert_type(web_server(container).port, int)
    async with http_client(container) as visitor:
        assert_type(visitor, httpx.AsyncClient)

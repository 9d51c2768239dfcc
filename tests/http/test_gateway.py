"""A gateway's answers, asked as an ASGI application, on memory://."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from aiorpc import (
    BadArguments,
    Call,
    ClusterRpcProxy,
    ConfigurationError,
    ContextData,
    Handler,
    Overloaded,
    ServiceContainer,
    deserialize_to_instance,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.http import Gateway
from aiorpc.installed import middleware_of
from tests.support.recorded import Record

BROKER = "memory://gateway"


class NotFound(Exception):
    pass


@deserialize_to_instance("shop.errors.Locked")
class LockedAtTheShop(Exception):
    pass


class Locked(Exception):
    """The service's class; its path differs from that at the caller."""


Locked.__module__ = "shop.errors"


class Shop:
    name = "shop"
    user = ContextData("user")
    called: list[Any]

    @rpc
    async def quote(self, title: str, count: int = 1) -> dict[str, Any]:
        type(self).called.append((title, count, self.user))
        return {"title": title, "count": count, "user": self.user}

    @rpc
    async def fail(self, how: str) -> None:
        raise {
            "secret": ValueError("password=hunter2"),
            "not found": NotFound("no book 7"),
            "locked": Locked("by Ada"),
            "arguments": BadArguments("title is wrong", {"title": ["Too long."]}),
        }[how]

    @rpc
    async def stay(self) -> None:
        await asyncio.Event().wait()

    @rpc
    async def hidden(self) -> str:
        return "not for everybody"


class Prices(Protocol):
    async def of(self, title: str) -> int: ...


SERVICES: list[Any] = [(Shop, ["quote", "fail", "stay"]), (Prices, "prices"), ("old", ["f"])]


@asynccontextmanager
async def visiting(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    Shop.called = []
    async with (
        ServiceContainer(Shop, BROKER),
        gateway.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://test") as client,
    ):
        yield client


def gateway_with(**options: Any) -> Gateway:
    given: dict[str, Any] = {"services": SERVICES, "authenticate": None, **options}
    return Gateway(given.pop("cluster", BROKER), **given)


@pytest.fixture
async def visitor() -> AsyncIterator[httpx.AsyncClient]:
    errors: Any = {NotFound: 404, "shop.errors.Locked": 409}
    async with visiting(gateway_with(errors=errors)) as client:
        yield client


def problem(response: httpx.Response) -> tuple[int, str, str]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return response.status_code, body["code"], body["detail"]


# Calls


async def test_a_post_calls_the_method_with_arguments_by_name(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/rpc/shop/quote", json={"title": "Emma", "count": 2})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"title": "Emma", "count": 2, "user": None}


async def test_calls_at_the_same_time_get_their_own_answers(visitor: httpx.AsyncClient) -> None:
    async def ask(number: int) -> int:
        response = await visitor.post("/rpc/shop/quote", json={"title": "x", "count": number})
        count: int = response.json()["count"]
        return count

    assert await asyncio.gather(*map(ask, range(50))) == list(range(50))


async def test_wrong_arguments_never_reach_the_broker(visitor: httpx.AsyncClient) -> None:
    for body in ({"title": 7}, {"titel": "Emma"}, {}, {"title": "x", "args": []}):
        response = await visitor.post("/rpc/shop/quote", json=body)
        assert problem(response)[:2] == (400, "invalid_argument")
    response = await visitor.post("/rpc/prices/of", json={"title": 7})  # prices never ran
    assert problem(response) == (
        400,
        "invalid_argument",
        "prices.of: argument 'title' must be str, got int",
    )
    assert Shop.called == []


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"{", "the body is no JSON in UTF-8: Input data was truncated"),
        (b"\xff", "the body is no JSON"),
        (b'{"title": NaN}', "the body is no JSON"),
        (b"[1]", "must be a JSON object of arguments by name, got list"),
        (b'"x"', "got str"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
    ],
)
async def test_a_body_that_is_no_object_is_refused(
    visitor: httpx.AsyncClient, content: bytes, detail: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await visitor.post("/rpc/shop/quote", content=content, headers=headers)
    assert problem(response)[:2] == (400, "invalid_argument")
    assert detail in problem(response)[2]


async def test_an_empty_body_is_a_call_without_arguments(visitor: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    response = await visitor.post("/rpc/shop/quote", headers=headers)
    assert "missing 1 required" in problem(response)[2]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_a_body_of_another_type_is_refused(
    visitor: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await visitor.post("/rpc/shop/quote", content=b'{"title":"x"}', headers=headers)
    assert problem(response)[:2] == (415, "invalid_argument")
    headers = {"content-type": "application/vnd.shop+json; charset=utf-8"}
    response = await visitor.post("/rpc/shop/quote", content=b'{"title":"x"}', headers=headers)
    assert response.status_code == 200


async def test_nothing_is_exposed_but_what_was_given(visitor: httpx.AsyncClient) -> None:
    for path in (
        *("/rpc/shop/hidden", "/rpc/shop/called", "/rpc/other/quote", "/rpc/shop/quote/"),
        *("/rpc/shop", "/", "/rpc/shop.quote", "/rpc//quote", "/rpc/shop/quote/more"),
    ):
        assert problem(await visitor.post(path, json={}))[:2] == (404, "not_found"), path


async def test_only_post_calls(visitor: httpx.AsyncClient) -> None:
    response = await visitor.get("/rpc/shop/quote")
    assert problem(response)[:2] == (405, "invalid_argument")
    assert response.headers["allow"] == "POST"
    response = await visitor.post("/openapi.json", json={})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


async def test_a_body_over_the_limit_is_refused() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"title":"'
        for _ in range(10):
            yield b"x" * 10

    async with visiting(gateway_with(max_body=50)) as visitor:
        headers = {"content-type": "application/json"}
        response = await visitor.post("/rpc/shop/quote", content=chunks(), headers=headers)
        assert problem(response) == (413, "invalid_argument", "The body may have at most 50 bytes.")
        response = await visitor.post("/rpc/shop/quote", json={"title": "x" * 36})
        assert response.status_code == 200
        assert int(response.request.headers["content-length"]) == 50 - 2


async def test_the_limit_for_bodies_is_that_of_the_configuration() -> None:
    gateway = gateway_with(cluster={"AMQP_URI": BROKER, "HTTP_MAX_BODY": 50})
    async with visiting(gateway) as visitor:
        response = await visitor.post("/rpc/shop/quote", json={"title": "x" * 50})
    assert problem(response)[0] == 413


async def test_the_limit_holds_for_what_authenticate_reads() -> None:
    async def signed(request: Request) -> dict[str, str]:
        return {"user": str(len(await request.body()))}

    async with visiting(gateway_with(authenticate=signed, max_body=50)) as visitor:
        response = await visitor.post("/rpc/shop/quote", json={"title": "x" * 36})
        assert response.json()["user"] == "48"
        response = await visitor.post("/rpc/shop/quote", json={"title": "x" * 50})
        assert problem(response)[0] == 413


async def test_an_idempotency_key_is_refused_because_no_method_has_a_store(
    visitor: httpx.AsyncClient,
) -> None:
    headers = {"idempotency-key": "7"}
    response = await visitor.post("/rpc/shop/quote", json={"title": "x"}, headers=headers)
    assert problem(response)[:2] == (400, "invalid_argument")
    assert "Idempotency-Key" in problem(response)[2]
    assert Shop.called == []


async def test_a_middleware_may_give_the_body_again_and_again() -> None:
    """A common way to read a body in a middleware, and to leave it for the application."""
    gateway = gateway_with(timeout=0.2)
    given = []

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        message = {**await receive(), "more_body": False}

        async def again() -> Any:
            given.append(message)
            return message

        await gateway(scope, again, send)

    transport = httpx.ASGITransport(middleware)
    async with (
        visiting(gateway),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        response = await client.post("/rpc/shop/stay", json={})
        assert problem(response)[0] == 504
    assert len(given) <= 3


# Errors


async def test_an_error_of_the_service_answers_500_and_shows_nothing(
    visitor: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await visitor.post("/rpc/shop/fail", json={"how": "secret"})
    assert problem(response)[:2] == (500, "internal")
    assert "hunter2" not in response.text
    assert "ValueError" not in response.text
    call_id = response.json()["call_id"]
    line = next(each for each in caplog.records if each.name == "aiorpc.http")
    assert line.levelno == logging.ERROR
    assert call_id in line.getMessage()
    assert "hunter2" in line.getMessage()


async def test_the_call_id_of_an_error_is_in_the_services_call_id_stack() -> None:
    stacks = []

    async def note(call: Call, handler: Handler) -> Any:
        stacks.append(call.context.call_id_stack)
        return await handler(call)

    gateway = gateway_with()
    async with (
        ServiceContainer(Shop, BROKER, middleware=[note]),
        gateway.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://test") as client,
    ):
        response = await client.post("/rpc/shop/fail", json={"how": "secret"})
    assert stacks[0][-2] == response.json()["call_id"]


async def test_the_middleware_of_its_configuration_wraps_the_calls_of_the_gateway() -> None:
    settings = resolve({"AMQP_URI": BROKER, "MIDDLEWARE": ["tests.support.recorded:Record"]})
    async with visiting(gateway_with(cluster=settings)) as client:
        await client.post("/rpc/shop/quote", json={"title": "Emma"})
        await client.post("/rpc/shop/fail", json={"how": "secret"})
    (record,) = middleware_of(settings)
    assert isinstance(record, Record)
    assert record.seen == {
        ("client", "rpc", "shop.quote", "ok"),
        ("client", "rpc", "shop.fail", "RemoteError"),
    }


async def test_a_remote_error_has_the_status_that_the_user_chose(
    visitor: httpx.AsyncClient,
) -> None:
    response = await visitor.post("/rpc/shop/fail", json={"how": "not found"})
    assert problem(response) == (404, "not_found", "no book 7")
    response = await visitor.post("/rpc/shop/fail", json={"how": "locked"})
    assert problem(response) == (409, "already_exists", "by Ada")


async def test_messages_of_bad_arguments_are_in_the_answer(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/rpc/shop/fail", json={"how": "arguments"})
    assert problem(response) == (400, "invalid_argument", "title is wrong")
    assert response.json()["errors"] == {"title": ["Too long."]}


async def test_a_service_that_never_ran_is_unavailable(
    visitor: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await visitor.post("/rpc/old/f", json={"anything": [1]})
    assert problem(response) == (503, "unavailable", "The service does not run.")
    assert "rpc-old does not exist" in caplog.text


async def test_an_overloaded_service_says_when_to_repeat() -> None:
    async def busy(call: Call, handler: Handler) -> Any:
        raise Overloaded("queue rpc-shop is full")

    proxy = ClusterRpcProxy(BROKER, middleware=[busy])
    async with visiting(gateway_with(cluster=proxy)) as visitor:
        response = await visitor.post("/rpc/shop/quote", json={"title": "x"})
    assert problem(response)[:2] == (429, "resource_exhausted")
    assert response.headers["retry-after"] == "1"
    assert "rpc-shop" not in response.text


# Deadlines


@pytest.mark.parametrize(
    "headers", [{"connect-timeout-ms": "20"}, {"grpc-timeout": "20m"}, {"grpc-timeout": "0n"}]
)
async def test_a_client_shortens_the_deadline(
    visitor: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await visitor.post("/rpc/shop/stay", json={}, headers=headers)
    assert problem(response)[:2] == (504, "deadline_exceeded")
    assert "rpc-shop" not in response.text


async def test_a_client_cannot_lengthen_the_deadline() -> None:
    async with visiting(gateway_with(timeout=0.02)) as visitor:
        headers = {"connect-timeout-ms": "60000"}
        response = await visitor.post("/rpc/shop/stay", json={}, headers=headers)
    assert problem(response)[:2] == (504, "deadline_exceeded")


async def test_a_deadline_in_another_form_is_refused(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/rpc/shop/stay", json={}, headers={"grpc-timeout": "1 s"})
    assert problem(response)[:2] == (400, "invalid_argument")


async def test_the_deadline_covers_authenticate_too() -> None:
    async def never(request: Request) -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    async with visiting(gateway_with(authenticate=never, timeout=0.02)) as visitor:
        response = await visitor.post("/rpc/shop/quote", json={"title": "x"})
    assert problem(response)[:2] == (504, "deadline_exceeded")


# Who may call


def test_a_gateway_without_authenticate_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="authenticate=None lets everybody call"):
        Gateway(BROKER, services=SERVICES)


def plain(request: Request) -> dict[str, str] | None:
    user = request.headers.get("x-user")
    return None if user is None else {"user": user}


async def asynchronous(request: Request) -> dict[str, str] | None:
    await asyncio.sleep(0)
    return plain(request)


@pytest.mark.parametrize("authenticate", [plain, asynchronous])
async def test_authenticate_gives_the_context_data_of_the_call(
    authenticate: Callable[[Request], Any],
) -> None:
    async with visiting(gateway_with(authenticate=authenticate)) as visitor:
        headers = {"x-user": "ada"}
        response = await visitor.post("/rpc/shop/quote", json={"title": "x"}, headers=headers)
        assert response.json()["user"] == "ada"
        response = await visitor.post("/rpc/shop/quote", json={"title": "x"})
        assert problem(response)[:2] == (401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"
    assert len(Shop.called) == 1


async def test_no_header_becomes_context_data_by_itself() -> None:
    seen: list[Any] = []

    async def note(call: Call, handler: Handler) -> Any:
        seen.append(dict(call.context.data))
        return await handler(call)

    proxy = ClusterRpcProxy(BROKER, middleware=[note], context_data={"from": "gateway"})
    async with visiting(gateway_with(cluster=proxy)) as visitor:
        headers = {"user": "mallory", "nameko.user": "mallory", "traceparent": "00-1-2-00"}
        response = await visitor.post("/rpc/shop/quote", json={"title": "x"}, headers=headers)
    assert response.json()["user"] is None
    assert seen == [{"from": "gateway", "traceparent": "00-1-2-00"}]


async def test_authenticate_refuses_by_an_exception_of_starlette() -> None:
    def refuse(request: Request) -> Any:
        raise HTTPException(403, "not you", {"x-reason": "name"})

    async with visiting(gateway_with(authenticate=refuse)) as visitor:
        response = await visitor.post("/rpc/shop/quote", json={"title": "x"})
    assert problem(response) == (403, "permission_denied", "not you")
    assert response.headers["x-reason"] == "name"


@pytest.mark.parametrize("returned", [True, "ada"])
async def test_an_authenticate_that_returns_something_else_lets_nobody_in(
    returned: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with visiting(gateway_with(authenticate=lambda request: returned)) as visitor:
        response = await visitor.post("/rpc/shop/quote", json={"title": "x"})
    assert problem(response)[:2] == (500, "internal")
    assert f"returned a {type(returned).__name__}" in caplog.text
    assert Shop.called == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (HTTPException(999, "no"), "has the status 999: give an int from 200 to 599"),
        (HTTPException(403, "no", {"x-a": "a\nb"}), "the header 'x-a' of the response"),
        (HTTPException(403, "no", {"x-a": 5}), "'int' object has no attribute"),
    ],
)
async def test_an_exception_of_starlette_that_no_server_can_send_is_answered_with_500(
    error: HTTPException, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: Request) -> Any:
        raise error

    async with visiting(gateway_with(authenticate=refuse)) as visitor:
        response = await visitor.post("/rpc/shop/quote", json={"title": "x"})
    assert problem(response)[:2] == (500, "internal")
    assert text in caplog.text
    assert Shop.called == []


# Configuration


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"NotFound": 404}, "write the path of a remote error"),
        ({404: "shop.NotFound"}, "has the key 404"),
        ({"shop.NotFound": 200}, "has 200 for shop.NotFound: write an HTTP status, 400 to 599"),
        ({"shop.NotFound": "404"}, "has '404'"),
    ],
)
def test_a_wrong_status_of_an_error_is_an_error_at_start(errors: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        gateway_with(errors=errors)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", "1"),
        ("authenticate", "token"),
        ("max_body", 0),
        ("title", None),
        ("version", 1),
        ("docs_url", "docs"),
    ],
)
def test_a_wrong_argument_is_an_error_at_start(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} of Gateway\(\) must be"):
        gateway_with(**{name: value})


async def test_no_websocket_is_accepted() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/rpc/shop/quote", "headers": [], "root_path": ""}
    await gateway_with()({**scope, "path": "/other"}, receive, send)
    assert [each["type"] for each in sent] == ["websocket.close"]

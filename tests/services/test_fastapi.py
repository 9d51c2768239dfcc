"""The FastAPI example: its lifespan, its calls, and their errors as HTTP answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConnectionLost,
    ContextData,
    ServiceContainer,
    ServiceRunner,
    rpc,
)
from services import web
from services.service_x import ServiceX
from services.service_y import ServiceY
from tests.support.waiting import eventually

BROKER = "memory://fastapi"


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.1)


@pytest.fixture
async def visitor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the running application. Nothing listens on a socket."""
    monkeypatch.setenv("AMQP_URI", BROKER)
    transport = httpx.ASGITransport(web.app)
    async with (
        web.app.router.lifespan_context(web.app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


@pytest.fixture
async def services() -> AsyncIterator[None]:
    async with ServiceRunner(ServiceX, ServiceY, config=BROKER):
        yield


@pytest.mark.usefixtures("services")
async def test_an_endpoint_awaits_a_call(visitor: httpx.AsyncClient) -> None:
    response = await visitor.get("/mark/hello")
    assert (response.status_code, response.json()) == (200, "hello-x-y")


@pytest.mark.usefixtures("services")
async def test_an_endpoint_makes_several_calls_at_once(visitor: httpx.AsyncClient) -> None:
    response = await visitor.get("/mark", params={"value": ["one", "two"]})
    assert response.json() == ["one-x-y", "two-x-y"]


@pytest.mark.usefixtures("services")
async def test_visitors_at_the_same_time_get_their_own_answers(visitor: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(*(visitor.get(f"/mark/{n}") for n in range(100)))
    assert [response.json() for response in responses] == [f"{n}-x-y" for n in range(100)]


async def test_a_header_becomes_context_data(visitor: httpx.AsyncClient) -> None:
    class Polyglot:
        name = "service_x"
        language = ContextData("language")

        @rpc
        async def remote_method(self, value: str) -> str:
            return f"{value} in {self.language}"

    async with ServiceContainer(Polyglot, BROKER):
        response = await visitor.get("/mark/hello", headers={"accept-language": "fr"})
    assert response.json() == "hello in fr"


async def test_a_service_that_never_ran_answers_503(visitor: httpx.AsyncClient) -> None:
    response = await visitor.get("/mark/hello")
    assert (response.status_code, response.json()) == (503, {"error": "UnknownService"})


@pytest.mark.usefixtures("short_timeout")
async def test_a_service_that_is_down_answers_504(visitor: httpx.AsyncClient) -> None:
    async with ServiceContainer(ServiceX, BROKER):
        pass  # its queue stays
    response = await visitor.get("/mark/hello")
    assert (response.status_code, response.json()) == (504, {"error": "RpcTimeout"})


async def test_an_error_of_the_service_answers_500(visitor: httpx.AsyncClient) -> None:
    async with ServiceContainer(ServiceX, BROKER):  # service_y, which it calls, does not run
        response = await visitor.get("/mark/hello")
    assert (response.status_code, response.json()) == (500, {"error": "RemoteError"})


@pytest.mark.usefixtures("short_timeout")
async def test_it_starts_without_the_broker_and_its_health_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web, "PAUSE", 0)
    monkeypatch.setenv("AMQP_URI", "amqp://guest:guest@127.0.0.1:1/")  # nothing listens there
    transport = httpx.ASGITransport(web.app)
    async with (
        web.app.router.lifespan_context(web.app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as visitor,
    ):
        response = await visitor.get("/health")
        assert (response.status_code, response.json()) == (503, {"ok": False})
        response = await visitor.get("/mark/hello")
        assert (response.status_code, response.json()) == (503, {"error": "ConnectionLost"})
        web.app.state.proxy = ClusterRpcProxy(BROKER)  # the broker of the next attempt is there
        await eventually(lambda: web.app.state.cluster is not None)
        response = await visitor.get("/health")
        assert (response.status_code, response.json()) == (200, {"ok": True})


@pytest.mark.usefixtures("services", "visitor")
async def test_the_connection_closes_with_the_application() -> None:
    async with web.app.router.lifespan_context(web.app):
        mark = web.app.state.cluster.service_x.remote_method
        assert await mark("hello") == "hello-x-y"
    with pytest.raises(ConnectionLost, match="closed"):
        await mark("hello")

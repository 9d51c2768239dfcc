"""Who starts a gateway: its server, the application that mounts it, or the owner of its proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from aiorpc import ClusterRpcProxy, ConfigurationError, ConnectionLost, ServiceContainer, rpc
from aiorpc.http import Gateway, connection
from tests.support.waiting import eventually

BROKER = "memory://mounted"


class Shop:
    name = "shop"

    @rpc
    async def quote(self, title: str) -> str:
        return f"{title}: 9.90"


def gateway_on(cluster: Any = BROKER) -> Gateway:
    return Gateway(cluster, services=[Shop], authenticate=None)


async def ask(application: Any, path: str = "/rpc/shop/quote") -> httpx.Response:
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, json={"title": "Emma"})


@pytest.fixture
async def shop() -> AsyncIterator[None]:
    async with ServiceContainer(Shop, BROKER):
        yield


def fastapi_by_argument(gateway: Gateway) -> Any:
    application = FastAPI(lifespan=gateway.lifespan)
    application.mount("/api", gateway)
    return application


def fastapi_by_its_own_lifespan(gateway: Gateway) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.lifespan(app):
            yield

    application = FastAPI(lifespan=lifespan)
    application.mount("/api", gateway)
    return application


def starlette(gateway: Gateway) -> Any:
    return Starlette(routes=[Mount("/api", gateway)], lifespan=gateway.lifespan)


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("mounting", [fastapi_by_argument, fastapi_by_its_own_lifespan, starlette])
async def test_the_lifespan_of_the_parent_starts_a_mounted_gateway(mounting: Any) -> None:
    gateway = gateway_on()
    application = mounting(gateway)
    async with application.router.lifespan_context(application):
        assert gateway.health().ok
        response = await ask(application, "/api/rpc/shop/quote")
        assert (response.status_code, response.json()) == (200, "Emma: 9.90")
        response = await ask(application, "/api/rpc/shop/other")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        response = await ask(application, "/api/openapi.json")
        assert (response.status_code, response.json()["code"]) == (405, "invalid_argument")
    assert not gateway.health().ok


@pytest.mark.parametrize("mounting", [fastapi_by_argument, starlette])
async def test_a_gateway_that_was_never_started_says_how(mounting: Any) -> None:
    with pytest.raises(RuntimeError, match=r"FastAPI\(lifespan=gateway.lifespan\)"):
        await ask(mounting(gateway_on()), "/api/rpc/shop/quote")


@pytest.mark.usefixtures("shop")
async def test_a_started_proxy_belongs_to_who_started_it() -> None:
    async with ClusterRpcProxy(BROKER) as cluster:
        gateway = gateway_on(cluster)
        assert (await ask(gateway)).status_code == 200  # nothing is left to start
        async with gateway.lifespan():
            assert (await ask(gateway)).status_code == 200
        assert await cluster.shop.quote("Emma") == "Emma: 9.90"
        assert gateway.health().ok


@pytest.mark.usefixtures("shop")
async def test_a_gateway_follows_a_proxy_that_its_owner_starts_again() -> None:
    proxy = ClusterRpcProxy(BROKER)
    gateway = gateway_on(proxy)
    for _ in range(2):
        async with proxy:
            async with gateway.lifespan():
                assert (await ask(gateway)).status_code == 200
            assert proxy.health().ok
        with pytest.raises(RuntimeError, match="was not started"):
            await ask(gateway)


@pytest.mark.usefixtures("shop")
async def test_a_gateway_starts_and_closes_a_proxy_that_nobody_started() -> None:
    proxy = ClusterRpcProxy(BROKER)
    gateway = gateway_on(proxy)
    for _ in range(2):
        async with gateway.lifespan():
            assert (await ask(gateway)).status_code == 200
            with pytest.raises(RuntimeError, match="started already"):
                await gateway.lifespan().__aenter__()
        assert not proxy.health().ok


async def test_a_gateway_answers_503_until_the_broker_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.01)
    monkeypatch.setattr(connection, "PAUSE", 0)
    there = asyncio.Event()
    start = ClusterRpcProxy.start

    async def starting(proxy: Any) -> Any:
        if not there.is_set():
            await asyncio.wait((asyncio.ensure_future(there.wait()),), timeout=0.02)
            raise ConnectionLost("nothing listens there")
        return await start(proxy)

    monkeypatch.setattr(ClusterRpcProxy, "start", starting)
    gateway = gateway_on()
    async with ServiceContainer(Shop, BROKER), gateway.lifespan():
        response = await ask(gateway)
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        there.set()
        await eventually(lambda: gateway.health().ok)
        assert (await ask(gateway)).status_code == 200
    assert "nothing listens there" in caplog.text


async def test_a_wrong_password_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(proxy: Any) -> Any:
        raise ConfigurationError("the broker refuses user guest")

    monkeypatch.setattr(ClusterRpcProxy, "start", refused)
    gateway = gateway_on()
    with pytest.raises(ConfigurationError, match="refuses user guest"):
        async with gateway.lifespan():
            pass
    with pytest.raises(RuntimeError, match="was not started"):
        await ask(gateway)

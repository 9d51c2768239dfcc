"""A gateway beside services, as ``aiorpc run module:gateway`` hosts it."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from aiorpc import ClusterRpcProxy, ConfigurationError, ServiceRunner, rpc
from aiorpc.http import Gateway, http, web_server
from tests.support.command_line import Project, Started
from tests.support.http import serving
from tests.support.waiting import eventually


class Shop:
    name = "shop"
    began: ClassVar[asyncio.Event]
    go_on: ClassVar[asyncio.Event]

    @rpc
    async def quote(self, title: str, count: int = 1) -> str:
        return f"{count} {title}: 9.90"

    @rpc
    async def wait(self) -> str:
        self.began.set()
        await self.go_on.wait()
        return "went on"

    @http("GET", "/health")
    async def health(self) -> str:
        return "ok"


def hosted(gateway: Any) -> type:
    service: type = gateway.__aiorpc_service__()
    return service


def gateway_of(*given: Any, **options: Any) -> Gateway:
    return Gateway(*given, services=[Shop], authenticate=None, **options)


async def test_a_gateway_shares_the_address_with_http_methods() -> None:
    async with serving(Shop, hosted(gateway_of())) as (_, client):
        response = await client.post("/rpc/shop/quote", json={"title": "Emma"})
        assert (response.status_code, response.json()) == (200, "1 Emma: 9.90")
        assert (await client.get("/health")).text == "ok"
        assert (await client.get("/docs")).status_code == 200
        response = await client.get("/other")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_gateway_without_a_configuration_has_that_of_its_host() -> None:
    config = {"VALIDATE_ARGUMENTS": "lax", "HTTP_MAX_BODY": 50}
    async with serving(Shop, hosted(gateway_of()), **config) as (_, client):
        response = await client.post("/rpc/shop/quote", json={"title": "Emma", "count": "2"})
        assert response.json() == "2 Emma: 9.90"
        response = await client.post("/rpc/shop/quote", json={"title": "x" * 50})
        assert response.status_code == 413
    async with serving(Shop, hosted(gateway_of()), RPC_TIMEOUT=0.05) as (_, client):
        Shop.began, Shop.go_on = asyncio.Event(), asyncio.Event()
        response = await client.post("/rpc/shop/wait", json={})
        assert response.status_code == 504


async def test_a_gateway_with_a_proxy_of_its_own_uses_that() -> None:
    proxy = ClusterRpcProxy(f"memory://{uuid.uuid4().hex}")
    async with serving(Shop, hosted(gateway_of(proxy))) as (_, client):
        assert proxy.health().ok
        response = await client.post("/rpc/shop/quote", json={"title": "Emma"})
        assert response.status_code == 503  # there is no shop on that broker
    assert not proxy.health().ok


async def test_a_stop_waits_for_the_requests_that_run() -> None:
    Shop.began, Shop.go_on = asyncio.Event(), asyncio.Event()
    async with serving(Shop, hosted(gateway_of()), CLEANUP_TIMEOUT=0.01) as (runner, client):
        asking = asyncio.create_task(client.post("/rpc/shop/wait", json={}))
        await Shop.began.wait()
        server = web_server(runner)
        stopping = asyncio.create_task(runner.stop())
        await eventually(lambda: not server._accepting)
        await asyncio.sleep(0.1)  # longer than the end of the web server takes
        Shop.go_on.set()
        assert (await asking).json() == "went on"
        await stopping


async def test_a_stop_cuts_requests_that_take_longer_than_the_shutdown_timeout() -> None:
    Shop.began, Shop.go_on = asyncio.Event(), asyncio.Event()
    times = {"SHUTDOWN_TIMEOUT": 0.05, "CLEANUP_TIMEOUT": 0.05}
    async with serving(Shop, hosted(gateway_of()), **times) as (runner, client):
        asking = asyncio.create_task(client.post("/rpc/shop/wait", json={}))
        await Shop.began.wait()
        async with asyncio.timeout(5):
            await runner.stop()
            with pytest.raises(httpx.HTTPError):
                (await asking).raise_for_status()


async def test_two_gateways_on_one_address_are_an_error() -> None:
    config = {"AMQP_URI": "memory://two", "WEB_SERVER_ADDRESS": "127.0.0.1:0"}
    with pytest.raises(ConfigurationError, match=r"two gateways on the address .* make them one"):
        async with ServiceRunner(gateway_of(), gateway_of(), config=config):
            pass


async def test_the_server_of_a_gateway_is_found() -> None:
    async with serving(hosted(gateway_of())) as (runner, _):
        assert web_server(runner).port
        assert web_server(runner.containers[0]).routes == []


MODULE = """
    from aiorpc import rpc
    from aiorpc.http import Gateway

    class Shop:
        name = "shop"

        @rpc
        async def quote(self, title: str) -> str:
            return title + ": 9.90"

    gateway = Gateway(services=[Shop], authenticate=None)
"""


@pytest.mark.slow
def test_aiorpc_run_serves_the_gateways_of_a_module(tmp_path: Path) -> None:
    Project(tmp_path).write("shop_api.py", MODULE)
    arguments = ["--broker", "memory://", "--define", "WEB_SERVER_ADDRESS=127.0.0.1:0"]
    with Started("run", "shop_api", *arguments, cwd=tmp_path) as running:
        running.waits_for("gateway ready: methods serve (POST /rpc/{service}/{method})")
        running.waits_for("shop ready")
        url = running.waits_for("HTTP on ").rpartition(" ")[2]
        response = httpx.post(f"{url}/rpc/shop/quote", json={"title": "Emma"})
        assert (response.status_code, response.json()) == (200, "Emma: 9.90")

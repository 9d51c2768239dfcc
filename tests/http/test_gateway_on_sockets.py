"""A gateway behind uvicorn on a real socket, on memory:// and on RabbitMQ."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import httpx
import pytest

from aiorpc import ServiceContainer, rpc
from aiorpc.http import Gateway
from tests.support.http import served_by_uvicorn
from tests.support.waiting import PATIENCE, eventually

BROKER = "memory://sockets"


class Shop:
    name = f"shop_{uuid.uuid4().hex[:8]}"
    began: ClassVar[asyncio.Event]
    cancelled: ClassVar[asyncio.Event]

    @rpc
    async def quote(self, title: str) -> str:
        return f"{title}: 9.90"

    @rpc
    async def stay(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def served(broker: str) -> AsyncIterator[int]:
    """The port of a gateway whose service runs on *broker*."""
    Shop.began, Shop.cancelled = asyncio.Event(), asyncio.Event()
    gateway = Gateway(broker, services=[Shop], authenticate=None)
    async with ServiceContainer(Shop, broker), served_by_uvicorn(gateway) as port:
        yield port


async def test_a_client_that_hangs_up_cancels_its_call() -> None:
    await hang_up(BROKER)


async def test_a_client_that_hangs_up_cancels_its_call_on_rabbitmq(rabbitmq_uri: str) -> None:
    await hang_up(rabbitmq_uri)


async def hang_up(broker: str) -> None:
    async with served(broker) as port:
        request = (
            f"POST /rpc/{Shop.name}/stay HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            "Content-Type: application/json\r\n\r\n{}"
        )
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request.encode())
            await Shop.began.wait()
            writer.close()
            await Shop.cancelled.wait()
        assert (await post(port, "quote", {"title": "Emma"})).json() == "Emma: 9.90"


async def test_a_client_that_hangs_up_within_its_request_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="aiorpc.http")
    async with served(BROKER) as port:
        request = (
            f"POST /rpc/{Shop.name}/quote HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n"
            "Content-Type: application/json\r\n\r\n{"
        )
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode())
        await writer.drain()
        writer.close()
        await eventually(lambda: "hung up" in caplog.text)
        assert (await post(port, "quote", {"title": "Emma"})).status_code == 200
    assert not [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")]


async def post(port: int, method: str, body: Any, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}/rpc/{Shop.name}/{method}"
        return await client.post(url, json=body, **options)


async def test_a_server_starts_and_stops_a_gateway_by_itself() -> None:
    async with served(BROKER) as port:
        assert (await post(port, "quote", {"title": "Emma"})).status_code == 200


async def test_calls_over_rabbitmq(rabbitmq_uri: str) -> None:
    async with served(rabbitmq_uri) as port:
        response = await post(port, "quote", {"title": "Emma"})
        assert (response.status_code, response.json()) == (200, "Emma: 9.90")
        response = await post(port, "quote", {"title": 7})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_argument")
        response = await post(port, "stay", {}, headers={"connect-timeout-ms": "50"})
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")


async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent() -> None:
    async with served(BROKER) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = (
            f"POST /rpc/{Shop.name}/quote HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n"
            "Content-Type: application/json\r\n\r\n"
        )
        writer.write(request.encode())
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readline()).split()[1] == b"413"
        writer.close()

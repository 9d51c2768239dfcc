"""A service with ``@http`` that calls another one over RabbitMQ."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from aiorpc import RpcProxy, ServiceRunner, rpc
from aiorpc.http import http, web_server
from tests.support.http import serving


async def test_a_request_calls_over_rabbitmq_and_a_client_that_hangs_up_cancels_the_call(
    rabbitmq_uri: str,
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    unique = f"http_{uuid.uuid4().hex[:8]}"

    class Back:
        name = f"{unique}_back"

        @rpc
        async def double(self, number: int) -> int:
            return 2 * number

        @rpc
        async def wait(self) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    class Front:
        name = f"{unique}_front"
        back = RpcProxy(Back.name)

        @http("GET", "/double/<int:number>")
        async def double(self, number: int) -> Any:
            return await self.back.double(number)

        @http("GET", "/wait")
        async def wait(self) -> None:
            await self.back.wait()

    async with (
        ServiceRunner(Back, config=rabbitmq_uri) as backs,
        serving(Front, AMQP_URI=rabbitmq_uri) as (runner, client),
    ):
        assert (await client.get("/double/21")).json() == 42
        asked = asyncio.create_task(client.get(f"{web_server(runner).url}/wait"))
        async with asyncio.timeout(10):
            await begun.wait()
            asked.cancel()
            await ended.wait()
        await runner.stop()
        await backs.stop()
        for host in (runner, backs):
            for container in host.containers:
                assert not container.overran

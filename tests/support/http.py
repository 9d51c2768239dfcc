"""Hosts services with ``@http`` methods on a real socket, for tests. Imports aiorpc and httpx."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

from aiorpc import ServiceRunner
from aiorpc.http import web_server
from tests.support.waiting import eventually

__all__ = ["connected", "read_response", "served_by_uvicorn", "serving"]


@asynccontextmanager
async def serving(
    *services: type, middleware: Any = (), **config: Any
) -> AsyncGenerator[tuple[ServiceRunner, httpx.AsyncClient]]:
    """Host *services* on a free port, and yield their runner and a client of theirs."""
    config = {
        "AMQP_URI": f"memory://{uuid.uuid4().hex}",
        "WEB_SERVER_ADDRESS": "127.0.0.1:0",
        **config,
    }
    async with (
        ServiceRunner(*services, config=config, middleware=middleware) as runner,
        # Reading the certificate authorities would take longer than most tests.
        httpx.AsyncClient(base_url=web_server(runner).url, timeout=10, verify=False) as client,
    ):
        yield runner, client


@asynccontextmanager
async def served_by_uvicorn(application: Any) -> AsyncGenerator[int]:
    """Serve *application* on a free port, with its lifespan, and yield the port."""
    config = uvicorn.Config(application, port=0, log_config=None, lifespan="on", ws="none")
    server = uvicorn.Server(config)
    # Without its signal handlers: the test run has its own.
    server.capture_signals = contextlib.nullcontext
    serving = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started or serving.done())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def connected(
    runner: ServiceRunner,
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a TCP connection to the web server of *runner*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web_server(runner).port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_response(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Return the head and the body of a response with a Content-Length."""
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        return head, await reader.readexactly(int(fields.get("content-length", 0)))

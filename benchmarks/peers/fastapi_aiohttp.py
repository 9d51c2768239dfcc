"""HTTP without a broker: FastAPI on uvicorn (httptools), called by an aiohttp client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from . import load


class Argument(BaseModel):
    value: str


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: ``load`` has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def opened(options: load.Options) -> AsyncGenerator[Any]:
    """Gives ``ask(path, value)``, over at most 100 connections that are kept."""
    base = f"http://127.0.0.1:{options.port}"
    connector = aiohttp.TCPConnector(limit=100)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask(path: str, value: str) -> str:
            async with session.post(base + path, json={"value": value}) as response:
                answer: str = (await response.json())["result"]
                return answer

        yield ask


@asynccontextmanager
async def serve(options: load.Options) -> AsyncGenerator[None]:
    app = FastAPI()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=options.port, log_level="error", access_log=False
    )
    server = Server(config)
    async with opened(options) as ask:

        @app.post("/x")
        async def x(argument: Argument) -> dict[str, str]:
            return {"result": await ask("/y", argument.value + "-x")}

        @app.post("/y")
        async def y(argument: Argument) -> dict[str, str]:
            return {"result": argument.value + "-y"}

        running = asyncio.ensure_future(server.serve())
        while not server.started and not running.done():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.005)
        try:
            yield
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def connect(options: load.Options) -> AsyncGenerator[load.Call]:
    path = "/x" if options.two_hops else "/y"
    async with opened(options) as ask:
        yield lambda value: ask(path, value)


if __name__ == "__main__":
    load.main(serve, connect)

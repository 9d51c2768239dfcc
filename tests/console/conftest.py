"""A console on ``memory://``, asked as an ASGI application."""

from __future__ import annotations

import socket
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest

from aiorpc.config import Settings, resolve
from aiorpc.console import ConsoleServer
from aiorpc.console.app import ConsoleApp

ORIGIN = "http://127.0.0.1:8800"


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def settings() -> Settings:
    config = {"MAX_MESSAGE_SIZE": None, "WEB_SERVER_ADDRESS": "127.0.0.1:0"}
    return resolve({"AMQP_URI": f"memory://{uuid.uuid4().hex}", **config})


@pytest.fixture
def console(settings: Settings) -> ConsoleServer:
    return ConsoleServer(settings, "127.0.0.1:8800", allow_changes=True, interval=0.05, wait=0.02)


@pytest.fixture
async def app(console: ConsoleServer) -> AsyncIterator[ConsoleApp]:
    async with console.application() as app:
        yield app


@pytest.fixture
async def reader(app: ConsoleApp) -> AsyncIterator[httpx.AsyncClient]:
    """Reads as the page does."""
    transport = httpx.ASGITransport(app)
    headers = {"aiorpc-console-page": "1"}
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as client:
        yield client


@pytest.fixture
async def changer(app: ConsoleApp, console: ConsoleServer) -> AsyncIterator[httpx.AsyncClient]:
    """Changes as the page does: with the token."""
    assert console.token is not None
    headers = {
        "origin": ORIGIN,
        "sec-fetch-site": "same-origin",
        "aiorpc-console-page": "1",
        "aiorpc-console-token": console.token,
    }
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as client:
        yield client

"""How a process whose parent holds the socket stops: other processes take new connections."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from aiorpc import ServiceRunner, sockets
from aiorpc.http import http, listener, web_server
from tests.support.http import connected, read_response, serving
from tests.support.waiting import eventually

GET = b"GET /hello HTTP/1.1\r\nhost: test\r\n\r\n"


class Hello:
    name = "hello"

    @http("GET", "/hello")
    async def hello(self) -> str:
        return "hello"


@asynccontextmanager
async def supervised() -> AsyncGenerator[ServiceRunner]:
    """Host ``Hello`` on a socket of the parent, which this test holds."""
    bound = await sockets.bind("127.0.0.1:0", "WEB_SERVER_ADDRESS")

    async def give(address: str, key: str) -> socket.socket:
        return bound.dup()

    sockets.get_from(give)
    try:
        async with AsyncExitStack() as stack:
            runner, _ = await stack.enter_async_context(serving(Hello))
            yield runner
    finally:
        sockets.get_from(None)
        bound.close()


async def has_stopped_accepting(runner: ServiceRunner) -> None:
    """Wait until the socket is closed in this process."""
    server = web_server(runner)._listener
    assert server is not None
    await eventually(lambda: not server._accepts)


@pytest.mark.parametrize("parser", ["httptools", "h11"])
async def test_an_open_connection_gets_one_more_answer_and_closes(
    parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parser == "h11":
        monkeypatch.setitem(sys.modules, "aiorpc.http.parser", None)
    async with (
        supervised() as runner,
        connected(runner) as (used, writer),
        connected(runner) as (fresh, fresh_writer),
    ):
        writer.write(GET)
        head, _ = await read_response(used)
        assert "connection: close" not in head.lower()
        stopping = asyncio.create_task(runner.stop())
        await has_stopped_accepting(runner)
        for reader, sends in ((used, writer), (fresh, fresh_writer)):
            sends.write(GET)
            head, body = await read_response(reader)
            assert head.startswith("HTTP/1.1 200 ")
            assert body == b"hello"
            assert "connection: close" in head.lower()
            assert await reader.read() == b""
        await stopping


async def test_an_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_LINGER", 0.05)
    async with supervised() as runner, connected(runner) as (reader, _):
        await runner.stop()
        assert await reader.read() == b""


async def test_the_socket_of_the_parent_still_takes_connections() -> None:
    async with supervised() as runner:
        port = web_server(runner).port
        await runner.stop()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()


async def test_a_cancelled_close_leaves_no_task_and_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "_LINGER", 60)
    async with supervised() as runner:
        served = web_server(runner)._listener
        assert served is not None
        async with connected(runner) as (reader, _):
            closing = asyncio.create_task(served.aclose(60))
            await has_stopped_accepting(runner)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert served._ticking is not None
            assert served._ticking.done()
            assert await reader.read() == b""

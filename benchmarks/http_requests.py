"""
What an HTTP request costs with ``@http``, beside FastAPI with the same handlers.

    python benchmarks/http_requests.py                      5 rounds of 2 s, 32 connections
    python benchmarks/http_requests.py --rounds 9 --seconds 1 --connections 64

Both run on the same uvicorn, parser (httptools) and event loop (uvloop), in one process each, on
``memory://`` and without access logs. The client is a process of its own that keeps one request in
flight on each connection. The servers take turns in each round, and every second round runs in
reverse order. CPU is the user and system time of the server's process. The figures are medians of
the rounds; the ratio is the median of the ratios of the rounds.

Needs ``pip install -e '.[http,uvloop]' fastapi``, Linux, and no broker.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pydantic
import uvloop
from peers.procfs import cpu_seconds

SERVERS = ("aiorpc", "fastapi")
BODY = b'{"title": "Emma", "pages": 474, "tags": ["novel", "1815"]}'
#: What is asked: the name and the bytes of a request.
REQUESTS = {
    "text": b"GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "path and query to dict": b"GET /books/7?pages=3 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "model to model": (
        b"POST /books HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
    ),
}


class Book(pydantic.BaseModel):
    title: str
    pages: int = 0
    tags: list[str] = []


# The servers


async def serve_aiorpc() -> None:
    from aiorpc import ServiceContainer
    from aiorpc.http import http, web_server

    class Books:
        name = "books"

        @http("GET", "/hello")
        async def hello(self) -> str:
            return "hello"

        @http("GET", "/books/{number:int}")
        async def get(self, number: int, pages: int = 1) -> dict[str, Any]:
            return {"number": number, "pages": pages}

        @http("POST", "/books")
        async def create(self, book: Book) -> Book:
            return book

    config = {"AMQP_URI": "memory://", "WEB_SERVER_ADDRESS": "127.0.0.1:0"}
    async with ServiceContainer(Books, config) as container:
        print(web_server(container).port, flush=True)
        await asyncio.Event().wait()


async def serve_fastapi() -> None:
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()

    @app.get("/hello", response_class=PlainTextResponse)
    async def hello() -> str:
        return "hello"

    @app.get("/books/{number:int}")
    async def get(number: int, pages: int = 1) -> dict[str, Any]:
        return {"number": number, "pages": pages}

    @app.post("/books")
    async def create(book: Book) -> Book:
        return book

    config = uvicorn.Config(app, port=0, access_log=False, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn gives no event
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


# The client


class Connection(asyncio.Protocol):
    """Keeps one request in flight, and counts the answers."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self.answers = 0
        self.failed = 0

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        head, found, body = data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        if not found or len(body) < int(length):
            self._rest = data
            return
        self._rest = b""
        self.answers += 1
        self.failed += not head.startswith(b"HTTP/1.1 200")
        self._transport.write(self._request)


async def load(port: int, request: bytes, connections: int, seconds: float) -> int:
    """Return the number of answers within *seconds*."""
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Connection(request), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    for transport, _ in made:
        transport.close()
    if failed := sum(connection.failed for _, connection in made):
        raise SystemExit(f"{failed} answers have another status than 200")
    return sum(connection.answers for _, connection in made)


@contextmanager
def running(name: str) -> Iterator[tuple[int, int]]:
    """Run the server *name* in a process, and yield the process id and the port."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", name], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def cpu_of(pid: int) -> float:
    """Return the user and system time of the process, in seconds."""
    used = cpu_seconds([pid])
    assert used is not None, "this needs Linux"
    return used


def measure(options: argparse.Namespace) -> None:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with running("aiorpc") as ours, running("fastapi") as theirs:
        servers = dict(zip(SERVERS, (ours, theirs), strict=True))
        for _, port in servers.values():
            for request in REQUESTS.values():
                uvloop.run(load(port, request, options.connections, 0.3))  # warm up
        for turn in range(options.rounds):
            for name, request in REQUESTS.items():
                for server in SERVERS[:: -1 if turn % 2 else 1]:
                    pid, port = servers[server]
                    before, began = cpu_of(pid), time.monotonic()
                    count = uvloop.run(load(port, request, options.connections, options.seconds))
                    took, used = time.monotonic() - began, cpu_of(pid) - before
                    found.setdefault((name, server), []).append((count / took, used / count * 1e6))
    print(f"{'request':24} {'server':8} {'requests/s':>10} {'us CPU':>7}")
    for (name, server), rounds in found.items():
        rate, cpu = (statistics.median(each) for each in zip(*rounds, strict=True))
        print(f"{name:24} {server:8} {rate:10,.0f} {cpu:7.1f}")
    for name in REQUESTS:
        pairs = list(zip(found[name, "aiorpc"], found[name, "fastapi"], strict=True))
        rate = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
        cpu = statistics.median(ours[1] / theirs[1] for ours, theirs in pairs)
        print(f"{name}: {rate:.2f} of FastAPI's requests/s, {cpu:.2f} of its CPU per request")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    serve: dict[str, Callable[[], Any]] = {"aiorpc": serve_aiorpc, "fastapi": serve_fastapi}
    if options.serve:
        uvloop.run(serve[options.serve]())
    else:
        measure(options)


if __name__ == "__main__":
    main()

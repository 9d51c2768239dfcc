"""
What a call through ``aiorpc.http.Gateway`` costs, beside a FastAPI endpoint that awaits the same
proxy.

    python benchmarks/gateway_calls.py                      9 rounds of 2 s, 32 connections
    python benchmarks/gateway_calls.py --broker amqp://guest:guest@localhost/ --rounds 5

A service runs in a process of its own, on RabbitMQ. Both HTTP servers run on the same uvicorn,
parser (httptools) and event loop (uvloop), in one process each, without access logs. Both check the
two arguments, call the service, and answer its result as JSON. The client is a process of its own
that keeps one request in flight on each connection. The servers take turns, and every
second round runs in reverse order. CPU is the user and system time of the HTTP server's process.
The figures are medians of the rounds; the ratio is the median of the ratios of the rounds.

Needs ``pip install -e '.[http,uvloop]' fastapi``, Linux, and RabbitMQ.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pydantic
import uvicorn
import uvloop
from contest import Broker
from fastapi import FastAPI
from http_requests import cpu_of, load

from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
from aiorpc.config import resolve
from aiorpc.http import Gateway
from aiorpc.transports import open_transport

BODY = b'{"title": "Emma", "count": 2}'
PATHS = {"gateway": "/rpc/{service}/quote", "fastapi": "/quote"}


class Quote(pydantic.BaseModel):
    title: str
    count: int = 1


def service_of(service: str) -> type:
    class Prices:
        name = service  # of its own for each run, because others may use the broker

        @rpc
        async def quote(self, title: str, count: int = 1) -> dict[str, int | str]:
            return {"title": title, "cents": 990 * count}

    return Prices


async def serve_service(broker: str, service: str) -> None:
    async with ServiceContainer(service_of(service), broker):
        print(0, flush=True)
        await asyncio.Event().wait()


async def serve_gateway(broker: str, service: str) -> None:
    await serve(Gateway(broker, services=[service_of(service)], authenticate=None))


async def serve_fastapi(broker: str, service: str) -> None:
    interface: Any = service_of(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with ClusterRpcProxy(broker) as cluster:
            app.state.prices = cluster.typed(interface)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/quote")
    async def quote(given: Quote) -> dict[str, int | str]:
        result: dict[str, int | str] = await app.state.prices.quote(given.title, given.count)
        return result

    await serve(app)


async def serve(app: Any) -> None:
    config = uvicorn.Config(app, port=0, access_log=False, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn gives no event
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


@contextmanager
def running(name: str, broker: str, service: str) -> Iterator[tuple[int, int]]:
    """Run the server *name* in a process, and yield the process id and the port."""
    command = [sys.executable, __file__, "--serve", name, "--broker", broker, "--service", service]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def measure(options: argparse.Namespace) -> None:
    broker = Broker.find(options.broker)
    service = f"bench_prices_{secrets.token_hex(4)}"
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PATHS}
    start = partial(running, broker=broker.url, service=service)
    try:
        with start("service"), start("gateway") as ours, start("fastapi") as theirs:
            servers = dict(zip(PATHS, (ours, theirs), strict=True))
            requests = {name: _request(path, service) for name, path in PATHS.items()}
            for name, (_, port) in servers.items():
                uvloop.run(load(port, requests[name], options.connections, 0.5))  # warm up
            for turn in range(options.rounds):
                for name in list(servers)[:: -1 if turn % 2 else 1]:
                    pid, port = servers[name]
                    before, began = cpu_of(pid), time.monotonic()
                    sent = load(port, requests[name], options.connections, options.seconds)
                    count = uvloop.run(sent)
                    took, used = time.monotonic() - began, cpu_of(pid) - before
                    found[name].append((count / took, used / count * 1e6))
    finally:
        uvloop.run(delete(broker.url, f"rpc-{service}"))
    print(f"{'server':8} {'requests/s':>10} {'us CPU':>7}")
    for name, rounds in found.items():
        rate, cpu = (statistics.median(each) for each in zip(*rounds, strict=True))
        print(f"{name:8} {rate:10,.0f} {cpu:7.1f}")
    pairs = list(zip(found["gateway"], found["fastapi"], strict=True))
    rate = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
    cpu = statistics.median(ours[1] / theirs[1] for ours, theirs in pairs)
    print(f"{rate:.2f} of FastAPI's requests/s, {cpu:.2f} of its CPU per request")


async def delete(broker: str, queue: str) -> None:
    async with open_transport(resolve(broker), name="benchmark") as transport:
        await transport.delete(queue)


def _request(path: str, service: str) -> bytes:
    head = (
        f"POST {path.format(service=service)} HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


def main() -> None:
    serve: dict[str, Callable[[str, str], Any]] = {
        "service": serve_service,
        "gateway": serve_gateway,
        "fastapi": serve_fastapi,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--serve", choices=serve, help=argparse.SUPPRESS)
    parser.add_argument("--service", help=argparse.SUPPRESS)
    parser.add_argument("--broker", help="URL of RabbitMQ; default: that of the environment")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve[options.serve](options.broker, options.service))
    else:
        measure(options)


if __name__ == "__main__":
    main()

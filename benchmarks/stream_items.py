"""
What an item of a stream costs, beside gRPC's server streaming.

    python benchmarks/stream_items.py                       1,000,000 items of 100 bytes, 1 round
    python benchmarks/stream_items.py --items 100000 --rounds 5 --broker amqp://guest:guest@localhost/

A server and a client, each a process of its own on uvloop, in turns: aiorpc through RabbitMQ in its
default profile, and grpc.aio, which has no broker. An item is a str of 100 characters; gRPC
sends it as UTF-8. Memory is the resident memory of both processes after a tenth of the items, and
at the end. CPU is the user and system time of both processes; RabbitMQ's is not in it.

Needs ``pip install -e '.[uvloop]' grpcio``, Linux, and RabbitMQ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import uvloop
from contest import Broker

ITEM = "x" * 100
SERVERS = ("aiorpc", "grpc")


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def said(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


async def serve_aiorpc(address: str, service: str) -> None:
    from aiorpc import ServiceContainer, rpc

    class Items:
        name = service

        @rpc
        async def items(self, n: int) -> AsyncGenerator[str]:
            for number in range(n):
                if number == n // 10:
                    said(early=resident_mb())
                yield ITEM

    async with ServiceContainer(Items, address):
        await until_the_end()


async def read_aiorpc(address: str, service: str, n: int) -> None:
    from aiorpc import ClusterRpcProxy

    async with ClusterRpcProxy(address, timeout=None) as cluster:
        await count(cluster[service]["items"].stream(n), n)


async def serve_grpc(address: str, service: str) -> None:
    import grpc

    async def items(request: bytes, context: Any) -> AsyncGenerator[bytes]:
        n = int(request)
        for number in range(n):
            if number == n // 10:
                said(early=resident_mb())
            yield ITEM.encode()

    server = grpc.aio.server()
    handlers = {"items": grpc.unary_stream_rpc_method_handler(items)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(address)
    await server.start()
    await until_the_end()
    await server.stop(None)


async def read_grpc(address: str, service: str, n: int) -> None:
    import grpc

    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        method = channel.unary_stream(f"/{service}/items", response_deserializer=bytes.decode)
        await count(method(str(n).encode()), n)


async def count(items: AsyncIterator[str], n: int) -> None:
    began, cpu, got, early = time.perf_counter(), time.process_time(), 0, 0.0
    async for item in items:
        assert item == ITEM
        got += 1
        if got == n // 10:
            early = resident_mb()
    assert got == n, got
    seconds = time.perf_counter() - began
    said(seconds=seconds, cpu=time.process_time() - cpu, early=early, late=resident_mb())


async def until_the_end() -> None:
    """Say that the server is ready, wait for the end of stdin, and say what it cost."""
    began = time.process_time()
    said(ready=True)
    await asyncio.to_thread(sys.stdin.read)
    said(cpu=time.process_time() - began, late=resident_mb())


def measure(kind: str, address: str, n: int) -> dict[str, float]:
    service = f"items_{secrets.token_hex(4)}"
    command = [sys.executable, __file__, "--kind", kind, "--service", service, "--broker", address]
    with subprocess.Popen(
        [*command, "--role", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        client = subprocess.run(
            [*command, "--role", "read", "--items", str(n)], stdout=subprocess.PIPE, check=True
        )
        out, _ = server.communicate("")
    early, late = map(json.loads, out.splitlines())
    read = json.loads(client.stdout)
    return {
        "items/s": n / read["seconds"],
        "us CPU/item, service": late["cpu"] / n * 1e6,
        "us CPU/item, caller": read["cpu"] / n * 1e6,
        "MB service, early": early["early"],
        "MB service, end": late["late"],
        "MB caller, early": read["early"],
        "MB caller, end": read["late"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--broker", help="the URL of RabbitMQ; by default that of `make servers`")
    parser.add_argument("--kind", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=("serve", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--service", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "serve":
        serve = serve_aiorpc if options.kind == "aiorpc" else serve_grpc
        uvloop.run(serve(options.broker, options.service))
    elif options.role == "read":
        read = read_aiorpc if options.kind == "aiorpc" else read_grpc
        uvloop.run(read(options.broker, options.service, options.items))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in SERVERS}
    broker = Broker.find(options.broker)
    for number in range(options.rounds):
        for kind in SERVERS if number % 2 == 0 else SERVERS[::-1]:
            address = broker.url if kind == "aiorpc" else f"127.0.0.1:{free_port()}"
            rounds[kind].append(measure(kind, address, options.items))
    print(f"{options.items:,} items of {len(ITEM)} bytes, medians of {options.rounds} round(s)")
    for name in rounds["aiorpc"][0]:
        figures = (statistics.median(each[name] for each in rounds[kind]) for kind in SERVERS)
        print(
            f"{name:24}",
            *(f"{kind} {figure:12,.2f}" for kind, figure in zip(SERVERS, figures, strict=True)),
        )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()

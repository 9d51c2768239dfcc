"""gRPC on asyncio, without a broker; JSON for messages, so that nobody has to run protoc."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from . import load


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def method_of(channel: grpc.aio.Channel, name: str) -> Any:
    return channel.unary_unary(
        f"/bench.Service/{name}", request_serializer=encode, response_deserializer=json.loads
    )


@asynccontextmanager
async def serve(options: load.Options) -> AsyncGenerator[None]:
    address = f"127.0.0.1:{options.port}"
    server = grpc.aio.server()
    async with grpc.aio.insecure_channel(address) as channel:
        ask_y = method_of(channel, "y")

        # Handlers take and give bytes: grpcio 1.85 calls a response_serializer with bytes.
        async def x(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return encode(await ask_y(json.loads(request) + "-x"))

        async def y(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return encode(json.loads(request) + "-y")

        handlers = {
            name: grpc.unary_unary_rpc_method_handler(method)
            for name, method in (("x", x), ("y", y))
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("bench.Service", handlers),)
        )
        server.add_insecure_port(address)
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


@asynccontextmanager
async def connect(options: load.Options) -> AsyncGenerator[load.Call]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{options.port}") as channel:
        await channel.channel_ready()
        method = method_of(channel, "x" if options.two_hops else "y")

        async def call(value: str) -> str:
            answer: str = await method(value)
            return answer

        yield call


if __name__ == "__main__":
    load.main(serve, connect)

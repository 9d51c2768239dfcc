"""aio-pika's own RPC, ``aio_pika.patterns.JsonRPC``, as its documentation uses it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.patterns import RPC, JsonRPC

from . import load


@asynccontextmanager
async def opened(options: load.Options) -> AsyncGenerator[RPC]:
    async with await aio_pika.connect_robust(options.broker) as connection:
        yield await JsonRPC.create(await connection.channel())


@asynccontextmanager
async def serve(options: load.Options) -> AsyncGenerator[None]:
    name_x, name_y = load.service_names(options)
    async with opened(options) as rpc:

        async def x(value: str) -> str:
            answer: str = await rpc.call(name_y, {"value": value + "-x"})
            return answer

        async def y(value: str) -> str:
            return value + "-y"

        await rpc.register(name_x, x, auto_delete=True)
        await rpc.register(name_y, y, auto_delete=True)
        yield


@asynccontextmanager
async def connect(options: load.Options) -> AsyncGenerator[load.Call]:
    name_x, name_y = load.service_names(options)
    name = name_x if options.two_hops else name_y
    async with opened(options) as rpc:

        async def call(value: str) -> str:
            answer: str = await rpc.call(name, {"value": value})
            return answer

        yield call


if __name__ == "__main__":
    load.main(serve, connect)

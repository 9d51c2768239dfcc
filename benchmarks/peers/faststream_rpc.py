"""
FastStream over RabbitMQ: ``broker.request``, its documented RPC. With ``--reply-queue``, what its
users write to have calls really in flight together: a reply queue and futures of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from faststream.rabbit import RabbitBroker, RabbitMessage, RabbitQueue

from . import load

Ask = Callable[[str, str], Awaitable[str]]


def broker_of(options: load.Options) -> RabbitBroker:
    return RabbitBroker(options.broker, log_level=logging.CRITICAL, logger=None)


def asking_by_request(broker: RabbitBroker) -> Ask:
    async def ask(queue: str, value: str) -> str:
        answer: str = await (await broker.request(value, queue, timeout=30)).decode()
        return answer

    return ask


def asking_by_reply_queue(broker: RabbitBroker, options: load.Options) -> Ask:
    replies = f"bench_{options.token}_replies_{options.role}"
    pending: dict[str, asyncio.Future[str]] = {}
    ids = itertools.count()

    async def on_reply(message: RabbitMessage) -> None:
        waiting = pending.pop(message.correlation_id, None)
        if waiting is not None:
            waiting.set_result(await message.decode())

    broker.subscriber(RabbitQueue(replies, exclusive=True))(on_reply)

    async def ask(queue: str, value: str) -> str:
        correlation_id = f"{options.role}-{next(ids)}"
        pending[correlation_id] = answer = asyncio.get_running_loop().create_future()
        await broker.publish(value, queue, reply_to=replies, correlation_id=correlation_id)
        return await answer

    return ask


def asking(broker: RabbitBroker, options: load.Options) -> Ask:
    """Gives ``ask(queue, value)``; to be made before the broker starts."""
    if options.reply_queue:
        return asking_by_reply_queue(broker, options)
    return asking_by_request(broker)


@asynccontextmanager
async def serve(options: load.Options) -> AsyncGenerator[None]:
    name_x, name_y = load.service_names(options)
    broker = broker_of(options)
    ask = asking(broker, options)

    async def x(value: str) -> str:
        return await ask(name_y, value + "-x")

    async def y(value: str) -> str:
        return value + "-y"

    broker.subscriber(RabbitQueue(name_x, auto_delete=True))(x)
    broker.subscriber(RabbitQueue(name_y, auto_delete=True))(y)
    async with broker:
        await broker.start()
        yield


@asynccontextmanager
async def connect(options: load.Options) -> AsyncGenerator[load.Call]:
    name_x, name_y = load.service_names(options)
    queue = name_x if options.two_hops else name_y
    broker = broker_of(options)
    ask = asking(broker, options)
    async with broker:
        await broker.start()
        yield lambda value: ask(queue, value)


if __name__ == "__main__":
    arguments = load.parser()
    arguments.add_argument("--reply-queue", action="store_true")
    load.main(serve, connect, arguments)

"""Large compressed bodies are decompressed in a thread; over every transport."""

from __future__ import annotations

import asyncio
import threading
import uuid
import zlib
from random import Random
from typing import Any

import pytest

from aiorpc import ServiceContainer, consume, rpc
from aiorpc.calling.client import Client
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing
from aiorpc.wire import content
from aiorpc.wire.json import encode
from aiorpc.wire.message import Exchange, Message, Queue
from aiorpc.wire.protocol import Wire
from tests.support.waiting import PATIENCE

TEXT = Random(1).randbytes(10_000).hex()


def compressed(value: Any, **properties: Any) -> Message:
    headers = {"compression": "application/x-gzip"}
    return Message(body=zlib.compress(encode(value)), headers=headers, **properties)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that decompress bodies."""
    found: list[int] = []
    real = content.decompress

    def decompress(*args: Any) -> bytes:
        found.append(threading.get_ident())
        return real(*args)

    monkeypatch.setattr(content, "decompress", decompress)
    return found


async def test_requests_and_messages_are_decompressed_in_a_thread(
    broker_config: dict[str, Any], threads: list[int]
) -> None:
    suffix = uuid.uuid4().hex[:8]
    queue = Queue(f"compressed_{suffix}", auto_delete=True)
    came: asyncio.Queue[str] = asyncio.Queue()

    class Service:
        name = f"compressed_{suffix}"

        @rpc
        async def method(self, text: str) -> str:
            came.put_nowait(text)
            return text

        @consume(queue)
        async def handle(self, text: str) -> None:
            came.put_nowait(text)

    async with (
        ServiceContainer(Service, broker_config),
        open_transport(resolve(broker_config)) as transport,
    ):
        for exchange, key, value in (
            ("", queue.name, TEXT),
            ("nameko-rpc", f"{Service.name}.method", {"args": [TEXT], "kwargs": {}}),
        ):
            await transport.publish(
                Outgoing(exchange=exchange, routing_key=key, message=compressed(value))
            )
            assert await asyncio.wait_for(came.get(), PATIENCE) == TEXT
        await transport.delete(f"rpc-{Service.name}")
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_a_reply_is_decompressed_in_a_thread(
    broker_config: dict[str, Any], threads: list[int]
) -> None:
    settings = resolve(broker_config)
    service = f"compressed_{uuid.uuid4().hex[:8]}"
    exchange = Exchange("nameko-rpc", "topic")
    async with open_transport(settings) as transport:

        def answer(request: Message) -> None:
            assert request.reply_to is not None
            reply = compressed(
                {"result": TEXT, "error": None}, correlation_id=request.correlation_id
            )
            transport.send(
                Outgoing(exchange=exchange.name, routing_key=request.reply_to, message=reply)
            )

        queue = Queue(f"rpc-{service}", exchange, f"{service}.*", auto_delete=True)
        async with (
            await transport.listen(queue, answer),
            Client(
                transport, Wire.of(settings), settings, owner="test", timeout=PATIENCE
            ) as client,
        ):
            route = client.route(service, "method")
            assert await client.handler(route)(client.new_call(route, (), {})) == TEXT
    assert len(threads) == 1
    assert threading.get_ident() not in threads

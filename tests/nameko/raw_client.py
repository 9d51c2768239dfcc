"""
A client that sends invalid messages and returns replies undecoded.

`Caller` publishes through aio-pika, which suffices for wrong bodies and properties. `send_garbled`
writes properties that no library would write, over its own socket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from pamqp import commands, frame

#: Seconds to wait for an answer. It takes 2 ms, but the machine may be busy.
PATIENCE = 10.0


@dataclass(frozen=True)
class Reply:
    """An undecoded answer."""

    message: AbstractIncomingMessage

    @property
    def body(self) -> Any:
        return json.loads(self.message.body)

    @property
    def result(self) -> Any:
        assert self.body["error"] is None, self.body
        return self.body["result"]

    @property
    def error(self) -> dict[str, Any]:
        assert self.body["result"] is None
        assert self.body["error"], "an error was expected, a result came"
        return self.body["error"]


class Caller:
    """Sends requests to one service, and receives the replies."""

    def __init__(self, channel: AbstractChannel, service: str) -> None:
        self._channel = channel
        self.service = service
        self._replies: asyncio.Queue[Reply] = asyncio.Queue()
        self.reply_to = f"raw-{service}"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Caller]:
        self._exchange = await self._channel.declare_exchange(
            "nameko-rpc", aio_pika.ExchangeType.TOPIC, durable=True
        )
        queue = await self._channel.declare_queue(exclusive=True)
        await queue.bind(self._exchange, self.reply_to)
        tag = await queue.consume(self._take, no_ack=True)
        yield self
        await queue.cancel(tag)
        await queue.delete(if_unused=False, if_empty=False)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._replies.put_nowait(Reply(message))

    async def send(self, method: str, body: bytes | Mapping[str, Any], **properties: Any) -> None:
        """Publish with properties under aio-pika's names; ``None`` omits a property."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        usual = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "reply_to": self.reply_to,
            "correlation_id": "cid",
        }
        given = {**usual, **properties}
        message = aio_pika.Message(
            body, **{name: value for name, value in given.items() if value is not None}
        )
        if given["content_type"] is None:
            message.content_type = None  # aio-pika's default is octet-stream
        await self._exchange.publish(message, f"{self.service}.{method}")

    async def reply(self) -> Reply:
        """Wait for the next reply to any request."""
        return await asyncio.wait_for(self._replies.get(), PATIENCE)

    async def ask(self, method: str, body: bytes | Mapping[str, Any], **properties: Any) -> Reply:
        await self.send(method, body, **properties)
        return await self.reply()

    def no_more(self) -> bool:
        """Return whether the test has taken every reply."""
        return self._replies.empty()


def arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the body of a valid request."""
    return {"args": args, "kwargs": kwargs}


async def send_garbled(
    url: str, exchange: str, routing_key: str, flags: int, properties: bytes, body: bytes
) -> None:
    """
    Publish a message with the properties *flags* and *properties*, and wait for its confirm.

    The broker parses only the properties that it needs for routing.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 5672)

    async def expect(*kinds: type) -> Any:
        while True:
            start = await reader.readexactly(7)
            rest = await reader.readexactly(int.from_bytes(start[3:7]) + 1)
            _, _, value = frame.unmarshal(start + rest)
            if isinstance(value, kinds):
                return value
            if isinstance(value, commands.Connection.Close | commands.Channel.Close):
                raise AssertionError(f"the broker refused: {value.reply_text}")

    def send(value: Any, channel: int = 0) -> None:
        writer.write(frame.marshal(value, channel))

    try:
        writer.write(b"AMQP\x00\x00\x09\x01")
        await expect(commands.Connection.Start)
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        send(commands.Connection.StartOk({}, "PLAIN", f"\0{user}\0{password}", "en_US"))
        tune = await expect(commands.Connection.Tune)
        send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
        send(commands.Connection.Open(unquote(parts.path[1:]) or "/"))
        await expect(commands.Connection.OpenOk)
        send(commands.Channel.Open(), 1)
        await expect(commands.Channel.OpenOk)
        send(commands.Confirm.Select(), 1)
        await expect(commands.Confirm.SelectOk)
        send(commands.Basic.Publish(exchange=exchange, routing_key=routing_key), 1)
        payload = (
            (60).to_bytes(2) + b"\0\0" + len(body).to_bytes(8) + flags.to_bytes(2) + properties
        )
        for kind, content in ((2, payload), (3, body)):
            writer.write(bytes([kind]) + b"\0\x01" + len(content).to_bytes(4) + content + b"\xce")
        await expect(commands.Basic.Ack)
        send(commands.Connection.Close(200, "", 0, 0))
        await expect(commands.Connection.CloseOk)
    finally:
        writer.close()
        await writer.wait_closed()


CONTENT_TYPE = 1 << 15
HEADERS = 1 << 13
CORRELATION_ID = 1 << 10
REPLY_TO = 1 << 9
JSON = b"\x10application/json"


def short(text: bytes) -> bytes:
    """Return *text* as a short string on the wire."""
    return bytes([len(text)]) + text


def table(content: bytes) -> bytes:
    """Return these fields as a field table on the wire."""
    return len(content).to_bytes(4) + content

"""
Publishes messages whose bytes no AMQP library would write, and writes field tables of any type.
It imports nothing of aiorpc.
"""

from __future__ import annotations

import asyncio
from struct import pack
from typing import Self
from urllib.parse import unquote, urlsplit

import pamqp.commands as spec
import pamqp.frame

__all__ = ["RawMessage", "RawPublisher", "entry", "short", "table"]

#: The properties of a message in the order of their flags; the first has bit 15.
PROPERTIES = (
    *("content_type", "content_encoding", "headers", "delivery_mode", "priority"),
    *("correlation_id", "reply_to", "expiration", "message_id", "timestamp", "type"),
    *("user_id", "app_id"),
)
#: Bytes of a body in one frame; RabbitMQ's frame_max is 131,072.
_PIECE = 100_000
#: Seconds for each answer of the broker.
_PATIENCE = 10.0
#: Class and method of ``basic.ack``, as on the wire.
_ACK = pack(">HH", 60, 80)


def short(text: bytes) -> bytes:
    """Return *text*, at most 255 bytes of any value, as a short string."""
    return bytes([len(text)]) + text


def entry(name: bytes, kind: bytes, value: bytes) -> bytes:
    """Return one entry of a field table; *kind* is the letter of its type."""
    return short(name) + kind + value


def table(*entries: bytes) -> bytes:
    joined = b"".join(entries)
    return pack(">I", len(joined)) + joined


class RawMessage:
    """A message as bytes; *properties* has the encoded value of each property, by its name."""

    def __init__(
        self, exchange: bytes, routing_key: bytes, properties: dict[str, bytes], body: bytes
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.body = body

    def frames(self) -> bytes:
        publish = pack(">HHH", 60, 40, 0) + short(self.exchange) + short(self.routing_key) + b"\0"
        flags = sum(1 << 15 - PROPERTIES.index(name) for name in self.properties)
        values = b"".join(self.properties[name] for name in PROPERTIES if name in self.properties)
        header = pack(">HHQH", 60, 0, len(self.body), flags) + values
        pieces = [self.body[at : at + _PIECE] for at in range(0, len(self.body), _PIECE)]
        return _frame(1, publish) + _frame(2, header) + b"".join(_frame(3, each) for each in pieces)


def _frame(kind: int, payload: bytes) -> bytes:
    return pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"


class RawPublisher:
    """
    Publishes one message at a time. The broker refuses a message by closing the channel or the
    connection; the publisher then connects again.

    Attributes:
        refused: the number of messages that the broker refused.
    """

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader
        self.refused = 0

    async def publish(self, message: RawMessage) -> bool:
        """Publish *message*; return whether the broker accepted it."""
        async with asyncio.timeout(_PATIENCE):
            writer = self._writer or await self._connect()
            writer.write(message.frames())
            try:
                accepted = await self._read() == _ACK
            except (OSError, asyncio.IncompleteReadError):
                accepted = False
        if not accepted:
            self.refused += 1
            self.close()
        return accepted

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def _connect(self) -> asyncio.StreamWriter:
        host, port = self._url.hostname, self._url.port
        self._reader, writer = await asyncio.open_connection(host, port)
        vhost = unquote(self._url.path[1:]) or "/"
        login = f"\0{self._url.username}\0{self._url.password}"
        writer.write(b"AMQP\0\0\x09\x01")
        start = spec.Connection.StartOk({}, "PLAIN", login, "en_US")
        tuned = spec.Connection.TuneOk(10, 131_072, 0)
        for number, answers in (
            (0, [start]),
            (0, [tuned, spec.Connection.Open(vhost)]),
            (1, [spec.Channel.Open()]),
            (1, [spec.Confirm.Select()]),
        ):
            await self._read()
            writer.write(b"".join(pamqp.frame.marshal(each, number) for each in answers))
        await self._read()
        self._writer = writer
        return writer

    async def _read(self) -> bytes:
        """Return class and method of the next frame that is not a heartbeat."""
        while True:
            head = await self._reader.readexactly(7)
            size = int.from_bytes(head[3:], "big") + 1
            payload = await self._reader.readexactly(size)
            if head[0] == 1:
                return payload[:4]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

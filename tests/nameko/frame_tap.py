"""
A TCP relay between a client and RabbitMQ that records the client's frames.

Only the frames show the property flags and the type tags of headers that a client wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pamqp import frame
from pamqp.commands import Basic

_METHOD, _HEADER, _BODY = 1, 2, 3


@dataclass
class Published:
    """One `basic.publish` with its content: *header* is the payload of the content header frame."""

    method: Basic.Publish
    header: bytes = b""
    body: bytes = b""

    @property
    def flags_and_properties(self) -> bytes:
        return self.header[12:]


@dataclass
class Tap:
    """The frames that clients of *url* sent."""

    url: str
    methods: list[Any] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)

    def said(self, kind: type) -> list[Any]:
        return [method for method in self.methods if isinstance(method, kind)]

    def to(self, routing_key: str) -> Published:
        (found,) = [one for one in self.published if one.method.routing_key == routing_key]
        return found


@asynccontextmanager
async def tapped(url: str) -> AsyncIterator[Tap]:
    """Relay to the broker at *url*. Clients connect to the tap's ``url``."""
    parts = urlsplit(url)
    relays: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(
            parts.hostname, parts.port or 5672
        )
        relays.add(asyncio.create_task(_listen(reader, broker_writer, tap)))
        relays.add(asyncio.create_task(_copy(broker_reader, writer)))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    credentials = parts.netloc.rpartition("@")[0] or "guest:guest"
    tap = Tap(f"amqp://{credentials}@127.0.0.1:{port}{parts.path}")
    try:
        yield tap
    finally:
        server.close()
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    finally:
        writer.close()


async def _listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tap: Tap) -> None:
    try:
        writer.write(await reader.readexactly(8))  # the protocol header
        current: dict[int, Published] = {}
        while True:
            start = await reader.readexactly(7)
            rest = await reader.readexactly(int.from_bytes(start[3:7]) + 1)
            writer.write(start + rest)
            _note(tap, current, start[0], int.from_bytes(start[1:3]), start + rest)
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


def _note(tap: Tap, current: dict[int, Published], kind: int, channel: int, whole: bytes) -> None:
    payload = whole[7:-1]
    if kind == _METHOD:
        _, _, method = frame.unmarshal(whole)
        tap.methods.append(method)
        if isinstance(method, Basic.Publish):
            current[channel] = Published(method)
            tap.published.append(current[channel])
    elif kind == _HEADER:
        current[channel].header = payload
    elif kind == _BODY:
        current[channel].body += payload

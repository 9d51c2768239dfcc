"""
Connections that tests can break, over any transport. ``memory://`` has switches for it. AMQP goes
through a TCP proxy in this process, so its transport sees a bad network.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from aiorpc.config import resolve
from aiorpc.testing.connections import cut
from aiorpc.transports import open_transport
from aiorpc.transports.base import State, Transport
from aiorpc.transports.memory.transport import MemoryTransport


class Link(ABC):
    """A transport, and the means to break its connection."""

    transport: Transport

    async def break_connection(self) -> None:
        """Break it; return when the transport has noticed. The next attempt to connect succeeds."""
        async with self.loss():
            self._break(stay=False)

    async def cut(self) -> None:
        """Break it, and let no connection through until ``heal``."""
        async with self.loss():
            self._break(stay=True)

    @asynccontextmanager
    async def loss(self) -> AsyncIterator[None]:
        """Wait at the end until the transport has noticed the loss, if it was connected."""
        if self.transport.state in (State.CONNECTED, State.BLOCKED):
            noticed = asyncio.ensure_future(reaches(self.transport, State.CONNECTING))
            await asyncio.sleep(0)
            yield
            await noticed
        else:
            yield

    @abstractmethod
    def _break(self, *, stay: bool) -> None: ...

    @abstractmethod
    def heal(self) -> None:
        """Undo ``cut``."""

    @abstractmethod
    def mute(self) -> None:
        """Let nothing, or no confirms, arrive from the broker until the connection breaks."""

    async def reconnected(self) -> None:
        """Return when the transport is connected."""
        await reaches(self.transport, State.CONNECTED)


class MemoryLink(Link):
    """A transport of ``memory://``, which tests can cut."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = self._memory = transport

    def _break(self, *, stay: bool) -> None:
        self._restore = cut(self._memory)
        if not stay:
            asyncio.get_running_loop().call_later(0.005, self.heal)

    def heal(self) -> None:
        self._restore()

    def mute(self) -> None:
        self._memory.channel.confirming = False


class ProxiedLink(Link):
    """A TCP proxy between a transport and its broker."""

    def __init__(self, transport: Transport, host: str, port: int) -> None:
        self.transport = transport
        self._broker = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._muted = False

    def _break(self, *, stay: bool) -> None:
        self._open = not stay
        self._muted = False
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        self._open = True

    def mute(self) -> None:
        self._muted = True

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        broker_reader, broker_writer = await asyncio.open_connection(*self._broker)
        ends = {writer, broker_writer}
        self._writers |= ends
        await asyncio.gather(
            self._pass_on(reader, broker_writer, mutable=False),
            self._pass_on(broker_reader, writer, mutable=True),
        )
        self._writers -= ends

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, mutable: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 18):
                if not (mutable and self._muted):
                    writer.write(data)
                    await writer.drain()
        writer.close()


@asynccontextmanager
async def breakable(config: Mapping[str, Any]) -> AsyncIterator[Link]:
    """Make a link with a transport for *config*, not started yet; close both at the end."""
    url = urlsplit(config["AMQP_URI"])
    if url.scheme == "memory":
        memory = open_transport(resolve(config))
        assert isinstance(memory, MemoryTransport)
        try:
            yield MemoryLink(memory)
        finally:
            await memory.aclose()
        return
    links: list[ProxiedLink] = []
    server = await asyncio.start_server(lambda r, w: links[0].accept(r, w), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = url.netloc.rpartition("@")[0]
    address = url._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
    transport = open_transport(resolve({**config, "AMQP_URI": address}))
    links.append(ProxiedLink(transport, url.hostname or "localhost", url.port or 5672))
    try:
        yield links[0]
    finally:
        await transport.aclose()
        links[0]._break(stay=True)
        server.close()
        await server.wait_closed()


async def reaches(transport: Transport, state: State) -> None:
    """Return when *transport* is in *state*."""
    reached = asyncio.Event()
    if transport.state is state:
        return
    stop = transport.on_state(lambda new: reached.set() if new is state else None)
    try:
        async with asyncio.timeout(10):
            await reached.wait()
    finally:
        stop()

"""
A TCP proxy between a transport and RabbitMQ that knows where frames begin. It can cut the broker's
bytes into small pieces, add frames, stop the traffic and hang up. It can speak TLS to the
transport. It imports nothing of aiorpc.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

#: Class and method of ``connection.tune``, as on the wire.
_TUNE = b"\x00\x0a\x00\x1e"


class Proxy:
    """
    Attributes:
        url: where a transport connects to.
        sent: all bytes that transports have sent so far.
        piece: size in bytes of the pieces in which the broker's bytes go on; 0: as they come.
        muted: whether to hold back all bytes of the broker.
        deaf: whether to hold back all bytes of the transport.
        drops: tells which frames of the broker to drop.
        reading: clear it to read nothing more from transports.
        poison: bytes of a transport that the broker seems to refuse: it gets *last_words*, and the
            broker's connection ends.
        last_words: frames.
        channel_max: the channels per connection that the broker seems to permit; 0: as it does.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "localhost", parts.port or 5672
        self.url = url
        self.sent = b""
        self.piece = 0
        self.muted = False
        self.deaf = False
        self.drops: Callable[[bytes], bool] = lambda frame: False
        self.reading = asyncio.Event()
        self.reading.set()
        self.poison = self.last_words = b""
        self.channel_max = 0
        self.connections = 0
        self._clients: set[asyncio.StreamWriter] = set()
        self._brokers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def inject(self, frames: bytes) -> None:
        """Send *frames* to the transports, as if they came from the broker."""
        for client in self._clients:
            client.write(frames)

    def say(self, frames: bytes) -> None:
        """Send *frames* to the broker, as if an idle transport did."""
        for broker in self._brokers:
            broker.write(frames)

    def hang_up(self) -> None:
        """Break every connection."""
        for client in self._clients:
            client.transport.abort()

    async def quiet(self) -> None:
        """Wait at most 0.2 s until every connection has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while self._clients or self._brokers:
                    await asyncio.sleep(0)

    async def accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        broker_reader, broker = await asyncio.open_connection(self.host, self.port)
        self._clients.add(client)
        self._brokers.add(broker)
        try:
            await asyncio.gather(
                self._up(reader, broker, client), self._down(broker_reader, client)
            )
        finally:
            self._clients.discard(client)
            self._brokers.discard(broker)

    async def _up(
        self,
        reader: asyncio.StreamReader,
        broker: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.reading.wait()
                self.sent += data
                if self.poison and self.poison in data:
                    client.write(self.last_words)
                    break
                if not self.deaf:
                    broker.write(data)
        broker.close()

    async def _down(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(7)
                frame = head + await reader.readexactly(int.from_bytes(head[3:], "big") + 1)
                if self.channel_max and frame[0] == 1 and frame[7:11] == _TUNE:
                    frame = frame[:11] + self.channel_max.to_bytes(2, "big") + frame[13:]
                if not self.muted and not self.drops(frame):
                    await self._pass_on(frame, client)
        client.close()

    async def _pass_on(self, frame: bytes, client: asyncio.StreamWriter) -> None:
        for start in range(0, len(frame), self.piece or len(frame)):
            client.write(frame[start : start + (self.piece or len(frame))])
            if self.piece:
                await asyncio.sleep(0)  # so that the pieces arrive one by one


@asynccontextmanager
async def proxied(
    url: str, *, tls: ssl.SSLContext | None = None, proxy: Proxy | None = None
) -> AsyncIterator[Proxy]:
    """A proxy to the broker at *url*; its ``url`` has the same user, password and vhost."""
    proxy = proxy or Proxy(url)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    proxy.url = parts._replace(
        scheme="amqps" if tls else "amqp", netloc=f"{user}@localhost:{port}"
    ).geturl()
    try:
        yield proxy
    finally:
        proxy.hang_up()
        await proxy.quiet()
        server.close()
        await server.wait_closed()

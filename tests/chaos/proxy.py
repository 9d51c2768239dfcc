"""
A TCP proxy that breaks: connections end with a RST or a FIN, fall silent for ever, or are slow.

It knows nothing of AMQP (`tests/support/amqp_proxy.py` does). It listens on loopback alone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class _Pair:
    """One connection: the client's half, the server's half, and what is between them."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        #: Nothing goes through any more, and neither side hears of the other's end.
        self.dark = False

    def reset(self) -> None:
        """End both halves with a RST."""
        for half in (self.client, self.server):
            with suppress(OSError):
                half.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            half.transport.abort()

    def finish(self) -> None:
        """End both halves with a FIN, behind what was written."""
        self.client.close()
        self.server.close()


class CuttingProxy:
    """
    Attributes:
        url: where to connect to instead of the URL it was made of.
        refusing: new connections are reset at once.
        delay: seconds by which every piece is held up, in both directions.
        opened: how many connections there have been.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._upstream = (parts.hostname or "localhost", parts.port or 5672)
        self.url = url
        self.refusing = False
        self.delay = 0.0
        self.opened = 0
        self._pairs: set[_Pair] = set()

    def cut_with_rst(self) -> None:
        for pair in list(self._pairs):
            pair.reset()

    def cut_with_fin(self) -> None:
        for pair in list(self._pairs):
            pair.finish()

    def go_dark(self) -> None:
        """
        Let nothing through the connections there are: to both sides they look alive. New ones work,
        as after a firewall has forgotten its table.
        """
        for pair in self._pairs:
            pair.dark = True

    async def accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            if self.refusing:
                raise ConnectionRefusedError
            upstream, server = await asyncio.open_connection(*self._upstream)
        except OSError:  # the server is down: so are we
            client.transport.abort()
            return
        self.opened += 1
        pair = _Pair(client, server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pump(pair, reader, server), self._pump(pair, upstream, client)
            )
            if pair.dark:
                await asyncio.Event().wait()  # the other side must not hear of it
        finally:
            self._pairs.discard(pair)
            pair.reset() if pair.dark else pair.finish()

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if not pair.dark:
                    writer.write(data)
                    await writer.drain()
        if not pair.dark:
            writer.close()


@asynccontextmanager
async def cutting_proxy(url: str) -> AsyncIterator[CuttingProxy]:
    """A proxy to the broker at *url*; its ``url`` has the same user, password, vhost and query."""
    proxy = CuttingProxy(url)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.accept(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    proxy.url = parts._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut_with_rst()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()

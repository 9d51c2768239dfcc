"""
A TCP proxy that breaks connections: by a RST, by a FIN, by silence or by delay.

It knows no AMQP (`tests/support/amqp_proxy.py` does). It listens only on loopback.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class _Pair:
    """One connection: the client's half, the server's half, and their state."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        #: Nothing goes through any more, and neither side sees the other one close.
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
        """End both halves with a FIN, after what was written."""
        self.client.close()
        self.server.close()


class CuttingProxy:
    """
    Several URLs are nodes: the proxy balances, by giving each connection to the next node that
    accepts one.

    Attributes:
        url: the URL of the proxy, for clients.
        refusing: whether to reset new connections at once.
        delay: seconds by which to delay every piece, in both directions.
        opened: how many connections have been opened so far.
    """

    def __init__(self, url: str, *others: str) -> None:
        parts = [urlsplit(each) for each in (url, *others)]
        self._upstreams = [(each.hostname or "localhost", each.port or 5672) for each in parts]
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
        Let nothing through the present connections, which look alive to both sides. New connections
        work. A firewall that lost its table does the same.
        """
        for pair in self._pairs:
            pair.dark = True

    async def accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            if self.refusing:
                raise ConnectionRefusedError
            upstream, server = await self._connected()
        except OSError:  # the server is down: hang up too
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
                await asyncio.Event().wait()  # the other side must not see it close
        finally:
            self._pairs.discard(pair)
            pair.reset() if pair.dark else pair.finish()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in self._upstreams[1:]:
            self._upstreams.append(self._upstreams.pop(0))
            with suppress(OSError):
                return await asyncio.open_connection(*self._upstreams[-1])
        self._upstreams.append(self._upstreams.pop(0))
        return await asyncio.open_connection(*self._upstreams[-1])

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
async def cutting_proxy(url: str, *others: str) -> AsyncIterator[CuttingProxy]:
    """A proxy to the broker at *url*; its ``url`` has the same user, password, vhost and query."""
    proxy = CuttingProxy(url, *others)
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

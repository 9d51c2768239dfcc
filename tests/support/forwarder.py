"""A network between a service and its database, which a test can break, or listen to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL


class Forwarder:
    """
    Forwards to the server of *url*.

    Attributes:
        said: the bytes that its clients have sent.
        open: while it is cleared, the network swallows every byte and stays connected; that of
            the connections made since :meth:`forget_connections`.
    """

    def __init__(self, url: URL) -> None:
        self.said = b""
        self.open = asyncio.Event()
        self.open.set()
        self._target = (url.host or "127.0.0.1", url.port or 0)
        self._writers: list[asyncio.StreamWriter] = []

    def forget_connections(self) -> None:
        """Swallow every byte of the connections made so far, as a firewall does; pass new ones."""
        self.open.clear()
        self.open = asyncio.Event()
        self.open.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Forward inside the block; give the port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        may_pass = self.open
        back, forth = await asyncio.open_connection(*self._target)
        self._writers += [writer, forth]
        await asyncio.gather(
            self._pump(reader, forth, may_pass, overhear=True), self._pump(back, writer, may_pass)
        )

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        may_pass: asyncio.Event,
        *,
        overhear: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if overhear:
                    self.said += data
                await may_pass.wait()
                writer.write(data)
            writer.close()

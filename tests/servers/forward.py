"""Forwards a port of loopback to the same port of loopback in a network namespace.

    python tests/servers/forward.py NAMESPACE PORT

A socket belongs to the namespace in which it was made, whatever its process does later.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys
from contextlib import suppress

_CLONE_NEWNET = 0x40000000


def enter(namespace: str) -> None:
    """Make further sockets of this thread in `namespace`. `os.setns` is new in Python 3.12."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    finally:
        os.close(handle)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _serve(listener: socket.socket, port: int) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pump(reader, server), _pump(upstream, writer))

    async with await asyncio.start_server(accept, sock=listener) as server:
        await server.serve_forever()


if __name__ == "__main__":
    namespace, port = sys.argv[1], int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", port))
    enter(namespace)
    asyncio.run(_serve(listener, port))

"""
Connects a TCP socket to a host name, which may have several addresses. Does I/O; imports nothing of
ours.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

__all__ = ["connect_to_host"]

#: Seconds after which the next address is tried beside those that have not answered (RFC 8305, 5).
_NEXT_AFTER = 0.25


async def connect_to_host(host: str, port: int) -> socket.socket:
    """
    Return a socket that is connected to the first address of *host* that answers. An address that
    swallows packets delays the next one by 0.25 s. It does not end by itself: the caller bounds it.

    uvloop (0.23) does not have asyncio's ``happy_eyeballs_delay``.

    Raises:
        OSError: *host* has no address, or every address refused.
    """
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_STREAM
    # For a str, Python imports its IDNA codec: 31 million instructions, 5 % of a start.
    name = host.encode() if host.isascii() else host
    try:  # an IP address needs no resolver, and so no thread
        addresses = socket.getaddrinfo(name, port, type=kind, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        addresses = await loop.getaddrinfo(name, port, type=kind)
    attempts: list[asyncio.Task[socket.socket]] = []
    running: set[asyncio.Task[socket.socket]] = set()
    try:
        while True:
            if len(attempts) < len(addresses):
                attempts.append(asyncio.create_task(_connect(*addresses[len(attempts)])))
                running.add(attempts[-1])
            if not running:
                raise _failure(attempts)
            patience = _NEXT_AFTER if len(attempts) < len(addresses) else None
            done, running = await asyncio.wait(
                running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in attempts:
                if attempt in done and attempt.exception() is None:
                    attempts.remove(attempt)
                    return attempt.result()
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_discard)


def _failure(attempts: list[asyncio.Task[socket.socket]]) -> BaseException:
    failures = [failure for each in attempts if (failure := each.exception()) is not None]
    if len(failures) == 1:
        return failures[0]
    return OSError(f"no address answers: {', '.join(map(str, failures))}")


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that another has overtaken, or that was cancelled."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect(family: int, kind: int, protocol: int, _: str, address: Any) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.BaseEventLoop):  # uvloop imports the codec for a str
            address = (address[0].encode(), *address[1:])
        await loop.sock_connect(one, address)
    except BaseException:
        one.close()
        raise
    return one

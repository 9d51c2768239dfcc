"""
Opens the sockets that a process listens on, or gets them from the process that supervises it. The
supervisor keeps them open, so no connection is refused while it replaces a worker process.

Opens sockets and resolves names; accepts no connections.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from .blocking import in_thread
from .config import parse_address
from .exceptions import ConfigurationError

__all__ = ["bind", "get_from", "is_shared", "listening_socket"]

#: Connections that may wait for a process to accept them, as in uvicorn.
BACKLOG = 2048

#: Gets the socket for an address and the name of its setting from the process that supervises this
#: one; None: nobody does.
_get: Callable[[str, str], Awaitable[socket.socket]] | None = None


def get_from(supervisor: Callable[[str, str], Awaitable[socket.socket]] | None) -> None:
    """Let *supervisor* give this process the sockets that it listens on."""
    global _get
    _get = supervisor


def is_shared() -> bool:
    """Whether other processes accept connections on the sockets of this process too."""
    return _get is not None


async def listening_socket(address: str | int, key: str) -> socket.socket:
    """
    Return a socket that listens on *address*, ``[address:]port``, the value of *key*.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    return await (bind(address, key) if _get is None else _get(str(address), key))


async def bind(address: str | int, key: str) -> socket.socket:
    """
    Open a socket that listens on *address*, ``[address:]port``, the value of *key*.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    host, port = parse_address(address, key)
    try:
        found = await in_thread(
            socket.getaddrinfo, host or "0.0.0.0", port, type=socket.SOCK_STREAM
        )
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"{key} {address}: cannot listen there: {error.strerror or error}. Set another "
            "address, or stop the program that uses it"
        ) from error

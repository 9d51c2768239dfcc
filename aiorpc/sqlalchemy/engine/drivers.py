"""
Direct access to asyncpg, aiomysql and aiosqlite, for features that SQLAlchemy does not offer.

Awaits the drivers. Imports a driver only at its first use, because the others may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Mapping
from datetime import datetime, time
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ...exceptions import ConfigurationError
from .zones import without_zone

__all__ = [
    "Statement",
    "abort",
    "connect_aiomysql",
    "default_arguments",
    "driver_of",
    "kill",
    "looks_alive",
    "note_server",
    "roll_back_interrupted",
    "unfinished_statement",
]


def looks_alive(connection: Any) -> bool:
    """Whether the driver reports an open connection. The server is not asked."""
    match driver_of(connection):
        case "asyncpg":
            return not connection.is_closed()
        case "aiomysql":
            reader = connection._reader
            return reader is not None and not reader.at_eof() and reader.exception() is None
        case "aiosqlite":
            return True
    return False


def abort(connection: Any) -> None:
    """Close the socket of *connection* at once, and send nothing. A running statement fails."""
    match driver_of(connection):
        case "asyncpg":
            connection.terminate()
        case "aiomysql" if connection._writer is not None:
            connection._writer.transport.abort()


def driver_of(connection: Any) -> str:
    """The name of the driver's package that has the class of *connection*."""
    return type(connection).__module__.partition(".")[0]


async def roll_back_interrupted(connection: Any) -> None:
    """End the statement of aiosqlite's *connection*, and roll back its transaction."""
    with contextlib.suppress(ValueError, sqlite3.Error):  # closed already, or nothing to roll back
        await connection.interrupt()
        await connection.rollback()


# MariaDB and MySQL continue a statement after the client closed the socket. A cancelled aiomysql
# closes its socket; asyncpg asks the server to stop. So for aiomysql we ask the server here.


class Statement(NamedTuple):
    """A statement that a server still runs, after aiomysql closed the connection."""

    #: The server's own host name and port, from ``@@hostname`` and ``@@port``.
    server: tuple[Any, ...]
    thread_id: int


#: The server of each connection. Two servers behind one address may use the same thread ids.
_servers: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()


def note_server(connection: Any, _: object = None) -> None:
    """Remember the server of *connection*, a new connection of aiomysql."""
    # A server with MySQL's protocol may not have these variables.
    with contextlib.suppress(Exception):
        _servers[connection.driver_connection] = _server_of(connection)


def unfinished_statement(connection: Any) -> Statement | None:
    """The statement that the server still runs after aiomysql closed *connection*, or None."""
    server = _servers.get(connection) if driver_of(connection) == "aiomysql" else None
    if server is None or getattr(connection, "_close_reason", None) is None:
        return None
    return Statement(server, connection.thread_id())


def kill(connection: Any, statement: Statement) -> None:
    """End *statement* and its transaction over *connection*, if both have the same server."""
    if _server_of(connection) == statement.server:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(f"KILL {statement.thread_id:d}")


def _server_of(connection: Any) -> tuple[Any, ...]:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SELECT @@hostname, @@port")
        return tuple(cursor.fetchone())


# Corrections of aiomysql 0.3.


async def connect_aiomysql(*args: Any, tls_for: str | None = None, **kwargs: Any) -> Any:
    """
    Connect like ``aiomysql.connect``. Require TLS if *tls_for* is not None.

    aiomysql alone continues without TLS, and without a warning, if the server has no TLS. In
    aiomysql, ``connect_timeout`` bounds only the TCP connection; here it bounds the handshake too.

    Args:
        tls_for: the place in the configuration that requires TLS, for the error's text.

    Raises:
        ConfigurationError: the server has no TLS. The password was not sent. TimeoutError: the
        server did not answer within ``connect_timeout`` seconds.
    """
    connection = _connection_class()(*args, **kwargs)
    connection.tls_for = tls_for
    try:
        async with asyncio.timeout(connection.connect_timeout):
            await connection._connect()
    except BaseException:
        connection.close()  # a cancelled aiomysql leaves its socket open
        raise
    return connection


#: Seconds to connect by default. The default of asyncpg is 60 s; aiomysql has no limit.
_CONNECT_TIMEOUT = 10.0


def default_arguments(driver: str) -> Mapping[str, Any]:
    """The default arguments for a connection of *driver*. The configuration may override them."""
    match driver:
        case "asyncpg":
            return {"timeout": _CONNECT_TIMEOUT}
        case "aiomysql":
            return {"connect_timeout": _CONNECT_TIMEOUT, "async_creator_fn": connect_aiomysql}
    return {}


#: The bit for TLS in the capabilities of a MySQL server.
_CLIENT_SSL = 1 << 11


@functools.cache
def _connection_class() -> Any:
    from aiomysql.connection import Connection  # type: ignore[import-untyped]

    class MendedConnection(Connection):  # type: ignore[misc]
        __module__ = Connection.__module__  # see driver_of

        tls_for: str | None

        async def _request_authentication(self) -> None:
            if self.tls_for and not self.server_capabilities & _CLIENT_SSL:
                raise ConfigurationError(
                    f"{self.tls_for} requires TLS, but the server, or a proxy in between, offers "
                    "none. Set up TLS on the server, remove the ssl arguments from the URL, or "
                    "write ssl_mode=preferred, which connects without TLS then"
                )
            await super()._request_authentication()

        def escape(self, obj: Any) -> Any:
            match obj:
                case bytes():  # aiomysql 0.3 calls a function that PyMySQL 1.2 removed
                    return f"_binary X'{obj.hex()}'"
                case datetime() | time():  # PyMySQL drops the zone
                    obj = without_zone(obj)
            return super().escape(obj)

    return MendedConnection

"""
What SQLAlchemy does not ask of the drivers: asyncpg, aiomysql, aiosqlite. Imports none of them
before it is used.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ...exceptions import ConfigurationError

__all__ = [
    "Statement",
    "broken_off",
    "connect_aiomysql",
    "driver_of",
    "kill",
    "looks_alive",
    "note_server",
    "roll_back_interrupted",
]


def looks_alive(connection: Any) -> bool:
    """Whether the driver, without asking the server, knows of no end of the connection."""
    match driver_of(connection):
        case "asyncpg":
            return not connection.is_closed()
        case "aiomysql":
            reader = connection._reader
            return reader is not None and not reader.at_eof() and reader.exception() is None
        case "aiosqlite":
            return True
    return False


def driver_of(connection: Any) -> str:
    return type(connection).__module__.partition(".")[0]


async def roll_back_interrupted(connection: Any) -> None:
    """End what aiosqlite's *connection* does, and its transaction."""
    with contextlib.suppress(ValueError, sqlite3.Error):  # it is closed already, or in no state to
        await connection.interrupt()
        await connection.rollback()


# MariaDB and MySQL go on with a statement when its connection is cut. aiomysql cuts it when it is
# cancelled, where asyncpg asks the server to stop, so this is done here.


class Statement(NamedTuple):
    """What a connection was doing when it was cut."""

    #: The name and the port of the server, by which it knows itself.
    server: tuple[Any, ...]
    thread_id: int


#: Two servers behind one address give the same ids.
_servers: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()


def note_server(connection: Any, _: object = None) -> None:
    """Remember which server aiomysql's *connection*, just opened, leads to."""
    with contextlib.suppress(Exception):  # what speaks MySQL's protocol may not know its name
        _servers[connection.driver_connection] = _server_of(connection)


def broken_off(connection: Any) -> Statement | None:
    """What goes on at the server, if aiomysql's *connection* was cut in the middle of something."""
    server = _servers.get(connection) if driver_of(connection) == "aiomysql" else None
    if server is None or getattr(connection, "_close_reason", None) is None:
        return None
    return Statement(server, connection.thread_id())


def kill(connection: Any, statement: Statement) -> None:
    """End *statement*, and the transaction around it, over another connection to its server."""
    if _server_of(connection) == statement.server:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(f"KILL {statement.thread_id:d}")


def _server_of(connection: Any) -> tuple[Any, ...]:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SELECT @@hostname, @@port")
        return tuple(cursor.fetchone())


# What aiomysql itself does not do, or not any more.


async def connect_aiomysql(*args: Any, tls_for: str | None = None, **kwargs: Any) -> Any:
    """
    ``aiomysql.connect``; by TLS or not at all, if *tls_for* names what asks for it. aiomysql alone
    uses TLS where the server offers it, and else says nothing and goes on.

    Raises:
        ConfigurationError: the server offers no TLS. No password has been sent.
    """
    connection = _connection_class()(*args, **kwargs)
    connection.tls_required = tls_for is not None
    try:
        await connection._connect()
    except _NoTls:
        raise ConfigurationError(
            f"{tls_for} asks for TLS, and the server offers none, or somebody on the way says so: "
            "set it up there, take the ssl arguments out of the URL, or write ssl_mode=preferred, "
            "which goes on without"
        ) from None
    return connection


class _NoTls(Exception):
    pass


#: MySQL's bit for it, in what a server says it can do.
_CLIENT_SSL = 1 << 11


@functools.cache
def _connection_class() -> Any:
    from aiomysql.connection import Connection  # type: ignore[import-untyped]

    class MendedConnection(Connection):  # type: ignore[misc]
        __module__ = Connection.__module__  # see driver_of

        tls_required = False

        async def _request_authentication(self) -> None:
            if self.tls_required and not self.server_capabilities & _CLIENT_SSL:
                raise _NoTls
            await super()._request_authentication()

        def escape(self, obj: Any) -> Any:
            # aiomysql 0.3 calls a function for bytes that PyMySQL 1.2 does not have any more.
            return f"_binary X'{obj.hex()}'" if isinstance(obj, bytes) else super().escape(obj)

    return MendedConnection

"""
What SQLAlchemy does not ask of the drivers: asyncpg, aiomysql, aiosqlite. Imports none of them.
"""

from __future__ import annotations

import contextlib
from typing import Any

__all__ = ["driver_of", "interrupt", "looks_alive"]


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


async def interrupt(connection: Any) -> None:
    with contextlib.suppress(ValueError):  # it is closed already
        await connection.interrupt()

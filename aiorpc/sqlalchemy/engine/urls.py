"""
A database URL as people write it for sync SQLAlchemy, and as its asyncio side needs it.

Text in, values out: no connection is made here. Nothing that this file raises or returns for people
to read holds a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ...config import redact_url
from ...exceptions import ConfigurationError
from ..schemas.arguments import aiomysql_arguments, asyncpg_arguments, sqlite_arguments

__all__ = ["DatabaseUrl", "parse_database_url"]

# What stands before the "+", and the driver that is awaited when none is named.
_DRIVERS = {
    "postgresql": "asyncpg",
    "mysql": "aiomysql",
    "mariadb": "aiomysql",
    "sqlite": "aiosqlite",
}
# heroku's spelling, which SQLAlchemy dropped in 1.4
_OTHER_NAMES = {"postgres": "postgresql", "pgsql": "postgresql", "sqlite3": "sqlite"}

# Drivers that cannot be awaited, as they stand in the configuration of Nameko services.
_SYNC_DRIVERS = frozenset(
    {"psycopg2", "psycopg2cffi", "pg8000"}
    | {"pymysql", "mysqldb", "mysqlconnector", "mariadbconnector", "cymysql"}
    | {"pysqlite"}
)

_EXTRAS = {"asyncpg": "postgresql", "aiomysql": "mysql", "aiosqlite": "sqlite"}


@dataclass(frozen=True, repr=False)
class DatabaseUrl:
    """What ``create_async_engine`` takes: its URL, and what its driver takes beside it."""

    url: URL
    connect_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def driver(self) -> str:
        """The name of the driver: ``asyncpg``, ``aiomysql``, ``aiosqlite``, ``psycopg``, ..."""
        return self.url.drivername.partition("+")[2]

    @property
    def extra(self) -> str | None:
        """The extra of aiorpc-amqp that installs the driver, if there is one."""
        return _EXTRAS.get(self.driver)

    @property
    def in_memory(self) -> bool:
        """Whether it is a SQLite database that lives as long as its last connection."""
        return self.driver == "aiosqlite" and self.url.database in (None, "", ":memory:")

    def __str__(self) -> str:
        return redact_url(self.url.render_as_string(hide_password=True))

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"


def parse_database_url(text: str, where: str = "the database URL") -> DatabaseUrl:
    """
    Translate *text* to an asyncio driver and to the arguments that it knows.

    ``postgres://`` and a bare ``postgresql://`` go to asyncpg, ``mysql://`` and ``mariadb://`` to
    aiomysql, ``sqlite://`` to aiosqlite. A driver that is named (``+psycopg``, ``+asyncmy``) is
    kept, unless it cannot be awaited (``+psycopg2``, ``+pymysql``): then the one above is taken.

    Args:
        where: what holds the URL, for messages.

    Raises:
        ConfigurationError: it is no URL, or has an argument that the driver does not know.
    """
    url = _with_async_driver(_parse(text, where), where)
    driver = url.drivername.partition("+")[2]
    if driver == "asyncpg":
        query, connect_args = asyncpg_arguments(url.query, where)
    elif driver == "aiomysql":
        query, connect_args = aiomysql_arguments(url.query, where)
    elif driver == "aiosqlite":
        query, connect_args = sqlite_arguments(url.query, where)
    else:  # somebody chose it, and knows what it takes
        query, connect_args = dict(url.query), {}
    return DatabaseUrl(url.set(query=query), connect_args)


def _parse(text: str, where: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        # Their texts may quote a piece of the password.
        raise ConfigurationError(
            f"{where} is no database URL: {redact_url(text) if '://' in text else '(hidden)'}; it "
            "looks like postgresql://user:password@host:5432/database, with what is special in a "
            "password written as %40 for @, %2F for /, %3A for :"
        ) from None


def _with_async_driver(url: URL, where: str) -> URL:
    backend, _, driver = url.drivername.partition("+")
    backend = _OTHER_NAMES.get(backend, backend)
    if not driver or driver in _SYNC_DRIVERS:
        if backend not in _DRIVERS:
            raise ConfigurationError(
                f"{where} names no driver that can be awaited: write {backend}+DRIVER://..., for "
                "example mssql+aioodbc:// or oracle+oracledb_async://; without a driver aiorpc "
                f"knows {', '.join(sorted(_DRIVERS))}"
            )
        driver = _DRIVERS[backend]
    return url.set(drivername=f"{backend}+{driver}")

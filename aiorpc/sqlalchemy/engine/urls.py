"""
Translates a database URL of sync SQLAlchemy into a URL of asyncio SQLAlchemy.

Awaits nothing, and opens no connection. Error texts and ``repr`` hide passwords.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ...config import redact_url
from ...exceptions import ConfigurationError
from .url_arguments import aiomysql_arguments, asyncpg_arguments, sqlite_arguments

__all__ = ["DatabaseUrl", "parse_database_url"]

# The default asyncio driver for each kind of database (the part before the "+" of a URL).
_DRIVERS = {
    "postgresql": "asyncpg",
    "mysql": "aiomysql",
    "mariadb": "aiomysql",
    "sqlite": "aiosqlite",
}
# SQLAlchemy 1.4 removed Heroku's spelling, postgres://.
_OTHER_NAMES = {"postgres": "postgresql", "pgsql": "postgresql", "sqlite3": "sqlite"}

# Sync drivers in the configuration of Nameko services.
_SYNC_DRIVERS = frozenset(
    {"psycopg2", "psycopg2cffi", "pg8000"}
    | {"pymysql", "mysqldb", "mysqlconnector", "mariadbconnector", "cymysql"}
    | {"pysqlite"}
)

_EXTRAS = {"asyncpg": "postgresql", "aiomysql": "mysql", "aiosqlite": "sqlite"}
_TRANSLATORS = {
    "asyncpg": asyncpg_arguments,
    "aiomysql": aiomysql_arguments,
    "aiosqlite": sqlite_arguments,
}


@dataclass(frozen=True, repr=False)
class DatabaseUrl:
    """A URL for ``create_async_engine``, and the arguments for the driver."""

    url: URL
    connect_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def driver(self) -> str:
        """The name of the driver: ``asyncpg``, ``aiomysql``, ``aiosqlite``, ``psycopg``, ..."""
        return self.url.drivername.partition("+")[2]

    @property
    def extra(self) -> str | None:
        """The extra of aiorpc-amqp that installs the driver. None: no extra does."""
        return _EXTRAS.get(self.driver)

    @property
    def in_memory(self) -> bool:
        """Whether SQLite has the database in memory, until the last connection closes."""
        return self.driver == "aiosqlite" and self.url.database in (None, "", ":memory:")

    def __str__(self) -> str:
        return redact_url(self.url.render_as_string(hide_password=True))

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"


def parse_database_url(text: str, where: str = "the database URL") -> DatabaseUrl:
    """
    Translate *text* for an asyncio driver.

    ``postgres://`` and ``postgresql://`` get asyncpg, ``mysql://`` and ``mariadb://`` aiomysql,
    ``sqlite://`` aiosqlite. A URL keeps an asyncio driver (``+psycopg``, ``+asyncmy``). A sync
    driver (``+psycopg2``, ``+pymysql``) is replaced.

    Args:
        where: the place of the URL in the configuration, for messages.

    Raises:
        ConfigurationError: *text* is not a URL, or the driver does not have one of its arguments.
    """
    database = DatabaseUrl(_with_async_driver(_parse(text, where), where))
    if database.driver not in _TRANSLATORS:  # the user chose the driver, and knows its arguments
        return database
    query, connect_args = _TRANSLATORS[database.driver](database.url.query, where)
    return DatabaseUrl(database.url.set(query=query), connect_args)


def _parse(text: str, where: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        # SQLAlchemy's error texts may quote a part of the password.
        raise ConfigurationError(
            f"{where} is not a database URL: {redact_url(text) if '://' in text else '(hidden)'}. "
            "Write postgresql://user:password@host:5432/database, and special characters of a "
            "password as %40 for @, %2F for /, %3A for :"
        ) from None


def _with_async_driver(url: URL, where: str) -> URL:
    backend, _, driver = url.drivername.partition("+")
    backend = _OTHER_NAMES.get(backend, backend)
    if not driver or driver in _SYNC_DRIVERS:
        if backend not in _DRIVERS:
            raise ConfigurationError(
                f"{where} names no asyncio driver: write {backend}+DRIVER://..., for example "
                "mssql+aioodbc:// or oracle+oracledb_async://. aiorpc chooses a driver for "
                f"{', '.join(sorted(_DRIVERS))}"
            )
        driver = _DRIVERS[backend]
    return url.set(drivername=f"{backend}+{driver}")

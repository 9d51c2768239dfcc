"""
Facts about a database and its server, for ``aiorpc doctor``. Reads only: a missing SQLite database
is not created.

Awaits the database. The caller bounds the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import QueuePool

from ..config import Settings
from ..extensions import DependencyProvider
from .engine.configuration import DatabaseConfig, configured
from .engine.opening import open_engine
from .engine.pool import most_connections
from .engine.urls import parse_database_url
from .providers import Database, DatabaseSession

__all__ = ["Facts", "base_of", "code_of", "database_of", "facts_of", "require_file"]

#: The table of Alembic, and its column.
MIGRATIONS = "alembic_version"


class Facts(msgspec.Struct, frozen=True):
    """
    Attributes:
        server: product and version.
        pool: connections that one process opens at most; ``None`` for no limit.
        most: connections that the server permits; ``None`` for SQLite.
        used: connections that are open now.
        ahead: seconds that the server's clock is ahead of ours; ``None`` for SQLite.
        exact_to: seconds, how exact ``ahead`` is.
        missing: tables of the declarative base that do not exist.
        revisions: of Alembic; ``None`` if its table does not exist.
    """

    server: str
    pool: int | None
    most: int | None
    used: int | None
    ahead: float | None
    exact_to: float
    missing: list[str]
    revisions: list[str] | None


def base_of(provider: DependencyProvider[Any]) -> type[Any] | None:
    """Return the declarative base of a dependency for databases, ``None`` for others."""
    if isinstance(provider, Database | DatabaseSession):
        base: type[Any] = provider.declarative_base
        return base
    return None


def database_of(settings: Settings, key: str) -> DatabaseConfig:
    """
    Return the database with the *key* in ``DB_URIS``, whose declarative base is not imported, or
    that of ``DB_URI``.

    Raises:
        ConfigurationError: its URL or one of its options is wrong.
    """
    if key == "DB_URI":
        url = parse_database_url(str(settings.db_uri), f"{settings.source}: DB_URI")
        return DatabaseConfig(key, url, cleanup_timeout=settings.cleanup_timeout)
    service, _, base = key.rpartition(":")
    return configured(settings, service, type(base, (), {"metadata": None}))


async def facts_of(database: DatabaseConfig, tables: Mapping[str, Any]) -> Facts:
    """
    Connect to *database*, and return what there is.

    Args:
        tables: of the declarative base, by name, with their schema.

    Raises:
        FileNotFoundError: the SQLite database does not exist.
        ConfigurationError: the driver is not installed, or an option is wrong.
        Exception: of the driver, if it cannot connect; see :func:`code_of`.
    """
    require_file(database)
    async with open_engine(database) as engine, engine.connect() as connection:
        server, most, used, ahead, exact_to = await _asked(connection)
        there = await connection.run_sync(_tables, {_schema(name) for name in tables})
        revisions = None
        if MIGRATIONS in there:
            found = await connection.execute(text(f"SELECT version_num FROM {MIGRATIONS}"))
            revisions = [str(each) for each in found.scalars()]
        missing = [] if database.url.in_memory else sorted({*tables} - there)
        pool = most_connections(engine.pool) if isinstance(engine.pool, QueuePool) else None
        return Facts(server, pool, most, used, ahead, exact_to, missing, revisions)


def require_file(database: DatabaseConfig) -> None:
    """Raise if a SQLite database does not exist: a connection would create it."""
    path = str(database.url.url.database)
    is_file = database.url.driver == "aiosqlite" and not database.url.in_memory
    if is_file and not path.startswith("file:") and not os.path.exists(path):
        raise FileNotFoundError(f"the file {path} does not exist")


def _schema(table: str) -> str | None:
    return table.rpartition(".")[0] or None


def _tables(connection: Connection, schemas: set[str | None]) -> set[str]:
    inspector = inspect(connection)
    found = {*inspector.get_table_names(), *inspector.get_view_names()}
    for schema in schemas - {None}:
        found |= {f"{schema}.{name}" for name in inspector.get_table_names(schema)}
    return found


#: Version, most connections, connections now, seconds since 1970.
_QUESTIONS = {
    "postgresql": "SELECT current_setting('server_version'), "
    "current_setting('max_connections')::int "
    "- current_setting('superuser_reserved_connections')::int, "
    "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
    "extract(epoch FROM clock_timestamp())",
    "mysql": "SELECT version(), @@max_connections, "
    "(SELECT count(*) FROM information_schema.processlist), unix_timestamp(now(6))",
}
_QUESTIONS["mariadb"] = _QUESTIONS["mysql"]


async def _asked(
    connection: AsyncConnection,
) -> tuple[str, int | None, int | None, float | None, float]:
    name = connection.dialect.name
    question = _QUESTIONS.get(name)
    if question is None:
        await connection.execute(text("SELECT 1"))
        return name, None, None, None, 0.0
    await connection.execute(text("SELECT 1"))  # so that the next answer takes one round trip
    began = time.time()
    version, most, used, now = (await connection.execute(text(question))).one()
    ended = time.time()
    ahead = float(now) - (began + ended) / 2
    return f"{name} {version}", int(most), int(used), ahead, (ended - began) / 2


def code_of(error: BaseException) -> str:
    """Return PostgreSQL's SQLSTATE or MySQL's error number in *error* or its causes, or ""."""
    seen: BaseException | None = error
    while seen is not None:
        for each in (seen, getattr(seen, "orig", None)):
            arguments = getattr(each, "args", ())
            if arguments and type(arguments[0]) is int:
                return str(arguments[0])
            state = getattr(each, "sqlstate", None)
            if isinstance(state, str):
                return state
        seen = seen.__cause__
    return ""

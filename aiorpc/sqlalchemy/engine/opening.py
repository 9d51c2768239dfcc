"""Opens and closes engines. Awaits the database server only when it closes connections."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy import URL, Connection, event, pool
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ...exceptions import ConfigurationError
from ...logs import logger
from .configuration import DatabaseConfig
from .drivers import default_arguments, note_server
from .options import merged
from .pool import CallPool, bound_pings
from .zones import write_utc

__all__ = ["open_engine"]

log = logger("aiorpc.sqlalchemy")


@asynccontextmanager
async def open_engine(database: DatabaseConfig) -> AsyncIterator[AsyncEngine]:
    """
    Open an engine for the block. The engine connects at its first query.

    Raises:
        ConfigurationError: an option is wrong, or the driver is not installed.
    """
    with _kept_in_memory(database) as (url, defaults):
        engine = _create(database, url, defaults)
        try:
            yield engine
        finally:
            await _dispose(engine, database)


@contextmanager
def _kept_in_memory(database: DatabaseConfig) -> Iterator[tuple[URL, Mapping[str, Any]]]:
    """
    Yield the URL and default options of *database*; keep a SQLite database in memory alive.

    SQLite deletes a database in memory with its last connection, and a cancelled call closes its
    connection. Calls share one connection: two connections to a database in memory do not wait for
    each other's lock, but fail with "database table is locked".
    """
    url = database.url.url
    if not database.url.in_memory:
        yield url, {}
        return
    name = f"file:aiorpc-{uuid4()}"
    query = {"mode": "memory", "cache": "shared", "uri": "true"}
    with closing(sqlite3.connect(f"{name}?mode=memory&cache=shared", uri=True)):
        yield url.set(database=name).update_query_dict(query), {"pool_size": 1, "max_overflow": 0}


def _create(database: DatabaseConfig, url: URL, defaults: Mapping[str, Any]) -> AsyncEngine:
    options = _engine_options(database, defaults)
    try:
        engine = create_async_engine(url, **options)
    except ModuleNotFoundError as exc:
        extra = database.url.extra
        remedy = f'pip install "aiorpc-amqp[{extra}]"' if extra else f"pip install {exc.name}"
        raise ConfigurationError(
            f"{database.key}: the driver {exc.name} is not installed: {remedy}"
        ) from None
    except NoSuchModuleError:
        raise ConfigurationError(
            f"{database.key}: SQLAlchemy does not know {database.url.url.drivername}://"
        ) from None
    except (TypeError, ArgumentError, InvalidRequestError) as exc:
        raise ConfigurationError(
            f"{database.key}: SQLAlchemy cannot make an engine from the options "
            f"({', '.join(sorted(database.engine_options)) or 'none'}): {exc}"
        ) from None
    if isinstance(engine.pool, CallPool):
        engine.pool.database = database.key
        bound_pings(engine.dialect, engine.pool.ping_timeout, database.key)
        if database.url.driver == "aiomysql":
            event.listen(engine.sync_engine, "connect", note_server)
    if database.url.driver == "aiosqlite":
        event.listen(engine.sync_engine, "savepoint", _begin_before_savepoint)
        write_utc(engine.dialect)
    return engine


def _engine_options(database: DatabaseConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    options = {"pool_pre_ping": True, **defaults, **database.engine_options}
    options["connect_args"] = merged(
        default_arguments(database.url.driver),
        database.url.connect_args,
        options.get("connect_args", {}),
    )
    if "pool" not in options:
        options.setdefault("poolclass", CallPool)
    if isinstance(options.get("poolclass"), str):  # YAML has no classes
        options["poolclass"] = _pool_class(options["poolclass"], database.key)
    if not issubclass(options.get("poolclass", CallPool), CallPool):
        for name in defaults:  # another pool class may refuse these options
            options.pop(name)
    return options


def _pool_class(name: str, key: str) -> type[pool.Pool]:
    found = getattr(pool, name.removeprefix("sqlalchemy.pool."), None)
    if not (isinstance(found, type) and issubclass(found, pool.Pool)):
        raise ConfigurationError(
            f"{key}: poolclass must be the name of a class in sqlalchemy.pool, for example "
            f"NullPool; got {name!r}"
        )
    return found


def _begin_before_savepoint(connection: Connection, _: str) -> None:
    """
    Begin a transaction. sqlite3 begins a transaction only at the first change, and a SAVEPOINT
    outside of a transaction commits at its release. sqlite3's ``autocommit=False`` needs Python
    3.12.
    """
    if not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
        connection.exec_driver_sql("BEGIN")


async def _dispose(engine: AsyncEngine, database: DatabaseConfig) -> None:
    """Close all connections within ``CLEANUP_TIMEOUT``, even if the server does not answer."""
    bound = database.cleanup_timeout
    try:
        async with asyncio.timeout(bound):
            if isinstance(engine.pool, CallPool):
                await engine.pool.settle(bound / 2)
            await engine.dispose()
    except TimeoutError:
        log.warning(
            "%s: dropped connections that did not close within %g s (CLEANUP_TIMEOUT)",
            database.key,
            bound,
        )

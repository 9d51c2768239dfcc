"""
Engines from the configuration: which URL and options belong to a service and a declarative base,
and an engine for as long as somebody needs it.

::

    DB_URIS:
      "library:Catalogue": postgresql://user:password@localhost/catalogue
      "library:Lending": mysql://user:password@localhost/lending?charset=utf8
    DB_ENGINE_OPTIONS:
      pool_size: 20                    # of every database
      "library:Lending":               # of this one
        pool_recycle: 3600
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event, pool
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ...config import Settings, resolve
from ...config.decoding import closest
from ...exceptions import ConfigurationError
from .drivers import connect_aiomysql, note_server
from .pool import CallPool
from .urls import DatabaseUrl, parse_database_url

__all__ = ["DatabaseConfig", "base_name_of", "configured", "open_engine"]

log = logging.getLogger("aiorpc.sqlalchemy")

_TEMPLATE = re.compile(r"\{\{|\}\}|\{(?:0\[)?(service_name|declarative_base_name)\]?\}")
_memory_names = (f"aiorpc-{os.getpid()}-{number}" for number in itertools.count(1))


@dataclass(frozen=True)
class DatabaseConfig:
    """One database of one service, as configured."""

    #: ``service:Base``, its key in ``DB_URIS``.
    key: str
    url: DatabaseUrl
    engine_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    session_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Seconds that closing may take: ``CLEANUP_TIMEOUT``.
    cleanup_timeout: float = 5.0


def configured(
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None,
    service_name: str,
    base: type[Any],
    engine_options: Mapping[str, Any] | None = None,
    session_options: Mapping[str, Any] | None = None,
) -> DatabaseConfig:
    """
    The database of *base* in the service *service_name*, for scripts and migrations too::

        async with open_engine(configured("config.yaml", "library", Catalogue)) as engine:
            ...

    Its ``url.url`` alone lacks what goes straight to the driver: TLS, ``search_path``, ...; that is
    in ``url.connect_args``.

    Args:
        engine_options, session_options: those given in code; the configuration's replace them.

    Raises:
        ConfigurationError: there is none, or its URL is wrong. Names the keys that there are.
    """
    settings = resolve(config)
    base_name = base_name_of(base)
    key = f"{service_name}:{base_name}"
    text, where = _find_url(settings, key)
    filled_in = _fill_in(text, service_name, base_name)
    return DatabaseConfig(
        key,
        parse_database_url(filled_in, where),
        {**(engine_options or {}), **_options(settings, "DB_ENGINE_OPTIONS", key)},
        {**(session_options or {}), **_options(settings, "DB_SESSION_OPTIONS", key)},
        settings.cleanup_timeout,
    )


def base_name_of(base: Any) -> str:
    """
    The name by which the configuration calls a declarative base: that given to
    ``declarative_base(name=...)``, or the name of the class.

    Raises:
        ConfigurationError: it is no declarative base.
    """
    if not isinstance(base, type) or not hasattr(base, "metadata"):
        shown = base.__qualname__ if isinstance(base, type) else f"a {type(base).__name__}"
        raise ConfigurationError(
            f"{shown} is no declarative base: make one by `class Base(DeclarativeBase): pass`, or "
            'by `declarative_base(name="Base")`'
        )
    return base.__name__


@asynccontextmanager
async def open_engine(database: DatabaseConfig) -> AsyncIterator[AsyncEngine]:
    """
    An engine from entry to exit. Nothing connects before the first query.

    Raises:
        ConfigurationError: an option is wrong, or the driver is not installed.
    """
    with closing(_Memory(database)) as memory:
        engine = _create(database, memory.url, memory.engine_options)
        try:
            yield engine
        finally:
            await _dispose(engine, database)


def _find_url(settings: Settings, key: str) -> tuple[str, str]:
    """The URL of *key* and the words that say where it stands."""
    fallback = settings.db_uri
    mappings = {"DB_URIS": settings.db_uris}
    if isinstance(fallback, Mapping):
        mappings["DB_URI"] = dict(fallback)
    for name, urls in mappings.items():
        if key in urls:
            return urls[key], f'{settings.source}: {name}["{key}"]'
    if isinstance(fallback, str):
        return fallback, f"{settings.source}: DB_URI"
    known = sorted({known for urls in mappings.values() for known in urls})
    if not known:
        raise ConfigurationError(
            f'{settings.source} names no database for "{key}"; add  DB_URIS: '
            f'{{"{key}": "postgresql://user:password@localhost/database"}}'
        )
    likely = closest(key, known)
    raise ConfigurationError(
        f'{settings.source}: DB_URIS has no "{key}" (service name, colon, name of the declarative '
        f"base); it has {', '.join(known)}" + (f". Did you mean {likely}?" if likely else "")
    )


def _fill_in(text: str, service_name: str, base_name: str) -> str:
    """
    ``{service_name}`` and ``{declarative_base_name}``, also as nameko-sqlalchemy has them,
    ``{0[service_name]}``. Doubled braces are single ones, as there.
    """
    words = {
        "service_name": service_name,
        "declarative_base_name": base_name,
    }
    return _TEMPLATE.sub(lambda match: words[match[1]] if match[1] else match[0][0], text)


def _options(settings: Settings, name: str, key: str) -> dict[str, Any]:
    """Options for every database, and those under the key of this one over them."""
    given: Mapping[str, Any] = getattr(settings, name.lower())
    own = given.get(key) or {}
    if not isinstance(own, Mapping):
        raise ConfigurationError(
            f'{settings.source}: {name}["{key}"] must be a mapping of options, got '
            f"{type(own).__name__}"
        )
    return {**{option: value for option, value in given.items() if ":" not in option}, **own}


def _create(database: DatabaseConfig, url: Any, defaults: Mapping[str, Any]) -> AsyncEngine:
    options = {"pool_pre_ping": True, **defaults, **database.engine_options}
    given_arguments = options.pop("connect_args", None) or {}
    options["connect_args"] = {**database.url.connect_args, **given_arguments}
    if database.url.driver == "aiomysql":
        options["connect_args"].setdefault("async_creator_fn", connect_aiomysql)
    if "pool" not in options:
        options.setdefault("poolclass", CallPool)
    if isinstance(options.get("poolclass"), str):  # YAML has no classes
        options["poolclass"] = _pool_class(options["poolclass"], database.key)
    if not issubclass(options.get("poolclass", CallPool), CallPool):
        # Such a pool has no use for them.
        for name in defaults:
            options.pop(name)
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
            f"{database.key}: SQLAlchemy knows no {database.url.url.drivername}://"
        ) from None
    except (TypeError, ArgumentError, InvalidRequestError) as exc:
        raise ConfigurationError(
            f"{database.key}: the engine cannot be made of its options "
            f"({', '.join(sorted(database.engine_options)) or 'none'}): {exc}"
        ) from None
    if isinstance(engine.pool, CallPool):
        engine.pool.database = database.key
        if database.url.driver == "aiomysql":
            event.listen(engine.sync_engine, "connect", note_server)
    if database.url.driver == "aiosqlite":
        event.listen(engine.sync_engine, "savepoint", _begin_before_savepoint)
    return engine


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
    sqlite3 begins a transaction with the first change only, and a SAVEPOINT outside of one commits
    when it is released.
    """
    if not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
        connection.exec_driver_sql("BEGIN")


async def _dispose(engine: AsyncEngine, database: DatabaseConfig) -> None:
    """Close all connections, within the bound: a server that is gone must not keep us."""
    bound = database.cleanup_timeout
    try:
        async with asyncio.timeout(bound):
            if isinstance(engine.pool, CallPool):
                await engine.pool.settle(bound / 2)
            await engine.dispose()
    except TimeoutError:
        log.warning(
            "%s: its connections did not close within %g s (CLEANUP_TIMEOUT) and were dropped",
            database.key,
            bound,
        )


class _Memory:
    """
    Keeps a SQLite database in memory alive, which otherwise goes with its last connection, and a
    cancelled call takes its connection with it. One connection, which calls use in turn: several
    would be told "database table is locked" where those of a file wait.
    """

    def __init__(self, database: DatabaseConfig) -> None:
        self.url = database.url.url
        self.engine_options: dict[str, Any] = {}
        self._keeper: sqlite3.Connection | None = None
        if database.url.in_memory:
            name = f"file:{next(_memory_names)}?mode=memory&cache=shared"
            self._keeper = sqlite3.connect(name, uri=True)
            path, _, arguments = name.partition("?")
            query = dict(argument.split("=") for argument in arguments.split("&"))
            self.url = self.url.set(database=path).update_query_dict({**query, "uri": "true"})
            self.engine_options = {"pool_size": 1, "max_overflow": 0}

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.close()

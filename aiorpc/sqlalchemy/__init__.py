"""
Databases for services: a session for each call, and ORM objects as arguments and results. This
package uses SQLAlchemy's asyncio API, and the names of nameko-sqlalchemy.

Only ``aiorpc.testing`` imports this optional package. It needs one of the extras ``postgresql``
(asyncpg), ``mysql`` (aiomysql) and ``sqlite`` (aiosqlite), or ``sqlalchemy`` for another driver.
"""

from __future__ import annotations

from . import requirements as _requirements  # noqa: F401  # isort: skip  # before its users
from .engine.configuration import DatabaseConfig, configured
from .engine.opening import open_engine
from .engine.pool import CallPool, DatabaseUnreachable, PoolTimeout
from .engine.urls import DatabaseUrl, parse_database_url
from .idempotency import SqlIdempotency
from .inbox import Inbox
from .outbox.provider import CallOutbox, Outbox
from .providers import CallDatabase, Database, DatabaseSession
from .retry import is_transient, transaction_retry
from .schemas.decorators import accepts, returns
from .schemas.dump import NotLoaded, dump
from .schemas.load import load
from .schemas.made import schema_for
from .tables import create_tables

__all__ = [
    "CallDatabase",
    "CallOutbox",
    "CallPool",
    "Database",
    "DatabaseConfig",
    "DatabaseSession",
    "DatabaseUnreachable",
    "DatabaseUrl",
    "Inbox",
    "NotLoaded",
    "Outbox",
    "PoolTimeout",
    "SqlIdempotency",
    "accepts",
    "configured",
    "create_tables",
    "dump",
    "is_transient",
    "load",
    "open_engine",
    "parse_database_url",
    "returns",
    "schema_for",
    "transaction_retry",
]

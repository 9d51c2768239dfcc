"""
Databases for services, by SQLAlchemy's asyncio side: a session for each call, ORM objects as
arguments and results. nameko-sqlalchemy's names, awaited.

A leaf: nothing else in aiorpc imports it. It needs the extra ``sqlalchemy``, and one of
``postgresql`` (asyncpg), ``mysql`` (aiomysql) and ``sqlite`` (aiosqlite) for a driver.
"""

from __future__ import annotations

from .engine.opening import DatabaseConfig, configured, open_engine
from .engine.pool import CallPool, DatabaseUnreachable, PoolTimeout
from .engine.urls import DatabaseUrl, parse_database_url
from .providers import CallDatabase, Database, DatabaseSession
from .retry import is_transient, transaction_retry
from .schemas.decorators import accepts, returns
from .schemas.dump import NotLoaded, dump
from .schemas.load import load
from .schemas.made import schema_for
from .tables import create_tables

__all__ = [
    "CallDatabase",
    "CallPool",
    "Database",
    "DatabaseConfig",
    "DatabaseSession",
    "DatabaseUnreachable",
    "DatabaseUrl",
    "NotLoaded",
    "PoolTimeout",
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

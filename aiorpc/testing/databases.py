"""
The session and the database of the fixtures ``db_session`` and ``database``. This file needs
SQLAlchemy, so the plugin imports it only for tests with one of these fixtures.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, MetaData, Table, inspect
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    AsyncSessionTransaction,
)

from ..sqlalchemy.engine.configuration import configured
from ..sqlalchemy.engine.opening import open_engine
from ..sqlalchemy.providers import CallDatabase

__all__ = ["SessionDatabase", "opened_session"]


@asynccontextmanager
async def opened_session(base: Any, url: str) -> AsyncGenerator[AsyncSession]:
    """
    Open a session, and roll back all its commits at the end. Create the missing tables of *base*
    first, and drop them at the end.

    Raises:
        ConfigurationError: *url* is not a database URL, or its driver is not installed.
    """
    database = configured({"DB_URI": url}, "db_session", base)
    async with (
        open_engine(database) as engine,
        engine.connect() as connection,
        _tables(connection, base.metadata),
    ):
        transaction = await connection.begin()
        try:
            async with AsyncSession(
                connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            ) as session:
                yield session
        finally:
            await transaction.rollback()


@asynccontextmanager
async def _tables(connection: AsyncConnection, metadata: MetaData) -> AsyncGenerator[None]:
    """Create the missing tables of *metadata*, and drop them at the end."""
    made = await connection.run_sync(_make_missing, metadata)
    await connection.commit()
    try:
        yield
    finally:
        await connection.run_sync(metadata.drop_all, made)
        await connection.commit()


def _make_missing(connection: Connection, metadata: MetaData) -> list[Table]:
    there = inspect(connection)
    missing = [
        table
        for table in metadata.sorted_tables
        if not there.has_table(table.name, schema=table.schema)
    ]
    metadata.create_all(connection, missing)
    return missing


class SessionDatabase(CallDatabase):
    """
    Replaces ``self.db`` in a service that declares ``Database(Base)``. All blocks share the session
    of the test, so the commit of a block commits all changes of the session. A block that raises
    rolls back only its own changes.
    """

    def __init__(self, session: AsyncSession) -> None:
        self._only_session = session
        self._blocks = 0

    @property
    def engine(self) -> AsyncEngine:
        """The engine. The test does not roll back changes on other connections of the engine."""
        connection = self._only_session.bind
        assert isinstance(connection, AsyncConnection)
        return connection.engine

    @property
    def session(self) -> AsyncSession:
        return self._only_session

    @property
    def was_used(self) -> bool:
        return True

    @asynccontextmanager
    async def get_session(self, *, close_on_exit: bool = True) -> AsyncGenerator[AsyncSession]:
        session = self._only_session
        savepoint = await session.begin_nested()
        self._blocks += 1
        try:
            yield session
            if self._blocks > 1 and self._is_open(savepoint):
                await savepoint.commit()
            else:
                await session.commit()
        except BaseException:
            await (savepoint if self._is_open(savepoint) else session).rollback()
            raise
        finally:
            self._blocks -= 1

    def _is_open(self, savepoint: AsyncSessionTransaction) -> bool:
        """Return False if code in the block committed or rolled back the session."""
        transaction = self._only_session.sync_session.get_nested_transaction()
        while transaction is not None:
            if transaction is savepoint.sync_transaction:
                return True
            transaction = transaction.parent
        return False

"""
What is behind the fixtures ``db_session`` and ``database``. Needs SQLAlchemy, so the plugin imports
it when a test asks for one of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, MetaData, Table, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from ..sqlalchemy.engines import configured, open_engine

__all__ = ["SessionDatabase", "opened_session"]


@asynccontextmanager
async def opened_session(base: Any, url: str) -> AsyncGenerator[AsyncSession]:
    """
    A session that leaves nothing behind: whatever it commits is rolled back at the end. Tables of
    *base* that are missing are made, and dropped again; those that are there stay.

    Raises:
        ConfigurationError: *url* is none, or its driver is not installed.
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
    """The tables of *metadata*; those that were not there are gone afterwards."""
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


class SessionDatabase:
    """In place of ``self.db`` where a service declares ``Database(Base)``: one session for all."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    @asynccontextmanager
    async def get_session(self, *, close_on_exit: bool = True) -> AsyncGenerator[AsyncSession]:
        """The session, committed at the end of the block and rolled back if it raises."""
        try:
            yield self.session
            await self.session.commit()
        except BaseException:
            await self.session.rollback()
            raise

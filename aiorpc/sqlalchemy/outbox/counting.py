"""Counts the rows of an outbox. Awaits the database; changes nothing."""

from __future__ import annotations

import msgspec
from sqlalchemy import Table, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .claims import now

__all__ = ["RowCounts", "counted_rows"]


class RowCounts(msgspec.Struct, frozen=True):
    """
    Attributes:
        waiting: rows to be sent; aside: rows that are set aside.
        age: seconds since the oldest waiting row was written; 0 without one.
    """

    waiting: int
    aside: int
    age: float


async def counted_rows(connection: AsyncConnection, table: Table, service: str) -> RowCounts:
    """Count the rows of *service*."""
    oldest = func.min(case((table.c.due_at.is_not(None), table.c.written_at)))
    query = select(func.count(), func.count(table.c.due_at), oldest)
    found = await connection.execute(query.where(table.c.service == service))
    rows, waiting, at = found.one()
    age = 0.0 if at is None else max(0.0, (now() - int(at)) / 1000)
    return RowCounts(waiting, rows - waiting, age)

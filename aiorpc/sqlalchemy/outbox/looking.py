"""
Looks at the rows of outboxes for ``aiorpc outbox``, and retries or discards some. Awaits the
database. A look changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    MetaData,
    Table,
    case,
    delete,
    exists,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .listening import channel_of, notify
from .tables import OutboxRow, outbox_table

__all__ = ["LookedAt", "OneRow", "RowGroup", "RowState", "WantedRows", "table_in"]

#: Rows that are changed in one transaction.
_AT_ONCE = 500


class RowState(enum.StrEnum):
    """What becomes of a row."""

    WAITING = "waiting"
    #: The broker has refused the message, and it will be sent again.
    RETRYING = "retrying"
    #: An older message of its key is not sent yet, and is set aside or will be retried.
    HELD = "held"
    #: The message is not sent again by itself.
    ASIDE = "set aside"


class RowGroup(msgspec.Struct):
    """Rows of one destination in one state. ``reason``: of one of them."""

    service: str
    exchange: str
    routing_key: str
    state: RowState
    count: int
    oldest: datetime
    reason: str | None


class OneRow(msgspec.Struct):
    """One row without its body."""

    id: int
    message_id: str | None
    service: str
    exchange: str
    routing_key: str
    key: str | None
    state: RowState
    attempts: int
    written_at: datetime
    due_at: datetime | None
    bytes: int
    reason: str | None


class WantedRows(msgspec.Struct, frozen=True):
    """
    Which rows to look at.

    Attributes:
        names: ids of rows or of messages; without one, all rows.
        state: only rows in this state.
    """

    names: Sequence[str] = ()
    service: str | None = None
    state: RowState | None = None


async def table_in(connection: AsyncConnection, name: str) -> Table | None:
    """Return the table *name*, or ``schema.name``, if the database has it."""
    schema, _, short = name.rpartition(".")

    class Base:
        metadata = MetaData(schema=schema or None)

    table = outbox_table(Base, short)
    found = await connection.run_sync(
        lambda it: inspect(it).has_table(short, schema=schema or None)
    )
    return table if found else None


class LookedAt:
    """The rows in one table."""

    def __init__(self, engine: AsyncEngine, table: Table) -> None:
        self._engine = engine
        self._table = table
        older = table.alias()
        held = exists().where(
            older.c.service == table.c.service,
            older.c.order_key == table.c.order_key,
            older.c.id < table.c.id,
            (older.c.due_at.is_(None)) | (older.c.attempts > 0),
        )
        self._state = case(
            (table.c.due_at.is_(None), RowState.ASIDE.value),
            (held, RowState.HELD.value),
            (table.c.attempts > 0, RowState.RETRYING.value),
            else_=RowState.WAITING.value,
        )

    async def groups(self, wanted: WantedRows) -> list[RowGroup]:
        """Count the rows by destination and state."""
        t, state = self._table, self._state.label("state")
        by = t.c.service, t.c.exchange, t.c.routing_key
        inner = select(*by, state, t.c.written_at, t.c.reason).where(*self._which(wanted))
        rows = inner.subquery()
        named = rows.c.service, rows.c.exchange, rows.c.routing_key, rows.c.state
        query = (
            select(*named, func.count(), func.min(rows.c.written_at), func.max(rows.c.reason))
            .group_by(*named)
            .order_by(*named)
        )
        async with self._engine.connect() as connection:
            found = (await connection.execute(query)).all()
        return [
            RowGroup(service, exchange, key, RowState(state), count, _moment(oldest), reason)
            for service, exchange, key, state, count, oldest, reason in found
        ]

    async def rows(self, wanted: WantedRows, limit: int) -> list[OneRow]:
        """Return the oldest rows."""
        t = self._table
        columns = (
            *(t.c.id, t.c.message_id, t.c.service, t.c.exchange, t.c.routing_key, t.c.order_key),
            *(self._state.label("state"), t.c.attempts, t.c.written_at, t.c.due_at),
            *(t.c.size, t.c.reason),
        )
        query = select(*columns).where(*self._which(wanted)).order_by(t.c.id).limit(limit)
        async with self._engine.connect() as connection:
            found = (await connection.execute(query)).all()
        return [
            OneRow(
                *(row.id, row.message_id, row.service, row.exchange, row.routing_key),
                key=row.order_key,
                state=RowState(row.state),
                attempts=row.attempts,
                written_at=_moment(row.written_at),
                due_at=_moment(row.due_at) if row.due_at else None,
                bytes=row.size,
                reason=row.reason,
            )
            for row in found
        ]

    async def loaded(self, id_: int) -> OutboxRow | None:
        """Return the row *id_* with its message."""
        columns = [self._table.c[name] for name in OutboxRow.__struct_fields__]
        query = select(*columns).where(self._table.c.id == id_)
        async with self._engine.connect() as connection:
            found = (await connection.execute(query)).first()
        return None if found is None else OutboxRow(*found)

    async def retry(self, ids: Sequence[int]) -> int:
        """Let the messages of *ids* be sent again, with all their attempts. Return how many."""
        values = {"due_at": 0, "attempts": 0, "reason": None, "claimed_by": None}
        done = await self._change(ids, lambda few: update(self._table).where(few).values(values))
        if done:
            await notify(self._engine, channel_of(self._table))
        return done

    async def discard(self, ids: Sequence[int]) -> int:
        """Delete the rows of *ids*, so that their messages are not sent. Return how many."""
        return await self._change(ids, lambda few: delete(self._table).where(few))

    async def _change(self, ids: Sequence[int], statement: Any) -> int:
        done = 0
        for at in range(0, len(ids), _AT_ONCE):
            async with self._engine.begin() as connection:
                for id_ in ids[at : at + _AT_ONCE]:
                    # A relay does not touch rows that are set aside; others may be sent meanwhile.
                    which = (self._table.c.id == id_) & self._table.c.due_at.is_(None)
                    done += (await connection.execute(statement(which))).rowcount
        return done

    def _which(self, wanted: WantedRows) -> list[ColumnElement[bool]]:
        t = self._table
        which: list[ColumnElement[bool]] = []
        if wanted.service is not None:
            which.append(t.c.service == wanted.service)
        if wanted.state is RowState.ASIDE:
            which.append(t.c.due_at.is_(None))
        if wanted.names:
            # Databases refuse longer numbers. A message id may be one.
            ids = [int(name) for name in wanted.names if name.isdecimal() and len(name) < 19]
            which.append(t.c.message_id.in_(wanted.names) | t.c.id.in_(ids))
        return which


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)

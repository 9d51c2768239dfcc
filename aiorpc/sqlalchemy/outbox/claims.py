"""
How a relay takes rows, so that no other relay sends them at the same time. Awaits the database.

PostgreSQL, MariaDB and MySQL lock the rows of a relay until its transaction ends, also by a crash
(``FOR UPDATE SKIP LOCKED``). On other databases, such as SQLite, a relay leases rows: it moves
their ``due_at`` into the future.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Dialect,
    Table,
    and_,
    delete,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ...context import new_id
from .. import records
from .tables import OutboxRow

__all__ = ["LEASE", "Batch", "RowClaims", "Unsent", "claims_of", "now"]

#: Rows that a relay takes at a time, and their bytes; and rows among which it looks for some that
#: no other relay has locked.
MOST_ROWS = 200
MOST_SEEN = 1000
MOST_BYTES = 4 << 20
#: Seconds after which another relay may take the rows of a relay that has ended without a word.
LEASE = 30.0


def now() -> int:
    """Return the milliseconds since 1970."""
    return int(records.now() * 1000)


class Unsent(msgspec.Struct, frozen=True):
    """Why a message was not sent. ``due_at``: of its next attempt; ``None``: it is set aside."""

    reason: str
    due_at: int | None


class Batch(msgspec.Struct):
    """
    The rows that a relay has taken: each is the oldest of its key, or follows another one here.

    Attributes:
        more: whether other rows may be due.
        sent: the ids of the rows whose messages the broker has confirmed.
        failed: the failures, by the ids of the rows.
    """

    rows: Sequence[OutboxRow] = ()
    more: bool = False
    sent: set[int] = msgspec.field(default_factory=set)
    failed: dict[int, Unsent] = msgspec.field(default_factory=dict)


class RowClaims(ABC):
    """Takes rows of one service."""

    def __init__(self, engine: AsyncEngine, table: Table, service: str) -> None:
        self._engine = engine
        self._table = table
        self._service = service

    @abstractmethod
    def claim(self) -> AbstractAsyncContextManager[Batch]:
        """Take rows that are due for the block. Then write down what became of them."""

    @property
    def _columns(self) -> list[Any]:
        return [self._table.c[name] for name in OutboxRow.__struct_fields__]

    async def _found(self, connection: AsyncConnection, query: Any) -> Sequence[Any]:
        return (await connection.execute(query)).all()

    async def _rows(self, connection: AsyncConnection, query: Any) -> list[OutboxRow]:
        return [OutboxRow(*row) for row in await connection.execute(query)]

    def _due(self, at: int) -> Any:
        """Select the rows that are due, the oldest first, without the keys that wait."""
        table = self._table
        # A row of a key is not due because it was tried as the oldest of its key. The subquery does
        # not depend on the row, because MariaDB would ask it for each row of a key with many rows.
        waits = table.alias()
        keys = select(waits.c.order_key).where(
            waits.c.service == self._service,
            waits.c.order_key.is_not(None),
            or_(waits.c.due_at.is_(None), waits.c.due_at > at),
        )
        return (
            select(table.c.id, table.c.size)
            .where(
                table.c.service == self._service,
                table.c.due_at <= at,
                or_(table.c.order_key.is_(None), table.c.order_key.not_in(keys)),
            )
            .order_by(table.c.id)
        )

    async def _in_turn(self, connection: AsyncConnection, taken: Sequence[OutboxRow]) -> list[int]:
        """
        Return the ids in *taken* without those whose key has an older row that is not taken. The
        query sees every older row: the transactions of a key commit one after the other.
        """
        keys = {row.order_key for row in taken if row.order_key is not None}
        if not keys:
            return [row.id for row in taken]
        table = self._table
        found = await connection.execute(
            select(table.c.id, table.c.order_key)
            .where(
                table.c.service == self._service,
                table.c.order_key.in_(keys),
                table.c.id <= taken[-1].id,
            )
            .order_by(table.c.id)
        )
        mine = {row.id for row in taken}
        held = set()
        for id_, key in found:
            if id_ not in mine:
                held.add(key)
            elif key in held:
                mine.discard(id_)
        return [row.id for row in taken if row.id in mine]

    async def _settle(
        self, connection: AsyncConnection, batch: Batch, *mine: ColumnElement[bool]
    ) -> None:
        """Write down what became of the rows in *batch*. *mine* holds for rows of this relay."""
        table = self._table
        if batch.sent:
            await self._delete(connection, sorted(batch.sent), *mine)
        for id_, failure in batch.failed.items():
            await connection.execute(
                update(table)
                .where(table.c.id == id_, *mine)
                .values(
                    attempts=table.c.attempts + 1,
                    reason=failure.reason,
                    due_at=failure.due_at,
                    claimed_by=None,
                )
            )

    async def _delete(
        self, connection: AsyncConnection, ids: Sequence[int], *mine: ColumnElement[bool]
    ) -> None:
        await connection.execute(delete(self._table).where(self._table.c.id.in_(ids), *mine))


class Locks(RowClaims):
    """Rows are locked by the relay's transaction."""

    def __init__(self, engine: AsyncEngine, table: Table, service: str) -> None:
        # REPEATABLE READ, the default of MariaDB, would lock the gaps between rows too.
        super().__init__(engine.execution_options(isolation_level="READ COMMITTED"), table, service)

    @asynccontextmanager
    async def claim(self) -> AsyncGenerator[Batch]:
        at = now()
        async with self._engine.connect() as connection:
            found = await self._found(connection, self._due(at).limit(MOST_SEEN))
            if not found:
                yield Batch()
                return
            taken = await self._locked(connection, _within_bytes(found), at)
            ids = set(await self._in_turn(connection, taken))
            rows = [row for row in taken if row.id in ids]
            batch = Batch(rows, more=bool(rows) and len(rows) < len(found))
            yield batch
            await self._settle(connection, batch)
            await connection.commit()

    async def _locked(
        self, connection: AsyncConnection, found: Sequence[Any], at: int
    ) -> list[OutboxRow]:
        """
        Lock rows of *found* that are still due and that nobody else has locked, by their ids. A
        search by another index would lock its entries on MariaDB, and two relays could then wait
        for one another.
        """
        table = self._table
        return await self._rows(
            connection,
            select(*self._columns)
            .where(table.c.id.in_([row.id for row in found]), table.c.due_at <= at)
            .order_by(table.c.id)
            .limit(MOST_ROWS)
            .with_for_update(skip_locked=True),
        )

    async def _delete(
        self, connection: AsyncConnection, ids: Sequence[int], *mine: ColumnElement[bool]
    ) -> None:
        if connection.dialect.name == "postgresql":
            await super()._delete(connection, ids, *mine)
            return
        # With `id IN (...)`, MariaDB may read all rows, and wait for the locks of other relays.
        name = connection.dialect.identifier_preparer.format_table(self._table)
        by_id = text(
            f"DELETE outbox FROM JSON_TABLE(:ids, '$[*]' COLUMNS (id BIGINT PATH '$')) AS sent "
            f"STRAIGHT_JOIN {name} AS outbox FORCE INDEX (PRIMARY) ON outbox.id = sent.id"
        )
        await connection.execute(by_id, {"ids": json.dumps(ids)})


class Leases(RowClaims):
    """Rows are leased: a relay that ends without a word loses them after ``LEASE``."""

    @asynccontextmanager
    async def claim(self) -> AsyncGenerator[Batch]:
        table, owner, at = self._table, new_id(), now()
        async with self._engine.connect() as connection:  # an UPDATE locks SQLite's file
            found = await self._found(connection, self._due(at).limit(MOST_ROWS))
        if not found:
            yield Batch()
            return
        mine = table.c.claimed_by == owner
        until = at + int(LEASE * 1000)
        async with self._engine.begin() as connection:
            ids = [row.id for row in _within_bytes(found)]
            await connection.execute(
                update(table)
                .where(table.c.id.in_(ids), table.c.due_at <= at)
                .values(due_at=until, claimed_by=owner)
            )
            query = select(*self._columns).where(mine).order_by(table.c.id)
            taken = await self._rows(connection, query)
            ids = await self._in_turn(connection, taken)
            await self._release(connection, and_(mine, table.c.id.not_in(ids)))
        rows = [row for row in taken if row.id in {*ids}]
        batch = Batch(rows, more=bool(rows) and (len(rows) < len(found) or len(found) == MOST_ROWS))
        try:
            yield batch
        finally:
            async with self._engine.begin() as connection:
                await self._settle(connection, batch, mine)
                await self._release(connection, mine)

    async def _release(self, connection: AsyncConnection, which: ColumnElement[bool]) -> None:
        """Give back rows, of which this relay has sent nothing, or does not know whether it has."""
        await connection.execute(update(self._table).where(which).values(due_at=0, claimed_by=None))


def _within_bytes(found: Sequence[Any]) -> Sequence[Any]:
    """Return the first rows of *found* with at most ``MOST_BYTES``, but at least one."""
    size = 0
    for count, row in enumerate(found):
        size += row.size
        if size > MOST_BYTES and count:
            return found[:count]
    return found


async def claims_of(engine: AsyncEngine, table: Table, service: str) -> RowClaims:
    """Return how relays of *service* take rows of *table*. Connects to the database."""
    async with engine.connect() as connection:
        kind = Locks if _skips_locked(connection.dialect) else Leases
    return kind(engine, table, service)


def _skips_locked(dialect: Dialect) -> bool:
    """
    Return whether the database of *dialect*, which has connected, has SKIP LOCKED: PostgreSQL,
    MariaDB from 10.6, and MySQL from 8.0.1.
    """
    if dialect.name == "postgresql":
        return True
    if dialect.name not in ("mysql", "mariadb"):
        return False
    version = dialect.server_version_info or ()
    least = (10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0, 1)
    return tuple(version[:3]) >= least

"""
``SqlIdempotency``: idempotency keys and their answers in the transaction of the call. Awaits the
database, and the first call with a key in this process.

A row is inserted before the method runs, and gets its answer after. Both, and the changes of the
method, are one transaction (:mod:`.holding`). So the database makes another call with the key wait
until this one has ended: then there is a row with an answer, or none.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import ceil
from time import monotonic
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    String,
    select,
    update,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSessionTransaction
from sqlalchemy.schema import SchemaItem

from ..checks import FLAG, NAME, SECONDS, check
from ..dependencies.idempotency import DAY, Asked, Idempotency
from ..extensions import Host, WorkerContext
from ..guards import GuardedMethod, Returned
from ..logs import logger
from ..wire.message import Message
from .holding import Hold
from .records import Records, digest, insert_unless_there, may_begin_again, now, table_on

__all__ = ["SqlIdempotency"]

log = logger("aiorpc.sqlalchemy")

#: MySQL's BLOB has room for 64 KiB only.
_ANSWER = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
#: The columns of what identifies a key.
_IDENTITY = ("service", "method", "scope", "idempotency_key")
#: Seconds between two attempts to insert a row after a deadlock, or while SQLite is locked.
_PAUSE = 0.05


def _columns() -> Sequence[SchemaItem]:
    return (
        Column("id", String(64), primary_key=True),
        Column("service", String(255), nullable=False),
        Column("method", String(255), nullable=False),
        Column("scope", String(255), nullable=False),
        Column("idempotency_key", String(255), nullable=False),
        Column("arguments", String(64), nullable=False),
        Column("content_type", String(255)),
        Column("content_encoding", String(255)),
        Column("answer", _ANSWER),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False, index=True),
    )


class _Answered(Exception):
    """The method ran before, and *reply* is its answer."""

    def __init__(self, reply: Message) -> None:
        super().__init__("the call was answered before")
        self.reply = reply


class SqlIdempotency(Records[str | None], Idempotency):
    """
    Runs each call with an idempotency key once: the key, the answer and the changes of the method
    are one transaction of a database::

        class Shop:
            name = "shop"
            db = DatabaseSession(Base, commit=True)
            idempotency = SqlIdempotency(Base)

            @rpc(idempotent=True)
            async def buy(self, title: str) -> int: ...

    ``self.idempotency`` is the key of the call, or None.

    Args:
        declarative_base: the base of the ``DatabaseSession(Base, commit=True)`` or ``Database``
            beside it.
        retention: seconds after which a key is forgotten.
        store_errors: keep expected exceptions too, whose changes roll back. Otherwise a call that
            failed may run again.
        table: the name of the table, on the metadata of *declarative_base*.
    """

    def __init__(
        self,
        declarative_base: Any,
        *,
        retention: float = DAY,
        store_errors: bool = False,
        table: str = "aiorpc_idempotency",
    ) -> None:
        super().__init__(declarative_base)
        given = {"retention": retention, "store_errors": store_errors, "table": table}
        kinds = {"retention": SECONDS, "store_errors": FLAG, "table": NAME}
        check("SqlIdempotency()", given, kinds)
        self.retention, self.store_errors = retention, store_errors
        self.table = table_on(declarative_base, table, _columns)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        #: By the ids of rows: one call with a key waits for the database, the others of this
        #: container for that call, without a connection.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        async with super().lifespan(host):
            host.spawn(self.delete_old(self.old), f"delete old rows of {self.table.name}")
            yield

    def old(self) -> ColumnElement[bool]:
        """Return the condition for the rows of forgotten keys."""
        return self.table.c.expires_at <= int(now())

    async def once(self, worker_ctx: WorkerContext, asked: Asked, method: GuardedMethod) -> Any:
        row = digest(*asked.identity)
        turn = self._turns.setdefault(row, asyncio.Lock())
        limit = asyncio.timeout(asked.until - monotonic())
        try:
            async with limit:
                await turn.acquire()
        except TimeoutError:
            if not limit.expired():
                raise
            asked.in_progress()
        try:
            return await self._in_turn(worker_ctx, row, asked, method)
        finally:
            turn.release()

    async def _in_turn(
        self, worker_ctx: WorkerContext, row: str, asked: Asked, method: GuardedMethod
    ) -> Any:
        session = self.session(worker_ctx)
        try:
            with self.holding(worker_ctx, partial(self._claim, row, asked)) as hold:
                await self._begin(hold, asked)
                returned = await self._run(worker_ctx, hold, row, method)
                await hold.stand()
                await self._store(hold, row, returned.encoded)
            await self.commit(session)
            return returned.result
        except _Answered as answered:
            await session.rollback()
            log.debug("%s: the idempotency key %r has an answer", worker_ctx.call, asked.key)
            return self.answer(worker_ctx, answered.reply)

    def _claim(self, row: str, asked: Asked, connection: Connection) -> None:
        """
        Insert the row. Wait for a transaction that has it.

        Raises:
            _Answered: there is an answer.
            BadArguments: there is one, for other arguments.
        """
        table, created = self.table, int(now())
        values = {
            "id": row,
            **dict(zip(_IDENTITY, asked.identity, strict=True)),
            "arguments": asked.arguments,
            "created_at": created,
            "expires_at": created + ceil(self.retention),
        }
        there = select(table).where(table.c.id == row)
        if connection.dialect.name in ("mysql", "mariadb"):
            # With REPEATABLE READ, a plain SELECT may not see what the INSERT has waited for.
            there = there.with_for_update(read=True)
        while not insert_unless_there(connection, table, values):
            found = connection.execute(there).one_or_none()
            if found is None:
                continue  # it was old, and was deleted in between
            if found.expires_at > created:
                asked.require_same(found.arguments)
                raise _Answered(
                    Message(
                        body=found.answer,
                        content_type=found.content_type,
                        content_encoding=found.content_encoding,
                    )
                )
            same = table.c.id == row, table.c.expires_at == found.expires_at
            fresh = {**values, "answer": None}
            if connection.execute(update(table).where(*same).values(fresh)).rowcount:
                return

    async def _begin(self, hold: Hold, asked: Asked) -> None:
        """
        Begin the transaction with the row.

        Raises:
            InProgress: another transaction had it, or the database was slow, for too long.
        """
        session = hold.session
        while True:
            limit = asyncio.timeout(asked.until - monotonic())
            try:
                async with limit:
                    await hold.stand()
                return
            except TimeoutError:
                if not limit.expired():
                    raise
                asked.in_progress(sure=False)
            except DBAPIError as error:
                if not may_begin_again(hold, error):
                    raise
            await session.rollback()
            if monotonic() >= asked.until:
                asked.in_progress(sure=False)
            await asyncio.sleep(random.uniform(0, _PAUSE))

    async def _run(
        self, worker_ctx: WorkerContext, hold: Hold, row: str, method: GuardedMethod
    ) -> Returned:
        """Run *method*. If it raises an error that is an answer, store and commit this answer."""
        if not (self.store_errors and worker_ctx.entrypoint.expected_exceptions):
            return await method()
        changes = await hold.session.begin_nested()
        try:
            returned = await method()
            if changes.is_active:  # the method did not roll back
                await changes.commit()
            return returned
        except Exception as error:
            reply = self.kept_error(worker_ctx, method, error)
            if reply is not None:
                await self._store_error(hold, changes, row, reply)
            raise

    async def _store_error(
        self, hold: Hold, changes: AsyncSessionTransaction, row: str, reply: Message
    ) -> None:
        """Roll back the *changes* of a method, and commit the *reply* with its error."""
        if hold.session.in_nested_transaction():  # the method did not roll back
            await changes.rollback()
        await hold.stand()
        await self._store(hold, row, reply)
        hold.release()
        await hold.session.commit()

    async def _store(self, hold: Hold, row: str, reply: Message) -> None:
        answer = {
            "answer": reply.body,
            "content_type": reply.content_type,
            "content_encoding": reply.content_encoding,
        }
        statement = update(self.table).where(self.table.c.id == row).values(answer)
        await hold.session.execute(statement)

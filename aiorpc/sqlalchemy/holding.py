"""
Makes all that a call does with its database one transaction, whose first statement writes a record:
of an idempotency key, or of an event. Awaits the database.

A method may commit, roll back and begin as always. Its commits wait for the end of the call. After
a roll back, the next transaction begins with the record again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

__all__ = ["Hold", "hold_of", "holding", "watch_holds"]

_HOLD = "aiorpc_hold"


class Hold:
    """
    What holds the commits of *session*.

    Args:
        session: the session of the call.
        first: writes the record. It is called with the connection of each new transaction, in
            SQLAlchemy's greenlet. What it raises, the statement raises that began the transaction.
    """

    def __init__(self, session: AsyncSession, first: Callable[[Connection], None]) -> None:
        self.session = session
        #: Whether a dependency has begun the transaction. A roll back would lose what it wrote.
        self.joins = session.in_transaction()
        self._first = first
        #: Whether the current transaction has the record.
        self._stands = False
        self._tried = False
        #: The tasks with a block on the connection of the session, the innermost block last.
        self._blocks: list[asyncio.Task[Any] | None] = []

    def began(self, connection: Connection) -> None:
        """Write the record, because a transaction has begun on *connection*."""
        self._stands, self._tried = False, True
        self._first(connection)
        self._stands = True

    async def stand(self) -> None:
        """Begin a transaction with the record, unless the session is in one."""
        began_before = self.session.in_transaction()
        if began_before and self._tried and not self._stands:
            await self.session.rollback()  # the method caught the error of `first`
        connection = await self.session.connection()
        if began_before and not self._tried:  # another dependency has used the session
            await connection.run_sync(self.began)

    def release(self) -> None:
        """Let the next commit be one."""
        self.session.sync_session.info.pop(_HOLD, None)

    @contextmanager
    def block(self) -> Iterator[None]:
        """
        Enter a block with a savepoint on the connection of the session.

        Raises:
            RuntimeError: another task has a block. One transaction cannot have blocks side by side.
        """
        task = asyncio.current_task()
        if self._blocks and self._blocks[-1] is not task:
            raise RuntimeError(
                "two tasks of one call use get_session() at a time, and the changes of this call "
                "are one transaction, because of its idempotency key or its inbox: await one "
                "block after the other"
            )
        self._blocks.append(task)
        try:
            yield
        finally:
            self._blocks.pop()

    async def connection(self) -> AsyncConnection:
        """Return the connection of the session, in a transaction with the record."""
        await self.stand()
        return await self.session.connection()


@contextmanager
def holding(session: AsyncSession, first: Callable[[Connection], None]) -> Iterator[Hold]:
    """Hold the commits of *session* during the block; see :class:`Hold`."""
    info = session.sync_session.info
    hold = info[_HOLD] = Hold(session, first)
    try:
        yield hold
    finally:
        hold.release()


def hold_of(session: Session) -> Hold | None:
    """Return what holds the commits of *session*."""
    hold: Hold | None = session.info.get(_HOLD)
    return hold


def watch_holds(session_cls: type[Session]) -> None:
    """Let sessions of *session_cls* be held."""
    if not event.contains(session_cls, "before_commit", _before_commit):
        event.listen(session_cls, "before_commit", _before_commit)
        event.listen(session_cls, "after_begin", _began)


def _began(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if transaction.nested or (hold := hold_of(session)) is None:
        return
    if session.bind is not None and connection.engine is session.bind.engine:  # not of `binds`
        hold.began(connection)


def _before_commit(session: Session) -> None:
    if hold_of(session) is not None and session.get_nested_transaction() is None:
        raise RuntimeError(
            "the changes of this call are one transaction, because of its idempotency key or its "
            "inbox, and the synchronous session would commit a part of them: await commit() on "
            "the AsyncSession instead, which waits for the end of the call"
        )

"""
An ``AsyncSession`` for one call. A cancelled call cannot leave a session half committed or half
closed. A session warns about uncommitted changes.

Awaits the database. SQLAlchemy calls the event listeners, at the end of this file, in a greenlet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.exc import IllegalStateChangeError, MissingGreenlet
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    AsyncSessionTransaction,
)
from sqlalchemy.orm import ORMExecuteState, RelationshipProperty, Session
from sqlalchemy.util import greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from ..logs import logger
from .holding import hold_of

__all__ = ["CallSession", "WatchedSession", "finish", "uncommitted", "watch"]

log = logger("aiorpc.sqlalchemy")

T = TypeVar("T")

_UNCOMMITTED = "aiorpc_uncommitted"
_CONNECTIONS = "aiorpc_connections"


async def finish(work: Coroutine[Any, Any, T], within: float, *, by: float | None = None) -> T:
    """
    Await *work* to its end, even if the caller is cancelled. Raise the cancellation afterwards.

    Args:
        within: seconds that *work* may take after the caller is cancelled. Then *work* is cancelled
            too. A second cancellation of the caller cancels *work* at once.
        by: after a cancellation of the caller, the latest loop time at which *work* is cancelled.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        latest = loop.time() + within
        timer = loop.call_at(latest if by is None else min(latest, by), task.cancel)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,))
        finally:
            timer.cancel()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a cancelled call failed to finish its transaction: %r", error)
        raise
    return task.result()


class CallSession(AsyncSession):
    """
    An ``AsyncSession`` for one call of one method.

    * A cancelled ``commit`` still finishes its COMMIT, so that the result is known.
    * A ``commit`` during :func:`.holding.holding` only flushes.
    * ``close`` returns the connection, and the session can be used again. After the call, the
      session stays closed: a task that outlives the call cannot take a connection.

    Args:
        call: the call that uses the session, for log lines: ``service.method``. cleanup_timeout:
        seconds to finish a commit or a roll back after a cancellation. commits_at_end: whether the
        worker commits after the method returned.
    """

    def __init__(
        self,
        engine: AsyncEngine | AsyncConnection,
        *,
        call: object = "",
        cleanup_timeout: float = 5.0,
        commits_at_end: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(engine, **options)
        self.commits_at_end = commits_at_end
        self._call = call
        self._cleanup_timeout = cleanup_timeout

    async def commit(self) -> None:
        # A flush may wait for a lock, and can still be cancelled.
        await self.flush_pending()
        if hold_of(self.sync_session) is None:
            await finish(super().commit(), self._cleanup_timeout)

    def begin(self) -> AsyncSessionTransaction:
        if hold_of(self.sync_session) is not None:
            return self.begin_nested()  # in the transaction of the call
        return _Transaction(self)

    async def close(self) -> None:
        await self.reset()

    async def commit_at_end(self) -> None:
        """
        Commit when the worker closes, within ``cleanup_timeout``. Only a middleware with a timeout
        can cancel the commit here, and the COMMIT still finishes.
        """
        if self.in_transaction():
            by = asyncio.get_running_loop().time() + self._cleanup_timeout
            await finish(super().commit(), self._cleanup_timeout, by=by)

    async def end(self) -> None:
        """
        Close for good: roll back uncommitted changes, and return the connection to the pool.

        A failed roll back raises no error: the session drops the connection, and then the server
        rolls back.
        """
        session = self.sync_session
        if not session.in_transaction():
            session.close()  # there is nothing to roll back
            return
        task = asyncio.current_task()
        cancelled = task is not None and task.cancelling()
        try:
            # The caller's timeout cancels only once, maybe already at another session.
            async with asyncio.timeout(self._cleanup_timeout if cancelled else None):
                await self._roll_back_and_close()
        except BaseException as exc:
            await greenlet_spawn(_drop_connections, session)
            if not isinstance(exc, Exception):
                raise
            log.warning(
                "%s: its session did not close, and its connections were dropped: %r",
                self._call,
                exc,
            )

    async def end_shielded(self) -> None:
        """Close for good inside the method, where a cancellation is possible."""
        if self.in_transaction():
            await finish(self.end(), self._cleanup_timeout)
        else:
            await self.end()

    def warn_of_uncommitted(self) -> None:
        """Log a warning about uncommitted changes, which the session rolls back next."""
        if changes := uncommitted(self.sync_session):
            log.warning(
                "%s ended without a commit, so its changes are rolled back: %s. Await commit() on "
                "the session, or declare it with DatabaseSession(Base, commit=True)",
                self._call,
                changes,
            )

    async def flush_pending(self) -> None:
        """Flush if there are changes. ``AsyncSession.flush`` always starts a greenlet."""
        if not self.sync_session._is_clean():
            await self.flush()

    async def _roll_back_and_close(self) -> None:
        """Close, after waiting for the statement of a task that outlives the method."""
        now = asyncio.get_running_loop().time
        latest = now() + self._cleanup_timeout
        while True:
            try:
                return await greenlet_spawn(self.sync_session.close)
            except IllegalStateChangeError:
                if now() > latest:
                    raise
            await asyncio.sleep(0.01)


class _Transaction(AsyncSessionTransaction):
    """``async with session.begin():``. A cancelled call still finishes the COMMIT."""

    session: CallSession  # pyright: ignore[reportIncompatibleVariableOverride]

    async def commit(self) -> None:
        await self.session.flush_pending()
        await finish(super().commit(), self.session._cleanup_timeout)

    async def __aexit__(self, type_: Any, value: Any, traceback: Any) -> None:
        if type_ is None:
            try:
                await self.session.flush_pending()
            except BaseException as exc:
                await super().__aexit__(type(exc), exc, exc.__traceback__)
                raise
        await finish(super().__aexit__(type_, value, traceback), self.session._cleanup_timeout)


class WatchedSession(Session):
    """A separate class, so that ``watch`` adds its listeners only to the sessions of aiorpc."""


def uncommitted(session: Session) -> str:
    """Describe the uncommitted changes of *session*; "" if there are none."""
    if session._is_clean() and not session.info.get(_UNCOMMITTED):
        return ""
    kinds = {"new": session.new, "changed": session.dirty, "deleted": session.deleted}
    changes = [
        f"{len(objects)} {word} ({', '.join(sorted({type(one).__name__ for one in objects}))})"
        for word, objects in kinds.items()
        if objects
    ]
    if session.info.get(_UNCOMMITTED):
        changes.append("statements sent to the database")
    return "; ".join(changes)


def watch(session_cls: type[Session]) -> None:
    """Make sessions of *session_cls* remember their connections and their sent changes."""
    if not event.contains(session_cls, "after_flush", _flushed):
        event.listen(session_cls, "after_begin", _began)
        event.listen(session_cls, "do_orm_execute", _executed)
        event.listen(session_cls, "after_flush", _flushed)
        event.listen(session_cls, "after_commit", _ended)
        event.listen(session_cls, "after_rollback", _ended)


def _began(session: Session, _: Any, connection: Connection) -> None:
    # A session may have many transactions: forget the closed connections.
    held = [one for one in session.info.get(_CONNECTIONS, ()) if not one.closed]
    session.info[_CONNECTIONS] = [*held, connection]


def _drop_connections(session: Session) -> None:
    """
    Drop the connections of *session*. After a failed roll back, SQLAlchemy forgets its connections,
    and only the garbage collector would close them.
    """
    for connection in session.info.pop(_CONNECTIONS, ()):
        if not connection.closed:
            try:
                connection.invalidate()
                connection.close()
            except Exception as exc:  # noqa: BLE001 - drop the others too
                log.debug("could not drop a connection: %r", exc)


def _executed(execution: ORMExecuteState) -> None:
    if (execution.is_relationship_load or execution.is_column_load) and not in_greenlet():
        raise MissingGreenlet(_remedy(execution))
    if execution.is_insert or execution.is_update or execution.is_delete:
        execution.session.info[_UNCOMMITTED] = True


def _remedy(execution: ORMExecuteState) -> str:
    path = execution.loader_strategy_path
    if execution.is_relationship_load and path is not None:
        relationship = path[-1]
        assert isinstance(relationship, RelationshipProperty)
        name = relationship.key
        attribute = f"{relationship.parent.class_.__name__}.{name}"
        return (
            f"{attribute} is not loaded, and an attribute cannot await a query: add "
            f".options(selectinload({attribute})) to the query of the object, or await "
            f'session.refresh(object, ["{name}"])'
        )
    mapper = execution.bind_mapper
    return (
        f"an attribute of {mapper.class_.__name__ if mapper else 'an object'} is deferred or "
        "expired, and an attribute cannot await a query: await session.refresh(object)"
    )


def _flushed(session: Session, _: Any) -> None:
    session.info[_UNCOMMITTED] = True


def _ended(session: Session) -> None:
    if session.get_nested_transaction() is None:  # the end of a savepoint commits nothing
        session.info.pop(_UNCOMMITTED, None)

"""
The session of one call. It is an ``AsyncSession`` that a cancelled call cannot leave half committed
or half closed, and that says so when changes were forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.exc import IllegalStateChangeError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

__all__ = ["CallSession", "WatchedSession", "finish", "watch"]

log = logging.getLogger("aiorpc.sqlalchemy")

T = TypeVar("T")

_UNCOMMITTED = "aiorpc_uncommitted"
_CONNECTIONS = "aiorpc_connections"


async def finish(work: Coroutine[Any, Any, T], within: float, *, by: float | None = None) -> T:
    """
    Await *work* to its end, even if we are cancelled meanwhile; the cancel is raised afterwards.

    Once cancelled, *work* has *within* seconds left, but none after loop time *by*, and none when
    we are cancelled again; then it is cancelled itself.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    # As asyncio.wait() does, which makes ready for many tasks.
    ended: asyncio.Future[None] = loop.create_future()
    task.add_done_callback(partial(_wake, ended))
    try:
        await ended
    except asyncio.CancelledError:
        give_up_at = loop.time() + within
        timer = loop.call_at(give_up_at if by is None else min(give_up_at, by), task.cancel)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,))
        finally:
            timer.cancel()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("failed while its call was cancelled: %r", error)
        raise
    return task.result()


def _wake(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


class CallSession(AsyncSession):
    """
    An ``AsyncSession`` for one call of one method.

    * ``commit`` is not broken off once the COMMIT is under way: what is done is known.
    * ``close`` gives the connection back, and the session can be used again; after the call it is
      closed for good, so that a task left behind cannot take a connection that nobody returns.

    Args:
        call: who uses it, for messages: what prints as ``service.method``.
        cleanup_timeout: seconds that a commit or roll back may go on after a cancel.
        commits_at_end: whether it is committed when the method has returned.
    """

    def __init__(
        self,
        engine: AsyncEngine,
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
        # What is flushed can still be given up; it may have to wait for somebody's lock.
        await self.flush_pending()
        await finish(super().commit(), self._cleanup_timeout)

    def begin(self) -> AsyncSessionTransaction:
        return _Transaction(self)

    async def close(self) -> None:
        await self.reset()

    async def commit_at_end(self) -> None:
        """
        Commit when the worker closes, within its time for that. Nobody cancels it there but a
        middleware with a timeout of its own, and the COMMIT is not broken off for that either.
        """
        if self.in_transaction():
            by = asyncio.get_running_loop().time() + self._cleanup_timeout
            await finish(super().commit(), self._cleanup_timeout, by=by)

    async def end(self) -> None:
        """
        Close for good: roll back what is not committed, give the connection back.

        It cannot fail: a connection that does not roll back is thrown away, and what it did not
        commit the server forgets.
        """
        session = self.sync_session
        if not session.in_transaction():
            session.close()  # nothing to say to a server
            return
        task = asyncio.current_task()
        try:
            if task is not None and task.cancelling():
                # Who cancels us when we take too long has done so, maybe for a session before us.
                async with asyncio.timeout(self._cleanup_timeout):
                    await self._roll_back_and_close()
            else:
                await self._roll_back_and_close()
        except BaseException as exc:
            await greenlet_spawn(_drop_connections, session)
            if not isinstance(exc, Exception):
                raise
            log.warning("%s: its session did not close, and was dropped: %r", self._call, exc)

    async def end_unbroken(self) -> None:
        """The same where a cancel may come: inside the method."""
        if self.in_transaction():
            await finish(self.end(), self._cleanup_timeout)
        else:
            await self.end()

    def warn_of_uncommitted(self) -> None:
        """Say which changes are about to be rolled back, if there are any."""
        session = self.sync_session
        if session._is_clean() and not session.info.get(_UNCOMMITTED):
            return
        changes = [
            f"{len(objects)} {word} ({', '.join(sorted({type(one).__name__ for one in objects}))})"
            for word, objects in (
                ("new", session.new),
                ("changed", session.dirty),
                ("deleted", session.deleted),
            )
            if objects
        ]
        if session.info.get(_UNCOMMITTED):
            changes.append("statements sent to the database")
        if changes:
            log.warning(
                "%s ended without a commit and its changes were rolled back: %s. Await commit() on "
                "the session, or declare it with DatabaseSession(Base, commit=True)",
                self._call,
                "; ".join(changes),
            )

    async def flush_pending(self) -> None:
        """``flush``, without its cost where there is nothing to flush."""
        if not self.sync_session._is_clean():
            await self.flush()

    async def _roll_back_and_close(self) -> None:
        try:
            await greenlet_spawn(self.sync_session.close)
        except IllegalStateChangeError:
            await self._close_when_unused()

    async def _close_when_unused(self) -> None:
        """A task that the method left behind may be in the middle of something: let it finish."""
        give_up_at = asyncio.get_running_loop().time() + self._cleanup_timeout
        while True:
            await asyncio.sleep(0.01)
            try:
                return await greenlet_spawn(self.sync_session.close)
            except IllegalStateChangeError:
                if asyncio.get_running_loop().time() > give_up_at:
                    raise


class _Transaction(AsyncSessionTransaction):
    """``async with session.begin():``, whose commit is not broken off either."""

    async def commit(self) -> None:
        session = self._owner
        await session.flush_pending()
        await finish(super().commit(), session._cleanup_timeout)

    async def __aexit__(self, type_: Any, value: Any, traceback: Any) -> None:
        if type_ is None:
            try:
                await self._owner.flush_pending()
            except BaseException as exc:
                await super().__aexit__(type(exc), exc, exc.__traceback__)
                raise
        await finish(super().__aexit__(type_, value, traceback), self._owner._cleanup_timeout)

    @property
    def _owner(self) -> CallSession:
        assert isinstance(self.session, CallSession)
        return self.session


class WatchedSession(Session):
    """
    Remembers whether it sent changes that are not committed. By methods, where listeners would do:
    one for ``do_orm_execute`` makes SQLAlchemy prepare every query twice.
    """

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._note(statement)
        return super().execute(statement, *args, **kwargs)

    def scalar(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._note(statement)
        return super().scalar(statement, *args, **kwargs)

    def scalars(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._note(statement)
        return super().scalars(statement, *args, **kwargs)

    def _note(self, statement: Any) -> None:
        if getattr(statement, "is_dml", False):
            self.info[_UNCOMMITTED] = True


def watch(session_cls: type[Session]) -> None:
    """Let sessions of *session_cls* remember their connections, and flushes not committed."""
    if not event.contains(session_cls, "after_flush", _flushed):
        event.listen(session_cls, "after_begin", _began)
        event.listen(session_cls, "after_flush", _flushed)
        event.listen(session_cls, "after_commit", _settled)
        event.listen(session_cls, "after_rollback", _settled)


def _began(session: Session, _: Any, connection: Connection) -> None:
    held = session.info.get(_CONNECTIONS)
    if held is None:
        session.info[_CONNECTIONS] = [connection]
    else:  # a session may live through very many transactions
        held[:] = [one for one in held if not one.closed]
        held.append(connection)


def _drop_connections(session: Session) -> None:
    """
    Throw away what *session* holds. A session whose roll back failed does not know its connections
    any more, and would leave them to the garbage collector.
    """
    for connection in session.info.pop(_CONNECTIONS, ()):
        if not connection.closed:
            try:
                connection.invalidate()
                connection.close()
            except Exception as exc:  # noqa: BLE001 - one must not keep the others
                log.debug("dropping a connection failed: %r", exc)


def _flushed(session: Session, _: Any) -> None:
    session.info[_UNCOMMITTED] = True


def _settled(session: Session) -> None:
    if session.get_nested_transaction() is None:  # a savepoint settles nothing
        session.info.pop(_UNCOMMITTED, None)

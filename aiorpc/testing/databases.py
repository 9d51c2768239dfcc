"""
The session and the database of the fixtures ``db_session`` and ``database``. This file needs
SQLAlchemy, so the plugin imports it only for tests with one of these fixtures.

A test has one connection, and one transaction, which is rolled back at the end. The test and each
call of a service have sessions of their own on this connection, with savepoints, so that a service
shares no objects with the test. Databases end savepoints in reverse order, so the sessions use the
connection in turns.

Awaits the database. SQLAlchemy calls the methods of ``_InTurn`` in a greenlet.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, MetaData, Table, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_session
from sqlalchemy.orm import Session

from ..extensions import DependencyProvider, WorkerContext
from ..sqlalchemy.engine.configuration import configured
from ..sqlalchemy.engine.opening import open_engine
from ..sqlalchemy.providers import CallDatabase, Database, DatabaseSession
from ..sqlalchemy.session import CallSession, WatchedSession, uncommitted, watch
from .dependencies import StandIn

__all__ = ["FixtureSession", "SessionDatabase", "opened_session"]


@asynccontextmanager
async def opened_session(base: Any, url: str) -> AsyncGenerator[FixtureSession]:
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
        sessions = _Sessions(connection)
        try:
            async with FixtureSession(sessions) as session:
                yield session
            await connection.run_sync(sessions.end)
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


class _Sessions:
    """The sessions on the connection of one test."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.opened: WeakSet[Session] = WeakSet()

    def options(self, session_options: Any) -> dict[str, Any]:
        """Options of an ``AsyncSession`` on the connection."""
        options = {"expire_on_commit": False, **(session_options or {})}
        cls = options.pop("sync_session_class", WatchedSession)
        watch(cls)
        return {
            **options,
            "join_transaction_mode": "create_savepoint",
            "sync_session_class": type("Session", (_InTurn, cls), {}),
            "info": {**options.get("info", {}), _SESSIONS: self},
        }

    def begin(self, session: Session, *, strict: bool = True) -> None:
        """
        End the transactions of the other sessions, which have changed nothing.

        Raises:
            RuntimeError: *strict*, and the test would see uncommitted changes of a service, or the
                service those of the test. Sessions of services may see changes of one another.
        """
        for other in list(self.opened):
            if other is session:
                continue
            if (changes := uncommitted(other)) and not other.info.get(_COMMITS):
                if strict and (_is_of_test(session) or _is_of_test(other)):
                    raise RuntimeError(_conflict(other, changes))
            elif other.in_transaction() and other._trans_context_manager is None:
                # (`async with session.begin()` ends its transaction itself.)
                with _expiring_nothing(other):
                    other.commit()

    def end(self, _: Connection) -> None:
        """Close the sessions of services that have no container, with the usual warnings."""
        for session in list(self.opened):
            owner = async_session(session)
            if isinstance(owner, CallSession) and not session.info.get(_COMMITS):
                owner.warn_of_uncommitted()
            session.close()


#: Keys in a session's ``info``: its ``_Sessions``; whether it commits when its turn ends.
_SESSIONS = "aiorpc_sessions"
_COMMITS = "aiorpc_commits"


class _InTurn(Session):
    """A session on the connection of a test."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.info[_SESSIONS].opened.add(self)

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        # SQLAlchemy calls this method before each use of the connection.
        self.info[_SESSIONS].begin(self)
        return super().get_bind(*args, **kwargs)

    def commit(self) -> None:
        self._end_inner()
        super().commit()

    def rollback(self) -> None:
        self._end_inner()
        super().rollback()

    def close(self) -> None:
        self._end_inner()
        super().close()

    def _end_inner(self) -> None:
        if self.in_transaction():
            self.info[_SESSIONS].begin(self, strict=False)


def _is_of_test(session: Session) -> bool:
    return isinstance(async_session(session), FixtureSession)


def _conflict(other: Session, changes: str) -> str:
    if _is_of_test(other):
        return (
            f"the test has uncommitted changes, which a service in production would not see: "
            f"{changes}. Await db_session.commit() before the service uses the database"
        )
    return (
        f"the service has uncommitted changes, which only its own session sees in production: "
        f"{changes}. Await commit() on the session in the method, or declare it with "
        "DatabaseSession(Base, commit=True)"
    )


@contextmanager
def _expiring_nothing(session: Session) -> Iterator[None]:
    before, session.expire_on_commit = session.expire_on_commit, False
    try:
        yield
    finally:
        session.expire_on_commit = before


class _OnTheConnection(StandIn):
    """Replaces a ``DatabaseSession`` or a ``Database`` by one on the connection of the test."""

    _shared: _Sessions

    def value_for(self, provider: DependencyProvider[Any]) -> Any:
        call = f"self.{provider.attr_name}"
        match self._bound(provider):
            case DatabaseSession() as bound:
                session = bound._new_session(call=call, commits_at_end=bound.commit)
                session.sync_session.info[_COMMITS] = bound.commit
                return session
            case Database() as bound:
                return CallDatabase(bound, call)
        return self

    def provider_for(self, provider: DependencyProvider[Any]) -> DependencyProvider[Any]:
        return _Provider(self._bound(provider) or self)

    def _bound(self, provider: DependencyProvider[Any]) -> DatabaseSession | Database | None:
        """Copy *provider*, for sessions on the connection. None: a provider of another kind."""
        if not isinstance(provider, DatabaseSession | Database):
            return None
        bound = copy.copy(provider)
        bound.engine = self._shared.connection.engine
        options = self._shared.options(bound.session_options)
        bound._new_session = partial(CallSession, self._shared.connection, **options)
        return bound


class _Provider(DependencyProvider[Any]):
    def __init__(self, replacement: Any) -> None:
        self._replacement = replacement

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[Any]:
        if not isinstance(self._replacement, DatabaseSession | Database):
            yield self._replacement
            return
        async with self._replacement.provide(worker_ctx) as value:
            yield value


class FixtureSession(_OnTheConnection, AsyncSession):
    """The session of a test."""

    def __init__(self, sessions: _Sessions) -> None:
        self._shared = sessions
        super().__init__(sessions.connection, **sessions.options(None))


class SessionDatabase(_OnTheConnection, CallDatabase):
    """
    Replaces ``self.db`` in a service that declares ``Database(Base)``. Changes on other connections
    of its ``engine`` stay after the test.
    """

    def __init__(self, session: FixtureSession) -> None:
        self._shared = session._shared
        bound = self._bound(Database(None))
        assert bound is not None
        CallDatabase.__init__(self, bound, "the fixture database")

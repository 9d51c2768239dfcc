"""
The dependencies that give a service its database: ``DatabaseSession`` and ``Database``.

Awaits the database when a call ends.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ..exceptions import ConfigurationError
from ..extensions import DependencyProvider, Host, WorkerContext
from .engine.configuration import DatabaseConfig, configured
from .engine.opening import open_engine
from .holding import Hold
from .session import CallSession, WatchedSession, watch

__all__ = ["CHECKS", "CallDatabase", "Database", "DatabaseSession", "session_of"]

T_co = TypeVar("T_co", covariant=True)

#: The attribute of a method with functions that are called when its service starts. They raise
#: ``ConfigurationError``. functools.wraps() copies it to the functions around the method.
CHECKS = "_aiorpc_database_checks"


@dataclass(eq=False, repr=False)
class _DatabaseProvider(DependencyProvider[T_co]):
    """Keeps an engine while the container runs. All providers of one database share an engine."""

    declarative_base: Any
    engine_options: Mapping[str, Any] | None = None
    session_options: Mapping[str, Any] | None = None
    #: The engine. ``engine.pool`` counts the connections.
    engine: AsyncEngine = field(init=False)
    #: Makes a ``CallSession`` for the call in its argument *call*.
    _new_session: partial[CallSession] = field(init=False)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        _check_methods(host.service_cls)
        database, self.engine = await self.opened(host)
        options: dict[str, Any] = {
            "expire_on_commit": False,
            "close_resets_only": False,
            "sync_session_class": WatchedSession,
            **database.session_options,
            "cleanup_timeout": database.cleanup_timeout,
        }
        watch(options["sync_session_class"])
        self._new_session = partial(CallSession, self.engine, **options)
        try:
            self._new_session()
        except TypeError as exc:
            raise ConfigurationError(
                f"{database.key}: SQLAlchemy cannot make a session of DB_SESSION_OPTIONS "
                f"({', '.join(sorted(database.session_options))}): {exc}"
            ) from None
        yield

    async def opened(self, host: Host) -> tuple[DatabaseConfig, AsyncEngine]:
        """Return the database of *host*, and the engine that all its providers share."""
        database = configured(
            host.settings,
            host.service_name,
            self.declarative_base,
            self.engine_options,
            self.session_options,
        )
        engine_options = sorted(database.engine_options.items())
        key = _DatabaseProvider, database.key, repr(engine_options)
        return database, await host.share(key, partial(open_engine, database))


@dataclass(eq=False, repr=False)
class DatabaseSession(_DatabaseProvider[AsyncSession]):
    """
    A session for each call::

        class Library:
            name = "library"
            db = DatabaseSession(Base)

            @rpc
            async def count_books(self) -> int:
                return await self.db.scalar(select(func.count()).select_from(Book)) or 0

    The URL is in ``DB_URIS["library:Base"]``. A session connects at its first query; a call without
    a query uses no connection. When the call ends, the worker rolls the session back and closes it.
    A warning names changes that the method did not commit.

    Args:
        declarative_base: the base of the mapped classes. The name of the base is the second half of
            the key in ``DB_URIS``.
        engine_options: options of ``create_async_engine``; ``DB_ENGINE_OPTIONS`` replaces them.
        session_options: options of ``AsyncSession``; ``DB_SESSION_OPTIONS`` replaces them.
            ``expire_on_commit`` is False by default.
        commit: commit after the method returned and the worker encoded its result, before the
            worker answers the caller. If the method raises, the session rolls back.
    """

    commit: bool = field(default=False, kw_only=True)

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[AsyncSession]:
        session = self._new_session(call=worker_ctx.call, commits_at_end=self.commit)
        try:
            yield session
            if self.commit:
                await session.commit_at_end()
            else:
                session.warn_of_uncommitted()
        finally:
            await session.end()


class CallDatabase:
    """The value of ``self.db`` in a service that declares ``db = Database(Base)``."""

    def __init__(self, provider: _DatabaseProvider[Any], call: object) -> None:
        self._provider = provider
        self._call = call
        self._session: CallSession | None = None
        #: The sessions to close when the call ends: ``session``, and ``close_on_exit=False``.
        self._sessions: list[CallSession] = []
        #: The sessions of the blocks of ``get_session`` that run now.
        self.in_blocks: list[AsyncSession] = []
        self._ended = False
        self._hold: Hold | None = None

    @property
    def engine(self) -> AsyncEngine:
        return self._provider.engine

    @property
    def session(self) -> AsyncSession:
        """The session of this call, made at first use. Only the method commits this session."""
        if self._session is None:
            self._session = self._new_session()
            self._sessions.append(self._session)
        return self._session

    @property
    def was_used(self) -> bool:
        """Whether this call has used ``session``."""
        return self._session is not None

    @asynccontextmanager
    async def get_session(self, *, close_on_exit: bool = True) -> AsyncGenerator[AsyncSession]:
        """
        Open a session for a block. Commit when the block ends, roll back if the block raises::

            async with self.db.get_session() as session:
                session.add(Book(title="Emma"))

        Args:
            close_on_exit: False keeps the session open until the call ends.
        """
        block = self._own_block if self._hold is None else partial(self._block, self._hold)
        async with block(close_on_exit) as session:
            self.in_blocks.append(session)
            try:
                yield session
            finally:
                self.in_blocks.remove(session)

    @asynccontextmanager
    async def _own_block(self, close_on_exit: bool) -> AsyncGenerator[AsyncSession]:
        """Open a session with a transaction of its own."""
        session = self._new_session()
        try:
            yield session
            await session.commit()
        except BaseException:
            await session.end_shielded()
            raise
        if close_on_exit or self._ended:
            await session.end_shielded()
        else:
            self._sessions.append(session)

    @property
    def holder(self) -> AsyncSession | None:
        """The session whose commit commits the blocks; ``None``: each block commits by itself."""
        return None if self._hold is None else self._hold.session

    def held(self, hold: Hold) -> None:
        """Do everything in the transaction of *hold* from now on."""
        self._hold, self._session = hold, hold.session  # type: ignore[assignment]

    @asynccontextmanager
    async def _block(self, hold: Hold, close_on_exit: bool) -> AsyncGenerator[AsyncSession]:
        """Open a session with a savepoint in the transaction of *hold*."""
        with hold.block():
            new = self._provider._new_session
            options = {**new.keywords, "join_transaction_mode": "create_savepoint"}
            session = CallSession(await hold.connection(), call=self._call, **options)
            try:
                yield session
                await session.commit()
            except BaseException:
                await session.end_shielded()
                raise
            if close_on_exit:
                await session.end_shielded()
            else:
                self._sessions.append(session)

    def _warn_of_uncommitted(self) -> None:
        for session in self._sessions:
            session.warn_of_uncommitted()

    def _new_session(self) -> CallSession:
        session = self._provider._new_session(call=self._call)
        if self._ended:  # a task that outlives the call would keep its connection
            session.sync_session.close()
        return session

    async def _end(self) -> None:
        self._ended = True
        async with AsyncExitStack() as ending:
            for session in self._sessions:
                ending.push_async_callback(session.end)


class Database(_DatabaseProvider[CallDatabase]):
    """
    Sessions on demand. ``self.db.session`` is a session for the whole call. ``async with
    self.db.get_session() as session`` opens a session for a block, and commits when the block ends.

    Args:
        declarative_base, engine_options, session_options: see :class:`DatabaseSession`.
    """

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[CallDatabase]:
        database = CallDatabase(self, worker_ctx.call)
        try:
            yield database
            database._warn_of_uncommitted()
        finally:
            await database._end()


def _check_methods(service_cls: type) -> None:
    for name in dir(service_cls):
        for check in getattr(inspect.getattr_static(service_cls, name, None), CHECKS, ()):
            check()


def session_of(value: Any) -> Any:
    """Return the session *value*, or the session of a ``CallDatabase`` or of its test double."""
    return value if hasattr(value, "rollback") else value.session

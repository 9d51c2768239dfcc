"""
What a service declares to use a database: ``DatabaseSession`` and ``Database``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ..exceptions import ConfigurationError
from ..extensions import DependencyProvider, Host, WorkerContext
from .engine.opening import configured, open_engine
from .session import CallSession, WatchedSession, watch

__all__ = ["CallDatabase", "Database", "DatabaseSession"]

T_co = TypeVar("T_co", covariant=True)

_SESSION_DEFAULTS: Mapping[str, Any] = {"expire_on_commit": False, "close_resets_only": False}


class _DatabaseProvider(DependencyProvider[T_co]):
    """Has an engine as long as the container, one for all providers of the same database."""

    #: The engine, while the container runs; ``engine.pool`` has the counts.
    engine: AsyncEngine
    #: ``CallSession`` with all its arguments but the call.
    _new_session: Callable[..., CallSession]

    def __init__(
        self,
        declarative_base: Any,
        engine_options: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.declarative_base = declarative_base
        self._engine_options = engine_options
        self._session_options = session_options

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        database = configured(
            host.settings,
            host.service_name,
            self.declarative_base,
            self._engine_options,
            self._session_options,
        )
        engine_options = sorted(database.engine_options.items(), key=lambda item: item[0])
        self.engine = await host.share(
            (_DatabaseProvider, database.key, repr(engine_options)), partial(open_engine, database)
        )
        options: dict[str, Any] = {
            **_SESSION_DEFAULTS,
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
                f"{database.key}: a session cannot be made of DB_SESSION_OPTIONS "
                f"({', '.join(sorted(database.session_options))}): {exc}"
            ) from None
        yield


class DatabaseSession(_DatabaseProvider[AsyncSession]):
    """
    A session for each call::

        class Library:
            name = "library"
            db = DatabaseSession(Base)

            @rpc
            async def count_books(self) -> int:
                return await self.db.scalar(select(func.count()).select_from(Book)) or 0

    Its URL is ``DB_URIS["library:Base"]``. It connects with its first query: a call that sends none
    costs no connection. When the call ends it is rolled back and closed; changes that were not
    committed are named in a warning.

    Args:
        declarative_base: the base of the mapped classes; its name is half of the key in
            ``DB_URIS``.
        engine_options: for ``create_async_engine``; ``DB_ENGINE_OPTIONS`` replaces them.
        session_options: for ``AsyncSession``; ``DB_SESSION_OPTIONS`` replaces them.
            ``expire_on_commit`` is False unless said otherwise.
        commit: commit when the method has returned and its result is encoded, before the caller is
            answered; roll back if it raises.
    """

    def __init__(
        self,
        declarative_base: Any,
        engine_options: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
        *,
        commit: bool = False,
    ) -> None:
        super().__init__(declarative_base, engine_options, session_options)
        self._commit = commit

    def provide(self, worker_ctx: WorkerContext) -> AbstractAsyncContextManager[AsyncSession]:
        return _SessionForCall(self._new_session(call=worker_ctx.call, commits_at_end=self._commit))


class _SessionForCall(AbstractAsyncContextManager[AsyncSession]):
    """
    A session from entry to the end of its call. No ``@asynccontextmanager``: a generator and its
    two coroutines cost a good part of what the session does, in every call.
    """

    __slots__ = ("_session",)

    def __init__(self, session: CallSession) -> None:
        self._session = session

    async def __aenter__(self) -> AsyncSession:
        return self._session

    async def __aexit__(self, error_type: object, error: object, traceback: object) -> None:
        session = self._session
        try:
            if error_type is not None:
                return
            if session.commits_at_end:
                await session.commit_at_end()
            else:
                session.warn_of_uncommitted()
        finally:
            await session.end()


class CallDatabase:
    """What ``self.db`` is where a service declares ``db = Database(Base)``."""

    def __init__(self, provider: _DatabaseProvider[Any], call: object) -> None:
        self._provider = provider
        self._call = call
        self._session: CallSession | None = None
        self._left_open: list[CallSession] = []
        self._ended = False

    @property
    def engine(self) -> AsyncEngine:
        return self._provider.engine

    @property
    def session(self) -> AsyncSession:
        """The session of this call, made when it is first asked for. Nothing commits it."""
        if self._session is None:
            self._session = self._new_session()
        return self._session

    @property
    def was_used(self) -> bool:
        """Whether ``session`` was asked for in this call."""
        return self._session is not None

    def get_session(
        self, *, close_on_exit: bool = True
    ) -> AbstractAsyncContextManager[AsyncSession]:
        """
        A session for a block, committed at its end and rolled back if it raises::

            async with self.db.get_session() as session:
                session.add(Book(title="Emma"))

        Args:
            close_on_exit: False keeps it usable until the call ends.
        """
        return self._block(close_on_exit)

    @asynccontextmanager
    async def _block(self, close_on_exit: bool) -> AsyncGenerator[AsyncSession]:
        session = self._new_session()
        try:
            yield session
            await session.commit()
        except BaseException:
            await session.end_unbroken()
            raise
        if close_on_exit or self._ended:
            await session.end_unbroken()
        else:
            self._left_open.append(session)

    def _warn_of_uncommitted(self) -> None:
        for session in self._sessions():
            session.warn_of_uncommitted()

    def _new_session(self) -> CallSession:
        session = self._provider._new_session(call=self._call)
        if self._ended:  # for a task that was left behind: nobody would return its connection
            session.sync_session.close()
        return session

    async def _end(self) -> None:
        self._ended = True
        async with AsyncExitStack() as ending:
            for session in self._sessions():
                ending.push_async_callback(session.end)

    def _sessions(self) -> list[CallSession]:
        return [*self._left_open, *([self._session] if self._session else [])]


class Database(_DatabaseProvider[CallDatabase]):
    """
    Sessions when a call asks for them: ``self.db.session``, one for the call, and ``async with
    self.db.get_session() as session``, one for a block, committed at its end.

    Arguments are those of :class:`DatabaseSession`.
    """

    def provide(self, worker_ctx: WorkerContext) -> AbstractAsyncContextManager[CallDatabase]:
        return _DatabaseForCall(CallDatabase(self, worker_ctx.call))


class _DatabaseForCall(AbstractAsyncContextManager[CallDatabase]):
    __slots__ = ("_database",)

    def __init__(self, database: CallDatabase) -> None:
        self._database = database

    async def __aenter__(self) -> CallDatabase:
        return self._database

    async def __aexit__(self, error_type: object, error: object, traceback: object) -> None:
        try:
            if error_type is None:
                self._database._warn_of_uncommitted()
        finally:
            await self._database._end()

"""
What the dependencies that write rows of their own in the transaction of a call have in common: the
table, the session of the call, the insert, and the deletion of old rows. Awaits the database.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Table, delete, insert, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.schema import SchemaItem

from ..checks import shown
from ..exceptions import ConfigurationError
from ..extensions import DependencyProvider, Host, WorkerContext, providers_of
from ..logs import logger
from .engine.configuration import DatabaseConfig
from .holding import Hold, holding, watch_holds
from .providers import CallDatabase, Database, DatabaseSession, session_of
from .retry import is_transient
from .session import WatchedSession

__all__ = [
    "BATCH",
    "EVERY",
    "Records",
    "databases_beside",
    "digest",
    "insert_unless_there",
    "may_begin_again",
    "now",
    "require_one",
    "table_on",
]

log = logger("aiorpc.sqlalchemy")

T_co = TypeVar("T_co", covariant=True)

#: Seconds between two deletions of old rows, and rows that one statement deletes at most.
EVERY = 60.0
BATCH = 500
#: Seconds that one statement of a deletion may take.
_LONGEST = 30.0
_WRITES = "{}.{} writes in the session of the call"


def now() -> float:
    """Return the time in seconds since 1970, for the rows of all tables. A test replaces it."""
    return time.time()


def digest(*parts: str) -> str:
    """Return 64 characters that only these *parts* have: a key for a column of any database."""
    found = hashlib.sha256()
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        found.update(b"%d:" % len(encoded) + encoded)
    return found.hexdigest()


def table_on(base: Any, name: str, columns: Callable[[], Sequence[SchemaItem]]) -> Table:
    """
    Return the table *name* in the metadata (and the schema) of the declarative *base*. Make it of
    *columns* if it is not there yet. So ``create_tables`` and Alembic see it.

    Raises:
        ConfigurationError: *base* is no declarative base, or has another table of this name.
    """
    metadata = getattr(base, "metadata", None)
    if metadata is None:
        raise ConfigurationError(
            f"a table needs a declarative base, which has metadata, got {shown(base)}: give the "
            "class Base(DeclarativeBase) of the mapped classes"
        )
    there = metadata.tables.get(f"{metadata.schema}.{name}" if metadata.schema else name)
    if there is None:
        return Table(name, metadata, *columns())
    needed = {each.name for each in columns() if isinstance(each, Column)}
    if missing := sorted(needed - set(there.columns.keys())):
        raise ConfigurationError(
            f"{base.__name__} has a table {name} of another kind, without {', '.join(missing)}: "
            "give the dependency another name for its table, with table="
        )
    return there  # type: ignore[no-any-return]


def insert_unless_there(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    """
    Insert a row, and return True. Return False if a row with the same primary key or another unique
    key is there. Wait for a transaction that has inserted such a row and is still open.
    """
    match connection.dialect.name:
        case "postgresql":
            statement: Any = postgresql.insert(table).on_conflict_do_nothing()
        case "sqlite":
            statement = sqlite.insert(table).on_conflict_do_nothing()
        case "mysql" | "mariadb":
            statement = mysql.insert(table).prefix_with("IGNORE")
        case _:
            try:
                with connection.begin_nested():
                    connection.execute(insert(table).values(values))
            except IntegrityError:
                return False
            return True
    return bool(connection.execute(statement.values(values)).rowcount > 0)


def may_begin_again(hold: Hold, error: DBAPIError) -> bool:
    """Return whether a call whose first statement failed with *error* may begin again."""
    return not (hold.joins or error.connection_invalidated) and is_transient(error)


@dataclass(eq=False, repr=False)
class Records(DependencyProvider[T_co]):
    """
    A dependency with rows in a table of *declarative_base*, which it writes in the session of the
    call. The service declares that session too: ``DatabaseSession(Base, commit=True)`` or
    ``Database(Base)``, with the same ``Base``.
    """

    declarative_base: Any
    #: The engine of the session.
    engine: AsyncEngine = field(init=False)
    table: Table = field(init=False)
    #: The attribute of the service with the session.
    _attribute: str = field(init=False)
    #: Whether the session commits at the end of the call.
    _commits: bool = field(init=False)
    #: The attributes of the service with a ``CallDatabase`` of *declarative_base*.
    _databases: list[str] = field(init=False)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        provider = self._provider_beside(host.service_cls)
        beside = databases_beside(self, host.service_cls)
        self._databases = [each.attr_name for each in beside if isinstance(each, Database)]
        self._attribute = provider.attr_name
        self._commits = isinstance(provider, DatabaseSession)
        database, self.engine = await provider.opened(host)
        _require_transactions(database)
        watch_holds(database.session_options.get("sync_session_class", WatchedSession))
        yield

    def _provider_beside(self, service_cls: type) -> DatabaseSession | Database:
        found = databases_beside(self, service_cls)
        sessions = [each for each in found if isinstance(each, DatabaseSession)]
        require_one(self, service_cls, sessions)
        if sessions and not sessions[0].commit:
            raise ConfigurationError(
                f"{_WRITES.format(service_cls.__qualname__, self.attr_name)}, which must commit at "
                f"the end of the call: declare {sessions[0].attr_name} = "
                f"DatabaseSession({self.declarative_base.__name__}, commit=True)"
            )
        return (sessions or found)[0]

    def session(self, worker_ctx: WorkerContext) -> AsyncSession:
        """Return the session of the call."""
        session: AsyncSession = session_of(vars(worker_ctx.service)[self._attribute])
        return session

    @contextmanager
    def holding(
        self, worker_ctx: WorkerContext, first: Callable[[Connection], None]
    ) -> Iterator[Hold]:
        """
        Make all that the call does with *declarative_base* one transaction, which begins with
        *first*; see :mod:`.holding`. After the block, await :meth:`commit`.
        """
        with holding(self.session(worker_ctx), first) as hold:
            for name in self._databases:
                value = vars(worker_ctx.service)[name]
                if isinstance(value, CallDatabase):  # a test may put another value in its place
                    value.held(hold)
            yield hold

    async def commit(self, session: AsyncSession) -> None:
        """Commit after :meth:`holding`, unless the dependency of *session* does it next."""
        if not self._commits:
            await session.commit()

    # Old rows

    async def delete_old(self, old: Callable[[], ColumnElement[bool]]) -> None:
        """
        Delete the rows for which *old* is true, from now on until cancelled, in small batches. The
        table has one column as its primary key. Give this coroutine to ``host.spawn``.
        """
        failing = False
        pause = random.uniform(1.0, EVERY)  # the processes of a service start together
        while True:
            await asyncio.sleep(pause)
            pause = random.uniform(0.5, 1.5) * EVERY
            try:
                async with asyncio.timeout(_LONGEST):
                    if await self.delete_batch(old()) == BATCH:
                        pause = 0.1
            except Exception as error:  # noqa: BLE001 - a driver may raise anything
                if not failing:
                    log.warning("old rows of the table %s stay for now: %r", self.table.name, error)
                failing = True
            else:
                failing = False

    async def delete_batch(self, old: ColumnElement[bool]) -> int:
        """Delete at most ``BATCH`` rows for which *old* is true, and return their number."""
        (key,) = self.table.primary_key.columns
        async with self.engine.begin() as connection:
            found = await connection.execute(select(key).where(old).limit(BATCH))
            if keys := [row[0] for row in found]:
                await connection.execute(delete(self.table).where(key.in_(keys), old))
        return len(keys)


def _require_transactions(database: DatabaseConfig) -> None:
    options = database.engine_options
    given = {**options.get("execution_options", {}), **options}.get("isolation_level")
    if isinstance(given, str) and given.upper() == "AUTOCOMMIT":
        raise ConfigurationError(
            f"{database.key}: with the isolation level AUTOCOMMIT, each statement is committed by "
            "itself, and a record could stand without the changes of its call: choose another "
            "isolation_level in DB_ENGINE_OPTIONS"
        )


def databases_beside(dependency: Any, service_cls: type) -> list[DatabaseSession | Database]:
    """
    Return the dependencies of *service_cls* with sessions of the base of *dependency*.

    Raises:
        ConfigurationError: there is none.
    """
    base = dependency.declarative_base
    found = [
        each
        for each in providers_of(service_cls)
        if isinstance(each, DatabaseSession | Database) and each.declarative_base is base
    ]
    if not found:
        raise ConfigurationError(
            f"{_WRITES.format(service_cls.__qualname__, dependency.attr_name)}, and "
            f"{service_cls.__qualname__} has none with {base.__name__}: declare db = "
            f"DatabaseSession({base.__name__}, commit=True) or db = Database({base.__name__}) in "
            "the class"
        )
    return found


def require_one(
    dependency: Any, service_cls: type, found: Sequence[DatabaseSession | Database]
) -> None:
    """
    Raises:
        ConfigurationError: *found* has several, and *dependency* cannot know which one is meant.
    """
    if len(found) > 1:
        raise ConfigurationError(
            f"{_WRITES.format(service_cls.__qualname__, dependency.attr_name)}, and there are "
            f"several with {dependency.declarative_base.__name__} "
            f"({', '.join(each.attr_name for each in found)}): declare one"
        )

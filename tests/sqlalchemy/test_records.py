"""
What idempotency keys, inbox and outbox share: a call is one transaction that begins with a record,
whatever its method does with its sessions. On all three databases.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Connection, String, func, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import SchemaItem

from aiorpc import (
    ConfigurationError,
    DependencyProvider,
    Entrypoint,
    RemoteError,
    ServiceContainer,
    WorkerContext,
    rpc,
)
from aiorpc.guards import Guard, Returned
from aiorpc.sqlalchemy import (
    Database,
    DatabaseSession,
    configured,
    open_engine,
    records,
    transaction_retry,
)
from aiorpc.sqlalchemy.records import Records, digest, insert_unless_there, table_on
from tests.support.databases import engine_of, running

RUN = f"aiorpc_{os.getpid()}"


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = f"entry_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(50), unique=True)


class OtherBase(DeclarativeBase):
    pass


class OtherEntry(OtherBase):
    __tablename__ = f"other_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(50))


def columns() -> Sequence[SchemaItem]:
    return Column("id", String(64), primary_key=True), Column("made", BigInteger, nullable=False)


class Seen(Exception):
    """There is a record of the call."""


@dataclass(eq=False, repr=False)
class Once(Records[None], Guard[None]):
    """Runs each method once."""

    def __post_init__(self) -> None:
        self.table = table_on(self.declarative_base, f"once_{RUN}", columns)
        self.begun = 0

    def guards(self, entrypoint: Entrypoint) -> bool:
        return True

    def value(self, worker_ctx: WorkerContext) -> None:
        return None

    async def run(
        self, worker_ctx: WorkerContext, method: Callable[[], Awaitable[Returned]]
    ) -> Any:
        record = {"id": digest(worker_ctx.call.method), "made": int(records.now())}

        def first(connection: Connection) -> None:
            self.begun += 1
            if not insert_unless_there(connection, self.table, record):
                raise Seen

        try:
            with self.holding(worker_ctx, first) as hold:
                await hold.stand()
                answer = await method()
                await hold.stand()
                assert hold.session.in_transaction()
            await self.commit(hold.session)
        except Seen:
            await hold.session.rollback()
            return "seen"
        return answer.result


class Ledger:
    name = f"ledger_{RUN}"
    db = DatabaseSession(Base, commit=True)
    more = Database(Base)
    once = Once(Base)

    @rpc
    async def add(self) -> int:
        self.db.add(Entry(text="a"))
        return 1

    @rpc
    async def commit_and_fail(self) -> None:
        self.db.add(Entry(text="committed"))
        await self.db.commit()
        async with self.db.begin():
            self.db.add(Entry(text="in begin"))
        async with self.more.get_session() as session:
            session.add(Entry(text="in a block"))
        raise LookupError("after the commits")

    @rpc
    async def commit_and_return(self) -> int:
        self.db.add(Entry(text="committed"))
        await self.db.commit()
        async with self.db.begin():
            self.db.add(Entry(text="in begin"))
        async with self.more.get_session() as session:
            session.add(Entry(text="in a block"))
            async with self.more.get_session() as inner:
                inner.add(Entry(text="in a block in a block"))
        with suppress(LookupError):
            async with self.more.get_session() as session:
                session.add(Entry(text="rolled back"))
                await session.flush()
                raise LookupError
        async with self.more.get_session(close_on_exit=False) as session:
            entry = Entry(text="left open")
            session.add(entry)
        await session.refresh(entry)
        assert self.more.session is self.db
        return await self.db.scalar(select(func.count()).select_from(Entry)) or 0

    @rpc
    async def roll_back_and_go_on(self) -> int:
        self.db.add(Entry(text="rolled back"))
        await self.db.flush()
        await self.db.rollback()
        self.db.add(Entry(text="after the roll back"))
        await self.db.commit()
        await self.db.close()
        await self.db.rollback()
        self.db.add(Entry(text="after the close"))
        return 2

    @rpc
    @transaction_retry
    async def fail_once(self) -> int:
        self.db.add(Entry(text="retried"))
        await self.db.flush()
        if FAIL:
            raise FAIL.pop()
        return 3

    @rpc
    async def commit_beside(self) -> None:
        self.db.add(Entry(text="beside"))
        await self.db.run_sync(lambda session: session.commit())

    @rpc
    async def side_by_side(self) -> None:
        async def add(text: str) -> None:
            async with self.more.get_session() as session:
                session.add(Entry(text=text))
                await asyncio.sleep(0)

        await asyncio.gather(add("one"), add("two"))


FAIL: list[Exception] = []


class OnDemand:
    """Without a session that commits at the end."""

    name = f"on_demand_{RUN}"
    more = Database(Base)
    once = Once(Base)

    @rpc
    async def add(self) -> int:
        self.more.session.add(Entry(text="in the session"))
        async with self.more.get_session() as session:
            session.add(Entry(text="in a block"))
        return 4


async def texts(container: ServiceContainer) -> set[str]:
    async with engine_of(container).connect() as connection:
        return set(await connection.scalars(select(Entry.text)))


async def records_of(container: ServiceContainer) -> int:
    table = Base.metadata.tables[f"once_{RUN}"]
    async with engine_of(container).connect() as connection:
        return await connection.scalar(select(func.count()).select_from(table)) or 0


async def test_the_record_and_the_changes_are_one_transaction(database_url: str) -> None:
    async with running(Ledger, database_url) as (ledger, container):
        assert [await ledger.add(), await ledger.add()] == [1, "seen"]
        assert (await texts(container), await records_of(container)) == ({"a"}, 1)
        with pytest.raises(RemoteError, match="after the commits"):
            await ledger.commit_and_fail()
        assert (await texts(container), await records_of(container)) == ({"a"}, 1)


async def test_a_method_that_commits_by_itself_is_still_one_transaction(database_url: str) -> None:
    async with running(Ledger, database_url) as (ledger, container):
        assert await ledger.commit_and_return() == 5
        assert await ledger.commit_and_return() == "seen"
        assert await texts(container) == {
            *("committed", "in begin", "in a block", "in a block in a block", "left open")
        }
        assert engine_of(container).pool.checkedout() == 0


async def test_a_transaction_after_a_roll_back_begins_with_the_record(database_url: str) -> None:
    async with running(Ledger, database_url) as (ledger, container):
        assert await ledger.roll_back_and_go_on() == 2
        assert await texts(container) == {"after the close"}
        assert await records_of(container) == 1


async def test_a_retried_transaction_begins_with_the_record(sqlite_url: str) -> None:
    from sqlalchemy.exc import OperationalError

    FAIL[:] = [OperationalError("", {}, Exception("database is locked"))]
    async with running(Ledger, sqlite_url) as (ledger, container):
        assert [await ledger.fail_once(), await ledger.fail_once()] == [3, "seen"]
        assert (await texts(container), await records_of(container)) == ({"retried"}, 1)


async def test_a_commit_that_would_split_the_transaction_is_an_error(sqlite_url: str) -> None:
    async with running(Ledger, sqlite_url) as (ledger, container):
        with pytest.raises(RemoteError, match=r"await commit\(\) on the AsyncSession"):
            await ledger.commit_beside()
        with pytest.raises(RemoteError, match="await one block after the other"):
            await ledger.side_by_side()
        assert (await texts(container), await records_of(container)) == (set(), 0)


async def test_a_database_without_a_session_of_the_call_commits_too(sqlite_url: str) -> None:
    async with running(OnDemand, sqlite_url) as (on_demand, container):
        assert [await on_demand.add(), await on_demand.add()] == [4, "seen"]
        assert await texts(container) == {"in the session", "in a block"}
        assert await records_of(container) == 1


class Audits(DependencyProvider[None]):
    """Writes in the session of the call before the method runs."""

    declarative_base = Base

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
        worker_ctx.service.db.add(Entry(text=f"audit {worker_ctx.call_id[-2:]}"))
        await worker_ctx.service.db.flush()
        yield


async def test_what_a_dependency_wrote_before_the_method_stays_in_the_transaction(
    database_url: str,
) -> None:
    class Audited(Ledger):
        name = f"audited_{RUN}"
        audits = Audits()

    async with running(Audited, database_url) as (audited, container):
        assert [await audited.add(), await audited.add()] == [1, "seen"]
        assert {text.split()[0] for text in await texts(container)} == {"a", "audit"}
        assert (len(await texts(container)), await records_of(container)) == (2, 1)


async def test_a_service_without_a_session_that_commits_is_refused(sqlite_url: str) -> None:
    class Without:
        name = "without"
        once = Once(Base)

    class DoesNotCommit(Without):
        db = DatabaseSession(Base)

    for service, remedy in (
        (Without, r"db = DatabaseSession\(Base, commit=True\) or db = Database\(Base\)"),
        (DoesNotCommit, r"db = DatabaseSession\(Base, commit=True\)$"),
    ):
        with pytest.raises(ConfigurationError, match=remedy):
            async with ServiceContainer(service, {"AMQP_URI": "memory://", "DB_URI": sqlite_url}):
                pass


async def test_a_database_that_commits_each_statement_is_refused(sqlite_url: str) -> None:
    config: dict[str, Any] = {"AMQP_URI": "memory://", "DB_URI": sqlite_url}
    level = {"isolation_level": "AUTOCOMMIT"}
    for options in (level, {"execution_options": level}):
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT, each statement is committed"):
            async with ServiceContainer(Ledger, {**config, "DB_ENGINE_OPTIONS": options}):
                pass


async def test_only_the_database_of_the_session_has_the_record(sqlite_url: str) -> None:
    async with open_engine(configured({"DB_URI": "sqlite://"}, "other", OtherBase)) as other:
        async with other.begin() as connection:
            await connection.run_sync(OtherBase.metadata.create_all)

        class TwoDatabases(OnDemand):
            name = f"two_{RUN}"
            more = Database(Base, session_options={"binds": {OtherBase: other}})

            @rpc
            async def add_to_both(self) -> int:
                self.more.session.add_all([Entry(text="here"), OtherEntry(text="there")])
                await self.more.session.flush()
                return 5

        async with running(TwoDatabases, sqlite_url) as (two, container):
            assert [await two.add_to_both(), await two.add_to_both()] == [5, "seen"]
            assert (await texts(container), await records_of(container)) == ({"here"}, 1)


def test_a_declarative_base_has_one_table_of_a_name() -> None:
    first, second = Once(Base), Once(Base)
    assert first.table is second.table is Base.metadata.tables[f"once_{RUN}"]
    with pytest.raises(ConfigurationError, match=r"has a table .* without made: give .* table="):
        table_on(Base, Entry.__tablename__, columns)


async def test_old_rows_are_deleted_in_batches(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BATCH", 3)
    async with running(Ledger, sqlite_url) as (_, container):
        once = next(each for each in container.providers if isinstance(each, Once))
        rows = [{"id": str(number), "made": number} for number in range(8)]
        async with once.engine.begin() as connection:
            await connection.execute(insert(once.table), rows)
        old = once.table.c.made < 7
        assert [await once.delete_batch(old) for _ in range(4)] == [3, 3, 1, 0]
        assert await records_of(container) == 1


def test_a_digest_tells_apart_where_its_parts_end() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("\udc80")}) == 4

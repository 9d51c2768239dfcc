"""A session for each call: when it commits, what it warns of, and when it connects."""

from __future__ import annotations

import asyncio
import gc
import uuid
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
from sqlalchemy import event, func, insert, select, text, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from aiorpc import ClusterRpcProxy, RemoteError, ServiceContainer, rpc
from aiorpc.call import Call, Handler
from aiorpc.config import resolve
from aiorpc.extensions import WorkerContext
from aiorpc.sqlalchemy import Database, DatabaseSession, create_tables
from tests.sqlalchemy.library import (
    Author,
    Base,
    Book,
    FirstBase,
    Loan,
    all_returned,
    drop_tables,
    engine_of,
    running,
)

WARNINGS = "aiorpc.sqlalchemy"


class Library:
    name = "library"
    db = DatabaseSession(Base)
    auto = DatabaseSession(Base, commit=True)
    database = Database(Base)

    @rpc
    async def count(self) -> int:
        return await self.db.scalar(select(func.count()).select_from(Author)) or 0

    @rpc
    async def nothing(self) -> None:
        pass

    @rpc
    async def add(self, name: str, *, flush: bool = False, commit: bool = False) -> None:
        self.db.add(Author(name=name))
        if flush:
            await self.db.flush()
        if commit:
            await self.db.commit()

    @rpc
    async def add_by_statement(self, name: str, *, roll_back: bool = False) -> None:
        await self.db.execute(insert(Author).values(name=name))
        if roll_back:
            await self.db.rollback()

    @rpc
    async def add_and_fail(self, name: str) -> None:
        self.db.add(Author(name=name))
        self.auto.add(Author(name=f"{name} too"))
        await self.auto.flush()
        raise LookupError(name)

    @rpc
    async def rename(self, name: str) -> None:
        author = (await self.db.scalars(select(Author))).one()
        author.name = name

    @rpc
    async def savepoint(self, name: str) -> None:
        async with self.db.begin_nested():
            self.db.add(Author(name=name))

    @rpc
    async def add_auto(self, *names: str) -> None:
        self.auto.add_all([Author(name=name) for name in names])

    @rpc
    async def add_auto_and_return_nonsense(self, name: str) -> Any:
        self.auto.add(Author(name=name))
        return object()

    @rpc
    async def add_in_begin(self, name: str) -> None:
        async with self.db.begin():
            self.db.add(Author(name=name))

    @rpc
    async def add_in_block(self, name: str, *, fail: bool = False) -> None:
        async with self.database.get_session() as session:
            session.add(Author(name=name))
            await session.flush()
            if fail:
                raise LookupError(name)

    @rpc
    async def add_in_block_left_open(self, name: str) -> str:
        async with self.database.get_session(close_on_exit=False) as session:
            author = Author(name=name)
            session.add(author)
        await session.refresh(author)
        return author.name

    @rpc
    async def add_in_database_session(self, name: str) -> bool:
        self.database.session.add(Author(name=name))
        return self.database.session is self.database.session

    @rpc
    async def commit_then_read(self, name: str) -> tuple[int, str]:
        author = Author(name=name)
        self.db.add(author)
        await self.db.commit()
        return author.id, author.name  # no MissingGreenlet: nothing expired

    @rpc
    async def close_and_go_on(self) -> tuple[int, int]:
        await self.db.execute(select(1))
        used = self._checked_out()
        await self.db.close()
        free = self._checked_out()
        await self.db.execute(select(1))
        return used, free

    @rpc
    async def options(self) -> dict[str, bool]:
        session = self.db.sync_session
        return {"autoflush": session.autoflush, "expire_on_commit": session.expire_on_commit}

    def _checked_out(self) -> int:
        count: int = self.database.engine.pool.checkedout()
        return count


@asynccontextmanager
async def library(url: str, **more: Any) -> AsyncIterator[tuple[Any, ServiceContainer]]:
    async with running(Library, url, **more) as (proxy, container):
        yield proxy, container
        await all_returned(container)


async def test_nothing_is_committed_that_was_not_asked_for(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with library(database_url) as (proxy, _):
        await proxy.add("Austen")
        assert "library.add ended without a commit" in caplog.text
        assert "1 new (Author)" in caplog.text
        assert await proxy.count() == 0
        await proxy.add("Austen", commit=True)
        assert await proxy.count() == 1


async def test_a_middleware_with_a_timeout_does_not_break_a_commit_off(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def impatient(call: Call, handler: Handler) -> Any:
        async with asyncio.timeout_at(None) as scope:
            scopes.append(scope)
            return await handler(call)

    async def commit(session: AsyncSession) -> None:
        scopes[-1].reschedule(0)  # it is over
        await asyncio.sleep(0.01)  # lets the timeout strike
        await original(session)

    scopes: list[asyncio.Timeout] = []
    original = AsyncSession.commit
    async with library(database_url, middleware=[impatient]) as (proxy, _):
        monkeypatch.setattr(AsyncSession, "commit", commit)
        with pytest.raises(RemoteError, match="TimeoutError"):
            await proxy.add_auto("Austen")
        assert await proxy.count() == 1


async def test_a_call_that_does_not_touch_its_session_does_not_connect(database_url: str) -> None:
    async with library(database_url) as (proxy, container):
        connects: list[Any] = []
        event.listen(engine_of(container).sync_engine, "connect", lambda *_: connects.append(1))
        await proxy.nothing()
        assert not connects
        await proxy.count()
        assert connects


async def test_what_was_sent_and_not_committed_is_warned_of(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with library(sqlite_url) as (proxy, _):
        await proxy.add("Austen", flush=True)
        assert "library.add ended" in caplog.text
        await proxy.add_by_statement("Austen")
        assert "library.add_by_statement ended" in caplog.text
        assert "statements sent to the database" in caplog.text
        await proxy.savepoint("Austen")
        assert "library.savepoint ended" in caplog.text
        await proxy.add_in_database_session("Austen")
        assert "library.add_in_database_session ended" in caplog.text
        await proxy.add("Austen", commit=True)
        caplog.clear()
        await proxy.rename("Bronte")
        assert "1 changed (Author)" in caplog.text


async def test_nothing_is_warned_of_where_nothing_is_lost(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with library(sqlite_url) as (proxy, _):
        await proxy.add("Austen", flush=True, commit=True)
        await proxy.add_by_statement("Bronte", roll_back=True)
        await proxy.add_in_begin("Carroll")
        await proxy.add_in_block("Dickens")
        await proxy.add_auto("Eliot")
        await proxy.count()
        with pytest.raises(RemoteError):
            await proxy.add_and_fail("Fielding")
        assert WARNINGS not in {record.name for record in caplog.records}


async def test_a_session_that_commits_does_so_before_the_answer(database_url: str) -> None:
    async with library(database_url) as (proxy, _):
        await proxy.add_auto("Austen")
        assert await proxy.count() == 1
        with pytest.raises(RemoteError, match="LookupError"):
            await proxy.add_and_fail("Bronte")
        # What cannot be sent is an error, so it is no result to commit.
        with pytest.raises(RemoteError, match="UnserializableValueError"):
            await proxy.add_auto_and_return_nonsense("Carroll")
        # "ok" means committed: a commit that fails is the answer.
        with pytest.raises(RemoteError, match="IntegrityError"):
            await proxy.add_auto("Dickens", "Dickens")
        assert await proxy.count() == 1


async def test_a_block_commits_at_its_end_and_rolls_back_if_it_raises(database_url: str) -> None:
    async with library(database_url) as (proxy, _):
        await proxy.add_in_block("Austen")
        with pytest.raises(RemoteError, match="LookupError"):
            await proxy.add_in_block("Bronte", fail=True)
        assert await proxy.add_in_block_left_open("Carroll") == "Carroll"
        assert await proxy.add_in_database_session("Dickens") is True
        await proxy.add_in_begin("Eliot")
        assert await proxy.count() == 3


async def test_what_was_committed_can_be_read_afterwards(database_url: str) -> None:
    async with library(database_url) as (proxy, _):
        author_id, name = await proxy.commit_then_read("Austen")
        assert (author_id > 0, name) == (True, "Austen")


async def test_closing_gives_the_connection_back_and_the_call_goes_on(database_url: str) -> None:
    async with library(database_url) as (proxy, _):
        assert await proxy.close_and_go_on() == [1, 0]


async def test_options_of_the_session_come_from_the_configuration(sqlite_url: str) -> None:
    async with running(Library, sqlite_url) as (proxy, _):
        assert await proxy.options() == {"autoflush": True, "expire_on_commit": False}
    options = {"autoflush": False, "expire_on_commit": True}
    async with running(Library, sqlite_url, DB_SESSION_OPTIONS=options) as (proxy, _):
        assert await proxy.options() == options


class Both:
    """As in the article: one service, two databases."""

    name = "both"
    first = DatabaseSession(FirstBase)
    second = DatabaseSession(Base)

    @rpc
    async def lend(self, title: str) -> list[int]:
        author = Author(name="Austen", books=[Book(title=title)])
        self.second.add(author)
        self.first.add(Loan(title=title))
        await self.second.commit()
        await self.first.commit()
        return [
            await session.scalar(select(func.count()).select_from(table)) or 0
            for session, table in ((self.first, Loan), (self.second, Book))
        ]


@pytest.mark.postgresql
@pytest.mark.mysql
async def test_the_configuration_of_the_article(
    postgresql_uri: str, mysql_uri: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(
        f"""
AMQP_URI: memory://{uuid.uuid4().hex}
DB_URIS:
  "both:firstbase": "{mysql_uri}?charset=utf8"
  "both:Base": "{postgresql_uri.replace("postgresql://", "postgres://")}"
"""
    )
    await create_tables(config, Both, drop=True)
    async with ServiceContainer(Both, config) as container, ClusterRpcProxy(config) as cluster:
        assert await cluster.both.lend("Emma \N{GRINNING FACE}") == [1, 1]
        drivers = [engine_of(container, index).driver for index in (0, 1)]
        assert drivers == ["aiomysql", "asyncpg"]
    await drop_tables(resolve(config), Both)


async def test_several_databases_in_one_service(sqlite_url: str, database_url: str) -> None:
    urls = {"firstbase": sqlite_url, "Base": database_url}
    async with running(Both, urls) as (proxy, container):
        assert await proxy.lend("Emma") == [1, 1]
        drivers = {engine_of(container, index).driver for index in (0, 1)}
        assert "aiosqlite" in drivers


async def test_a_database_in_memory_outlives_a_cancelled_call(caplog: Any) -> None:
    class Memory:
        name = "memory"
        db = Database(Base)

        @rpc
        async def create(self) -> None:
            async with self.db.engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            async with self.db.get_session() as session:
                session.add(Author(name="Austen"))

        @rpc
        async def slow(self) -> None:
            await self.db.session.execute(
                text(
                    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
                    "x < 5000000) SELECT count(*) FROM c"
                )
            )

        @rpc
        async def count(self) -> int:
            return await self.db.session.scalar(select(func.count()).select_from(Author)) or 0

    async with running(Memory, "sqlite://") as (proxy, _):
        await proxy.create()
        with pytest.raises(TimeoutError):
            await proxy.slow.with_options(timeout=0.05)()
        counts = await asyncio.gather(*(proxy.count() for _ in range(10)))
        assert counts == [1] * 10


# What a call costs


async def test_a_session_that_read_ends_without_a_task_of_its_own(sqlite_url: str) -> None:
    async with library(sqlite_url) as (_, container):
        worker_ctx = WorkerContext(container, Mock(), None, Call("library", "count"))
        loop = asyncio.get_running_loop()
        provider = container.providers[0]
        async with provider.provide(worker_ctx) as session:  # opens the connection, in a task
            await session.execute(select(1))
        tasks: list[str] = []

        def noted(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> asyncio.Task[Any]:
            tasks.append(work.__qualname__)
            return asyncio.Task(work, loop=loop, **kwargs)

        loop.set_task_factory(noted)
        try:
            async with provider.provide(worker_ctx) as session:
                await session.execute(select(1))
        finally:
            loop.set_task_factory(None)
        assert tasks == []


async def test_a_session_does_not_keep_the_connections_of_past_transactions(
    sqlite_url: str,
) -> None:
    async with library(sqlite_url) as (_, container):
        provider = container.providers[0]
        worker_ctx = WorkerContext(container, Mock(), None, Call("library", "count"))
        seen: list[weakref.ref[Any]] = []
        async with provider.provide(worker_ctx) as session:
            for _ in range(20):
                connection = await session.connection()
                seen.append(weakref.ref(connection.sync_connection))
                del connection
                await session.commit()
            gc.collect()
            assert sum(one() is not None for one in seen) <= 1


# After the call


class Careless:
    """Leaves tasks behind that use its session."""

    name = "careless"
    db = DatabaseSession(Base)
    database = Database(Base)
    left_behind: ClassVar[list[asyncio.Task[Any]]] = []
    may_go_on: asyncio.Event

    @rpc
    async def leave_a_task(self) -> None:
        session, may_go_on = self.db, self.may_go_on

        async def late() -> None:
            await may_go_on.wait()
            await session.execute(select(1))

        self.left_behind.append(asyncio.create_task(late()))

    @rpc
    async def leave_a_task_with_all(self) -> None:
        database, may_go_on = self.database, self.may_go_on

        async def late() -> None:
            await may_go_on.wait()
            with pytest.raises(InvalidRequestError, match="permanently closed"):
                await database.session.execute(select(1))
            async with database.get_session(close_on_exit=False) as session:
                await session.execute(select(1))

        self.left_behind.append(asyncio.create_task(late()))

    @rpc
    async def use_it_twice_at_once(self) -> None:
        await asyncio.gather(self.db.execute(select(1)), self.db.execute(select(2)))


async def test_a_task_left_behind_cannot_take_a_connection(database_url: str) -> None:
    Careless.may_go_on = asyncio.Event()
    async with running(Careless, database_url) as (proxy, container):
        await proxy.leave_a_task()
        Careless.may_go_on.set()
        with pytest.raises(InvalidRequestError, match="permanently closed"):
            await Careless.left_behind.pop()
        await all_returned(container)


async def test_nor_can_one_that_has_the_database_of_its_call(database_url: str) -> None:
    Careless.may_go_on = asyncio.Event()
    async with running(Careless, database_url) as (proxy, container):
        await proxy.leave_a_task_with_all()
        Careless.may_go_on.set()
        with pytest.raises(InvalidRequestError, match="permanently closed"):
            await Careless.left_behind.pop()
        await all_returned(container)


async def test_a_session_used_from_two_tasks_at_once_is_given_back(database_url: str) -> None:
    async with running(Careless, database_url) as (proxy, container):
        before = asyncio.all_tasks()
        with pytest.raises(RemoteError, match="concurrent operations are not permitted"):
            await proxy.use_it_twice_at_once()
        await all_returned(container)
        others = asyncio.all_tasks() - before - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await all_returned(container)


# Locks


async def test_a_call_that_waits_for_a_lock_ends_at_its_deadline(server_url: str) -> None:
    class Locking:
        name = "locking"
        db = DatabaseSession(Base)

        @rpc
        async def create(self) -> None:
            self.db.add(Author(name="Austen", born=1775))
            await self.db.commit()

        @rpc
        async def rename(self, name: str) -> None:
            await self.db.execute(update(Author).values(name=name))
            await self.db.commit()

    async with running(Locking, server_url) as (proxy, container):
        await proxy.create()
        async with AsyncSession(engine_of(container)) as other:
            await other.execute(update(Author).values(born=1))
            with pytest.raises(TimeoutError):
                await proxy.rename.with_options(timeout=0.3)("Bronte")
            await other.rollback()
        await proxy.rename("Carroll")
        await all_returned(container)


# Cancelled while committing

SLOW_COMMIT = (
    "CREATE OR REPLACE FUNCTION aiorpc_test_slow_commit() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$",
    f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {Author.__tablename__} "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION aiorpc_test_slow_commit()",
)


class Committing:
    """Its COMMIT takes half a second."""

    name = "committing"
    db = DatabaseSession(Base, engine_options={"pool_size": 1, "max_overflow": 0})
    database = Database(Base, engine_options={"pool_size": 1, "max_overflow": 0})

    @rpc
    async def by_commit(self) -> None:
        self.db.add(Author(name="Austen"))
        await self.db.commit()

    @rpc
    async def by_begin(self) -> None:
        async with self.db.begin():
            self.db.add(Author(name="Austen"))

    @rpc
    async def by_transaction(self) -> None:
        transaction = await self.db.begin()
        self.db.add(Author(name="Austen"))
        await transaction.commit()

    @rpc
    async def by_block(self) -> None:
        async with self.database.get_session() as session:
            session.add(Author(name="Austen"))

    @rpc
    async def look(self) -> list[int]:
        count = await self.db.scalar(select(func.count()).select_from(Author))
        return [count or 0, await self.db.scalar(text("SELECT pg_backend_pid()"))]


@pytest.mark.postgresql
@pytest.mark.parametrize("method", ["by_commit", "by_begin", "by_transaction", "by_block"])
async def test_a_commit_that_has_begun_is_finished(postgresql_uri: str, method: str) -> None:
    async with running(Committing, postgresql_uri) as (proxy, container):
        _, connection = await proxy.look()
        async with engine_of(container).begin() as connected:
            for statement in SLOW_COMMIT:
                await connected.execute(text(statement))
        with pytest.raises(TimeoutError):
            await getattr(proxy, method).with_options(timeout=0.2)()
        await all_returned(container)
        # It is committed, and its connection was not thrown away.
        assert await proxy.look() == [1, connection]

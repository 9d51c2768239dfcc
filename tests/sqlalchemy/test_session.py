"""The session of a call: its end, its cost, and commits of cancelled calls."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from aiorpc import RemoteError, rpc
from aiorpc.call import Call, Handler
from aiorpc.extensions import WorkerContext
from aiorpc.sqlalchemy import Database, DatabaseSession
from tests.support.databases import (
    Author,
    Base,
    Book,
    all_returned,
    engine_of,
    running,
)


class Library:
    name = "library"
    db = DatabaseSession(Base)
    auto = DatabaseSession(Base, commit=True)

    @rpc
    async def count(self) -> int:
        return await self.db.scalar(select(func.count()).select_from(Author)) or 0

    @rpc
    async def add_auto(self, name: str) -> None:
        self.auto.add(Author(name=name))

    @rpc
    async def fail(self) -> None:
        await self.db.execute(text("SELECT missing FROM nowhere"))


async def test_a_middleware_with_a_timeout_does_not_cancel_a_commit(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def impatient(call: Call, handler: Handler) -> Any:
        async with asyncio.timeout_at(None) as scope:
            scopes.append(scope)
            return await handler(call)

    async def commit(session: AsyncSession) -> None:
        scopes[-1].reschedule(0)  # in the past
        await asyncio.sleep(0.01)  # lets the timeout strike
        await original(session)

    scopes: list[asyncio.Timeout] = []
    original = AsyncSession.commit
    async with running(Library, database_url, middleware=[impatient]) as (proxy, _):
        monkeypatch.setattr(AsyncSession, "commit", commit)
        with pytest.raises(RemoteError, match="TimeoutError"):
            await proxy.add_auto("Austen")
        assert await proxy.count() == 1


class Lazy:
    name = "lazy"
    db = DatabaseSession(Base)

    @rpc
    async def titles(self) -> list[str]:
        author = Author(name="Austen", books=[Book(title="Emma")])
        self.db.add(author)
        await self.db.commit()
        self.db.expunge_all()
        author = await self.db.get_one(Author, author.id)
        try:
            return [book.title for book in author.books]
        finally:
            await self.db.refresh(author, ["books"])
            assert [book.title for book in author.books] == ["Emma"]

    @rpc
    async def of_an_expired_object(self) -> str:
        author = Author(name="Bronte")
        self.db.add(author)
        await self.db.commit()
        self.db.expire(author)
        return author.name


async def test_an_attribute_that_is_not_loaded_names_the_remedy(database_url: str) -> None:
    async with running(Lazy, database_url) as (proxy, _):
        remedy = r"MissingGreenlet Author\.books is not .*options\(selectinload\(Author\.books\)\)"
        with pytest.raises(RemoteError, match=remedy):
            await proxy.titles()
        remedy = r"MissingGreenlet an attribute of Author is .*await session\.refresh\(object\)"
        with pytest.raises(RemoteError, match=remedy):
            await proxy.of_an_expired_object()


# What a call costs


async def test_ending_a_session_that_only_read_starts_no_task(sqlite_url: str) -> None:
    async with running(Library, sqlite_url) as (_, container):
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


async def test_a_session_forgets_the_connections_of_past_transactions(
    sqlite_url: str,
) -> None:
    async with running(Library, sqlite_url) as (_, container):
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


async def test_a_task_left_behind_cannot_use_the_session(database_url: str) -> None:
    Careless.may_go_on = asyncio.Event()
    async with running(Careless, database_url) as (proxy, container):
        await proxy.leave_a_task()
        Careless.may_go_on.set()
        with pytest.raises(InvalidRequestError, match="permanently closed"):
            await Careless.left_behind.pop()
        await all_returned(container)


async def test_a_task_left_behind_cannot_use_the_database(database_url: str) -> None:
    Careless.may_go_on = asyncio.Event()
    async with running(Careless, database_url) as (proxy, container):
        await proxy.leave_a_task_with_all()
        Careless.may_go_on.set()
        with pytest.raises(InvalidRequestError, match="permanently closed"):
            await Careless.left_behind.pop()
        await all_returned(container)


async def test_a_session_used_by_two_tasks_at_once_returns_its_connection(
    database_url: str,
) -> None:
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


@pytest.mark.parametrize("method", ["by_commit", "by_begin", "by_transaction", "by_block"])
async def test_a_cancelled_call_finishes_a_commit_that_has_begun(
    postgresql_uri: str, method: str
) -> None:
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


async def test_a_failed_query_has_a_short_traceback_with_its_cause_in_the_log(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(Library, database_url) as (library, _):
        with pytest.raises(RemoteError):
            await library.fail()
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_text is not None
    assert 'text("SELECT missing FROM nowhere")' in record.exc_text
    assert "nowhere" in record.exc_text.splitlines()[0]  # the driver's own error
    assert len(record.exc_text.splitlines()) < 30
    assert "Pool" not in caplog.text  # SQLAlchemy's line "Pool recreating" at INFO

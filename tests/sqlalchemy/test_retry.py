"""Transactions that are retried, and those that are not."""

from __future__ import annotations

import asyncio
import operator
import sqlite3

import asyncpg
import pymysql
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from aiorpc import ClusterRpcProxy, ConfigurationError, RemoteError, ServiceContainer, rpc
from aiorpc.context import Context, Deadline, current
from aiorpc.sqlalchemy import Database, DatabaseSession, accepts, returns, transaction_retry
from aiorpc.sqlalchemy.retry import is_transient
from tests.support.databases import Author, Base, all_returned, running, settings_for


def locked() -> OperationalError:
    return OperationalError("UPDATE ...", {}, sqlite3.OperationalError("database is locked"))


class FailsAtFirst:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attempts = 0

    async def __call__(self) -> str:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_a_transaction_is_retried_once_by_default() -> None:
    work = FailsAtFirst(locked())
    work.__qualname__ = "work"

    @transaction_retry
    async def once_more() -> str:
        return await work()

    assert await once_more() == "done"
    assert work.attempts == 2
    work.errors = [locked(), locked()]
    with pytest.raises(OperationalError):
        await once_more()
    assert work.attempts == 4


async def test_the_waits_follow_nameko_sqlalchemys_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    work = FailsAtFirst(*(locked() for _ in range(5)))

    @transaction_retry(total=5, backoff_factor=0.1, backoff_max=1)
    async def retried() -> str:
        return await work()

    assert await retried() == "done"
    assert slept == pytest.approx([0.2, 0.4, 0.8, 1])  # and none before the first


@pytest.mark.parametrize(
    "error",
    [
        IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE constraint failed: a.b")),
        OperationalError("SELECT", {}, sqlite3.OperationalError("no such table: a")),
        LookupError("something else"),
    ],
)
async def test_a_permanent_error_is_not_retried(error: Exception) -> None:
    work = FailsAtFirst(error)

    @transaction_retry(total=3)
    async def retried() -> str:
        return await work()

    with pytest.raises(type(error)):
        await retried()
    assert work.attempts == 1


async def test_the_deadline_ends_the_retries() -> None:
    work = FailsAtFirst(*(locked() for _ in range(10)))

    @transaction_retry(total=10, backoff_factor=10)
    async def retried() -> str:
        return await work()

    token = current.set(Context(deadline=Deadline.after(5)))
    with pytest.raises(DBAPIError):
        await retried()
    current.reset(token)
    assert work.attempts == 2


class Accounts:
    name = "accounts"
    db = DatabaseSession(Base)
    auto = DatabaseSession(Base, commit=True)
    database = Database(Base)
    attempts = 0
    barrier: asyncio.Barrier

    @rpc
    @transaction_retry(total=2)
    async def add_through_a_break(self, name: str) -> int:
        """Its connection ends after it has written, in the first attempt."""
        type(self).attempts += 1
        self.db.add(Author(name=name))
        await self.db.flush()
        if self.attempts == 1:
            await self._end_own_connection()
        await self.db.commit()
        return self.attempts

    @rpc
    @transaction_retry(session=operator.attrgetter("database.session"))
    async def add_by_attribute(self, name: str) -> int:
        type(self).attempts += 1
        self.database.session.add(Author(name=name))
        if self.attempts == 1:
            raise locked()
        await self.database.session.commit()
        return self.attempts

    @rpc
    async def set_up(self) -> None:
        self.db.add_all([Author(id=1, name="Austen", born=0), Author(id=2, name="Bronte", born=0)])
        await self.db.commit()

    @rpc
    @transaction_retry(total=5, backoff_factor=0.01)
    async def lock_both(self, first: int, second: int) -> None:
        """Two of these in opposite order block one another."""
        type(self).attempts += 1
        await self._add_one(first)
        await self._first_attempts_meet()
        await self._add_one(second)
        await self.db.commit()

    @rpc
    @transaction_retry(total=5, backoff_factor=0.01)
    async def lock_both_by_savepoint(self, first: int, second: int) -> None:
        type(self).attempts += 1
        await self._add_one(first)
        await self._first_attempts_meet()
        async with self.db.begin_nested():
            await self._add_one(second)
        await self.db.commit()

    @rpc
    @transaction_retry(total=5, backoff_factor=0.01)
    async def lock_both_at_the_end(self, first: int, second: int) -> None:
        """The second lock is asked for when the changes are sent."""
        type(self).attempts += 1
        mine = await self.auto.get_one(Author, first, with_for_update=True)
        mine.born = (mine.born or 0) + 1
        await self.auto.flush()
        await self._first_attempts_meet()
        other = await self.auto.get_one(Author, second)
        other.born = (other.born or 0) + 1

    @rpc
    @transaction_retry
    async def add_and_return_nonsense(self, name: str) -> object:
        self.auto.add(Author(name=name))
        return object()

    @rpc
    @transaction_retry(total=10, backoff_factor=0.01)
    async def count_up_serializable(self) -> None:
        type(self).attempts += 1
        await self.db.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        author = await self.db.get_one(Author, 1)
        await self._first_attempts_meet()
        author.born = (author.born or 0) + 1
        await self.db.commit()

    @rpc
    async def sum(self) -> int:
        return int(await self.db.scalar(select(func.sum(Author.born))) or 0)

    @rpc
    async def count(self) -> int:
        return await self.db.scalar(select(func.count()).select_from(Author)) or 0

    async def _first_attempts_meet(self) -> None:
        """Wait, in the first attempts, until all calls have locked or read their first row."""
        if self.attempts <= self.barrier.parties:
            await self.barrier.wait()

    async def _add_one(self, author_id: int) -> None:
        await self.db.execute(
            text(f"UPDATE {Author.__tablename__} SET born = born + 1 WHERE id = :id"),
            {"id": author_id},
        )

    async def _end_own_connection(self) -> None:
        postgresql = self.db.get_bind().dialect.name == "postgresql"
        own = "SELECT pg_backend_pid()" if postgresql else "SELECT connection_id()"
        number = await self.db.scalar(text(own))
        end = f"SELECT pg_terminate_backend({number})" if postgresql else f"KILL {number}"
        async with self.database.engine.connect() as other:
            await other.execute(text(end))


@pytest.fixture(autouse=True)
def no_attempts_yet() -> None:
    Accounts.attempts = 0
    Accounts.barrier = asyncio.Barrier(2)


async def test_a_lost_connection_is_retried(server_url: str) -> None:
    async with running(Accounts, server_url) as (proxy, container):
        assert await proxy.add_through_a_break("Austen") == 2
        assert await proxy.count() == 1
        await all_returned(container)


async def test_a_deadlock_is_retried(server_url: str) -> None:
    async with running(Accounts, server_url) as (proxy, container):
        await proxy.set_up()
        replies = [proxy.lock_both.call_async(1, 2), proxy.lock_both.call_async(2, 1)]
        for reply in replies:
            await reply
        assert Accounts.attempts > 2
        assert await proxy.sum() == 4
        await all_returned(container)


async def test_a_deadlock_inside_a_savepoint_is_retried(server_url: str) -> None:
    async with running(Accounts, server_url) as (proxy, container):
        await proxy.set_up()
        locking = proxy.lock_both_by_savepoint
        await asyncio.gather(locking(1, 2), locking(2, 1))
        assert Accounts.attempts > 2
        assert await proxy.sum() == 4
        await all_returned(container)


async def test_changes_for_commit_true_are_flushed_within_the_attempt(server_url: str) -> None:
    async with running(Accounts, server_url) as (proxy, container):
        await proxy.set_up()
        locking = proxy.lock_both_at_the_end
        await asyncio.gather(locking(1, 2), locking(2, 1))
        assert Accounts.attempts > 2
        await all_returned(container)


async def test_a_retried_method_commits_only_after_its_result_is_encoded(database_url: str) -> None:
    async with running(Accounts, database_url) as (proxy, _):
        with pytest.raises(RemoteError):
            await proxy.add_and_return_nonsense("Austen")
        assert await proxy.count() == 0


def test_mistakes_are_errors_when_the_class_is_made() -> None:
    async def method(self: object, author: Author) -> Author:
        return author

    def sync_method(self: object) -> None: ...

    retried = returns(Author)(transaction_retry(method))
    with pytest.raises(ConfigurationError, match="put @transaction_retry above @accepts"):
        accepts(author=Author, update=True)(retried)
    accepts(author=Author)(retried)
    transaction_retry(total=2)(accepts(author=Author, update=True)(method))
    with pytest.raises(ConfigurationError, match=r"@transaction_retry .*sync_method `async def`"):
        transaction_retry(sync_method)


async def test_a_serialisation_failure_is_retried(server_url: str) -> None:
    async with running(Accounts, server_url) as (proxy, _):
        await proxy.set_up()
        Accounts.barrier = asyncio.Barrier(3)
        await asyncio.gather(*(proxy.count_up_serializable() for _ in range(3)))
        assert await proxy.sum() == 3
        assert Accounts.attempts > 3


@pytest.mark.parametrize("code", [1020, 1205, 1213, 2006, 2013])
def test_an_error_of_mariadb_is_transient_by_its_number(code: int) -> None:
    """PyMySQL 2 also gives a SQLSTATE, which is HY000 for most errors."""
    original = pymysql.err.OperationalError(code, "try again")
    original.sqlstate = "HY000"
    assert is_transient(OperationalError("SELECT 1", {}, original))


async def test_a_statement_that_a_migration_made_outdated_is_retried(postgresql_uri: str) -> None:
    class Migrated:
        name = "migrated"
        db = Database(Base, engine_options={"pool_size": 1, "max_overflow": 0})

        @rpc
        async def migrate(self) -> None:
            admin = await asyncpg.connect(postgresql_uri)
            await admin.execute(f"ALTER TABLE {Author.__tablename__} ALTER born TYPE bigint")
            await admin.close()

        @rpc
        async def once(self) -> list[int | None]:
            async with self.db.get_session() as session:
                return list(await session.scalars(select(Author.born)))

        @rpc
        @transaction_retry
        async def retried(self) -> list[int | None]:
            return list(await self.db.session.scalars(select(Author.born)))

    async with running(Migrated, postgresql_uri) as (proxy, _):
        assert await proxy.once() == []
        await proxy.migrate()
        assert await proxy.retried() == []


async def test_the_session_is_rolled_back_before_a_retry(sqlite_url: str) -> None:
    async with running(Accounts, sqlite_url) as (proxy, _):
        assert await proxy.add_by_attribute("Austen") == 2
        # The object of the first attempt is gone with its transaction.
        assert await proxy.count() == 1


async def test_an_unreachable_server_is_retried() -> None:
    class Nowhere:
        name = "nowhere"
        db = DatabaseSession(Base)
        attempts = 0

        @rpc
        @transaction_retry(total=2)
        async def select(self) -> None:
            type(self).attempts += 1
            await self.db.execute(select(1))

    for url in ("postgresql://u:p@127.0.0.1:1/db", "mysql://u:p@127.0.0.1:1/db"):
        Nowhere.attempts = 0
        settings = settings_for(Nowhere, url)
        async with ServiceContainer(Nowhere, settings), ClusterRpcProxy(settings) as cluster:
            with pytest.raises(RemoteError, match="connect"):
                await cluster.nowhere.select()
        assert Nowhere.attempts == 3

"""``DatabaseSession`` and ``Database`` in a service: when they commit, connect and warn."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select
from sqlalchemy.orm import Session

from aiorpc import ClusterRpcProxy, RemoteError, ServiceContainer, rpc
from aiorpc.config import resolve
from aiorpc.sqlalchemy import (
    Database,
    DatabaseSession,
    create_tables,
)
from tests.support.databases import (
    Author,
    Base,
    Book,
    FirstBase,
    Loan,
    all_returned,
    drop_tables,
    engine_of,
    running,
    settings_for,
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


async def test_changes_without_a_commit_are_rolled_back(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with library(database_url) as (proxy, _):
        await proxy.add("Austen")
        assert "library.add ended without a commit" in caplog.text
        assert "1 new (Author)" in caplog.text
        assert await proxy.count() == 0
        await proxy.add("Austen", commit=True)
        assert await proxy.count() == 1


async def test_a_call_without_a_query_does_not_connect(database_url: str) -> None:
    async with library(database_url) as (proxy, container):
        connects: list[Any] = []
        event.listen(engine_of(container).sync_engine, "connect", lambda *_: connects.append(1))
        await proxy.nothing()
        assert not connects
        await proxy.count()
        assert connects


async def test_a_warning_names_the_changes_that_were_not_committed(
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


async def test_changes_in_a_session_of_a_class_of_ones_own_are_watched_too(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class OwnSession(Session):
        pass

    class Own:
        name = "own"
        db = DatabaseSession(Base, session_options={"sync_session_class": OwnSession})

        @rpc
        async def add(self) -> bool:
            await self.db.execute(insert(Author).values(name="Austen"))
            return isinstance(self.db.sync_session, OwnSession)

    async with running(Own, sqlite_url) as (proxy, _):
        assert await proxy.add() is True
    assert "own.add ended without a commit" in caplog.text


async def test_no_warning_is_logged_if_no_change_is_lost(
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


async def test_commit_true_commits_before_the_caller_is_answered(database_url: str) -> None:
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


async def test_an_object_can_be_read_after_a_commit(database_url: str) -> None:
    async with library(database_url) as (proxy, _):
        author_id, name = await proxy.commit_then_read("Austen")
        assert (author_id > 0, name) == (True, "Austen")


async def test_a_closed_session_returns_its_connection_and_can_be_used_again(
    database_url: str,
) -> None:
    async with library(database_url) as (proxy, _):
        assert await proxy.close_and_go_on() == [1, 0]


async def test_the_configuration_sets_the_options_of_the_session(sqlite_url: str) -> None:
    async with running(Library, sqlite_url) as (proxy, _):
        assert await proxy.options() == {"autoflush": True, "expire_on_commit": False}
    options = {"autoflush": False, "expire_on_commit": True}
    async with running(Library, sqlite_url, DB_SESSION_OPTIONS=options) as (proxy, _):
        assert await proxy.options() == options


class Both:
    """One service, two databases."""

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


async def test_a_service_uses_mariadb_and_postgresql(
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


async def test_a_service_uses_several_databases(sqlite_url: str, database_url: str) -> None:
    urls = {"firstbase": sqlite_url, "Base": database_url}
    async with running(Both, urls) as (proxy, container):
        assert await proxy.lend("Emma") == [1, 1]
        drivers = {engine_of(container, index).driver for index in (0, 1)}
        assert "aiosqlite" in drivers


async def test_the_providers_of_one_database_share_an_engine(sqlite_url: str) -> None:
    class Sharing:
        name = "sharing"
        session = DatabaseSession(Base)
        database = Database(Base)
        other = DatabaseSession(Base, engine_options={"pool_size": 2})
        first = DatabaseSession(FirstBase)

    async with ServiceContainer(Sharing, settings_for(Sharing, sqlite_url)) as container:
        session, database, other, first = (engine_of(container, index) for index in range(4))
        assert session is database
        assert len({session, other, first}) == 3
        assert other.pool.size() == 2

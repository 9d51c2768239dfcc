"""``db_session`` and ``database``: nothing lasts, whatever the code under test does."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncSession

from aiorpc import ClusterRpcProxy, RemoteError, RpcProxy, ServiceContainer, rpc
from aiorpc.config import from_mapping
from aiorpc.sqlalchemy import (
    Database,
    DatabaseSession,
    accepts,
    configured,
    create_tables,
    open_engine,
    transaction_retry,
)
from aiorpc.testing import replace_dependencies, worker_factory
from aiorpc.testing.databases import FixtureSession, opened_session
from tests.support.databases import Author, Base, Book, drop_tables, settings_for


class Library:
    name = "library"
    db = DatabaseSession(Base)
    database = Database(Base)

    @rpc
    async def add(self, name: str) -> int:
        self.db.add(Author(name=name))
        await self.db.commit()
        return await self.count()

    @rpc
    async def add_in_block(self, name: str) -> int:
        async with self.database.get_session() as session:
            session.add(Author(name=name))
        return await self.count()

    @rpc
    @transaction_retry(session=operator.attrgetter("database"))
    @accepts(author=Author, update=True, session="database")
    async def change(self, author: Author) -> bool:
        await self.database.session.commit()
        return author in self.database.session

    @rpc
    async def count(self) -> int:
        return await self.db.scalar(select(func.count()).select_from(Author)) or 0


@pytest.fixture
def model_base() -> Any:
    return Base


@pytest.fixture
async def db_url(database_url: str) -> AsyncIterator[str]:
    """Each kind of database, with the tables there already."""
    service = type("Tables", (), {"name": "tables", "db": DatabaseSession(Base)})
    await create_tables({"DB_URI": database_url}, service, drop=True)
    yield database_url
    await drop_tables(from_mapping({"DB_URI": database_url}), service)


async def test_a_commit_is_rolled_back_after_the_test(database_url: str, db_url: str) -> None:
    async with opened_session(Base, db_url) as session:
        session.add(Author(name="Austen"))
        await session.commit()
    async with (
        open_engine(configured({"DB_URI": db_url}, "tests", Base)) as engine,
        AsyncSession(engine) as session,
    ):
        assert await session.scalar(select(func.count()).select_from(Author)) == 0


async def test_accepts_with_update_changes_the_row_and_not_the_object_of_the_test(
    db_session: AsyncSession, database: Any
) -> None:
    author = Author(name="Austen")
    db_session.add(author)
    await db_session.commit()
    library = worker_factory(Library, db=db_session, database=database)
    assert await library.change({"id": author.id, "name": "Jane"})
    assert author.name == "Austen"
    await db_session.refresh(author)
    assert author.name == "Jane"


async def test_the_test_sees_commits_of_the_service(
    db_session: AsyncSession, database: Any
) -> None:
    db_session.add(Author(name="Austen"))
    await db_session.commit()
    library = worker_factory(Library, db=db_session, database=database)
    assert await library.count() == 1
    assert await library.add("Bronte") == 2
    assert await library.add_in_block("Carroll") == 3
    db_session.add(Author(name="Dickens"))
    await db_session.rollback()
    assert await library.count() == 3


async def test_a_container_uses_the_fixtures(db_session: AsyncSession, database: Any) -> None:
    settings = settings_for(Library, "postgresql://nobody@127.0.0.1:1/nowhere")
    container = ServiceContainer(Library, settings)
    replace_dependencies(container, db=db_session, database=database)
    async with container, ClusterRpcProxy(settings) as cluster:
        assert await cluster.library.add("Austen") == 1
        assert await cluster.library.add_in_block("Bronte") == 2


class Shelves:
    name = "shelves"
    db = DatabaseSession(Base, commit=True)
    log = Database(Base)
    library = RpcProxy("library")

    @rpc
    async def titles(self, author_id: int) -> list[str]:
        author = await self.db.get_one(Author, author_id)
        return [book.title for book in author.books]

    @rpc
    async def add(self, name: str) -> int:
        author = Author(name=name)
        self.db.add(author)
        await self.db.flush()
        async with self.log.get_session() as session:
            session.add(Author(name=f"log of {name}"))
        await self.library.count()
        return author.id

    @rpc
    async def forget(self, name: str) -> None:
        self.log.session.add(Author(name=name))
        await self.log.session.flush()

    @rpc
    async def rename(self, author_id: int, name: str) -> None:
        async with self.db.begin():
            author = await self.db.get_one(Author, author_id)
            await self.library.count()
            author.name = name


@pytest.fixture
async def shelves(db_session: FixtureSession) -> AsyncIterator[Any]:
    """A proxy of the service, which calls another one on the same connection."""
    settings = settings_for(Shelves, "postgresql://nobody@127.0.0.1:1/nowhere")
    container = ServiceContainer(Shelves, settings)
    library = ServiceContainer(Library, settings)
    replace_dependencies(container, db=db_session, log=db_session)
    replace_dependencies(library, db=db_session, database=db_session)
    async with library, container, ClusterRpcProxy(settings) as cluster:
        yield cluster.shelves


async def names(db_session: AsyncSession) -> list[str]:
    return list(await db_session.scalars(select(Author.name).order_by(Author.name)))


async def austen(db_session: AsyncSession) -> Author:
    author = Author(name="Austen", books=[Book(title="Emma")])
    db_session.add(author)
    await db_session.commit()
    return author


async def test_a_service_shares_no_objects_with_the_test(
    db_session: FixtureSession, shelves: Any
) -> None:
    author = await austen(db_session)
    assert [book.title for book in author.books] == ["Emma"]
    with pytest.raises(MissingGreenlet, match=r"Author\.books is not loaded.*selectinload\(Author"):
        await worker_factory(Shelves, db=db_session).titles(author.id)
    with pytest.raises(RemoteError, match=r"MissingGreenlet Author\.books"):
        await shelves.titles(author.id)


async def test_a_call_in_a_container_ends_as_in_production(
    db_session: FixtureSession, shelves: Any, caplog: pytest.LogCaptureFixture
) -> None:
    author = await austen(db_session)
    await shelves.add("Bronte")
    await shelves.rename(author.id, "Jane")
    await shelves.forget("Carroll")
    assert "shelves.forget ended without a commit" in caplog.text
    assert await names(db_session) == ["Bronte", "Jane", "log of Bronte"]
    await db_session.rollback()
    assert await names(db_session) == ["Bronte", "Jane", "log of Bronte"]


async def test_sessions_take_turns(db_session: FixtureSession) -> None:
    library = worker_factory(Library, db=db_session)
    shelves = worker_factory(Shelves, db=db_session, log=db_session)
    for expected, name in enumerate(("Austen", "Bronte", "Carroll")):
        assert len(await names(db_session)) == 3 * expected
        assert await library.count() == 3 * expected
        db_session.add(Author(name=f"{name} of the test"))
        await db_session.commit()
        await shelves.add(name)
        await library.db.rollback()
        assert await library.count() == 3 * expected + 3
        await db_session.rollback()


async def test_the_service_does_not_see_uncommitted_changes_of_the_test(
    db_session: FixtureSession,
) -> None:
    library = worker_factory(Library, db=db_session)
    db_session.add(Author(name="Austen"))
    with pytest.raises(RuntimeError, match=r"1 new \(Author\)\. Await db_session\.commit\(\)"):
        await library.count()
    await db_session.flush()
    with pytest.raises(RuntimeError, match="the test has uncommitted changes"):
        await library.count()
    await db_session.commit()
    assert await library.count() == 1


async def test_the_test_does_not_see_uncommitted_changes_of_the_service(
    db_session: FixtureSession, caplog: pytest.LogCaptureFixture
) -> None:
    shelves = worker_factory(Shelves, log=db_session)
    await shelves.forget("Austen")
    with pytest.raises(RuntimeError, match=r"the service has uncommitted changes.*commit=True"):
        await names(db_session)
    await shelves.log.session.rollback()
    assert await names(db_session) == []


class TestTables:
    """In a file, since one can look at it afterwards."""

    @pytest.fixture
    def db_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/file.sqlite"

    @pytest.fixture(autouse=True)
    def left(self, tmp_path: Path) -> Any:
        yield
        with sqlite3.connect(tmp_path / "file.sqlite") as connection:
            assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
        connection.close()

    async def test_missing_tables_are_created_and_dropped(self, db_session: AsyncSession) -> None:
        db_session.add(Author(name="Austen"))
        await db_session.commit()
        assert await db_session.scalar(select(func.count()).select_from(Author)) == 1

"""``db_session`` and ``database``: nothing lasts, whatever the code under test does."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
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
from aiorpc.testing.databases import opened_session
from tests.support.databases import Author, Base, drop_tables, settings_for


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


async def test_accepts_with_update_uses_the_session_of_the_test(
    db_session: AsyncSession, database: Any
) -> None:
    author = Author(name="Austen")
    db_session.add(author)
    await db_session.commit()
    library = worker_factory(Library, db=db_session, database=database)
    assert await library.change({"id": author.id, "name": "Jane"})
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

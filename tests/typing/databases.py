"""
Database dependencies and decorators as type checkers see them. Never runs: mypy and pyright check
it.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator
from typing import Any, assert_type

from marshmallow_sqlalchemy import SQLAlchemyAutoSchema
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import ClusterRpcProxy, rpc
from aiorpc.sqlalchemy import (
    CallDatabase,
    CallOutbox,
    Database,
    DatabaseSession,
    Outbox,
    accepts,
    dump,
    load,
    returns,
    transaction_retry,
)


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"

    id: Mapped[int] = mapped_column(primary_key=True)


class AuthorSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Author


class Library:
    name = "library"
    session = DatabaseSession(Base, engine_options={"pool_size": 3}, commit=True)
    db = Database(Base)
    outbox = Outbox(Base)

    @rpc
    async def tell(self) -> None:
        assert_type(self.outbox, CallOutbox)
        await self.outbox("told", {"id": 1}, key="k", mandatory=True)
        await self.outbox.dispatch("told", priority=3)
        await self.outbox.publish(b"x", routing_key="key")
        await self.outbox.dispatch("told", prioriti=3)  # type: ignore[call-arg]  # pyright: ignore

    @rpc
    @returns(AuthorSchema)
    async def get(self, author_id: int) -> Author | None:
        assert_type(self.session, AsyncSession)
        assert_type(self.db, CallDatabase)
        assert_type(self.db.session, AsyncSession)
        async with self.db.get_session() as session:
            assert_type(session, AsyncSession)
        self.session.no_such_method()  # type: ignore[attr-defined]  # pyright: ignore
        return await self.session.get(Author, author_id)

    @rpc
    @returns(Author, many=True)
    async def all(self, *, born: int = 0) -> list[Author]:
        return []

    @rpc
    @transaction_retry(total=3, backoff_factor=0.1, session=operator.attrgetter("session"))
    async def count(self, least: int) -> int:
        return least

    @rpc
    @transaction_retry
    @accepts(author=AuthorSchema)
    async def add(self, author: Author) -> int:
        await dump(Author, author)
        await load(Author, {}, self.session)
        return author.id

    @rpc
    @returns(Author)
    async def stream(self, born: int) -> AsyncGenerator[Author]:
        yield Author(id=born)

    @rpc
    @accepts(author=AuthorSchema)
    async def titles(self, author: Author) -> AsyncGenerator[str]:
        yield "title"

    @transaction_retry(tries=3)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore
    async def wrong(self) -> None: ...


async def calls() -> None:
    async with ClusterRpcProxy("memory://") as cluster:
        library = cluster.typed(Library)
        assert_type(await library.count(1), int)
        await library.all(born=1775)
        await library.add({"id": 1})
        async for author in library.stream(1775):
            assert_type(author, Any)
        library.stream("1775")  # type: ignore[arg-type]  # pyright: ignore
        async for title in library.titles({"id": 1}):
            assert_type(title, str)
        await library.get(author_id=1)
        await library.get("1")  # type: ignore[arg-type]  # pyright: ignore
        assert_type(await library.all(), list[dict[str, Any]])
        await library.all(born="1775")  # type: ignore[arg-type]  # pyright: ignore
        await library.count("one")  # type: ignore[arg-type]  # pyright: ignore

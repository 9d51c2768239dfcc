"""Nested schemas, by every way that marshmallow has."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from marshmallow import Schema, fields, validates
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema
from marshmallow_sqlalchemy.fields import Nested
from sqlalchemy import ForeignKey, String, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from aiorpc import BadArguments
from aiorpc.sqlalchemy import load
from tests.support.databases import opened_session

RUN = f"aiorpc_nested_{os.getpid()}"


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = f"author_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    books: Mapped[list[Book]] = relationship()


class Book(Base):
    __tablename__ = f"book_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    author_id: Mapped[int | None] = mapped_column(ForeignKey(Author.id))
    pages: Mapped[list[Page]] = relationship()


class Page(Base):
    __tablename__ = f"page_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(50))
    book_id: Mapped[int | None] = mapped_column(ForeignKey(Book.id))


class PageSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Page


def made(nesting: Any, *, instances: bool = False) -> Schema:
    """A schema of authors with their books, and these with their pages, nested by *nesting*."""

    def nest(schema: type[Schema]) -> Any:
        if instances:
            return nesting(schema(many=True))
        return nesting(schema, many=True)

    class BookSchema(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Book
            register = False

        pages = nest(PageSchema)

    class AuthorSchema(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Author
            register = False

        books = nest(BookSchema)

    return AuthorSchema()


def in_a_list(schema: type[Schema], *, many: bool) -> fields.List[Any]:
    return fields.List(fields.Nested(schema))


@pytest.fixture(
    params=[
        pytest.param(lambda: made(Nested), id="their class"),
        pytest.param(lambda: made(Nested, instances=True), id="their instance"),
        pytest.param(lambda: made(fields.Nested), id="class"),
        pytest.param(lambda: made(fields.Nested, instances=True), id="instance"),
        pytest.param(lambda: made(in_a_list), id="list"),
    ]
)
def schema(request: pytest.FixtureRequest) -> Schema:
    made_schema: Schema = request.param()
    return made_schema


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[AsyncSession]:
    async with opened_session(Base, database_url) as session:
        page = Page(id=1, text="It is a truth")
        book = Book(id=1, title="Pride and Prejudice", pages=[page])
        session.add(Author(id=1, name="Austen", books=[book]))
        await session.commit()
        yield session


def data(**more: Any) -> dict[str, Any]:
    page = {"id": 1, "text": "universally acknowledged"}
    return {"id": 1, "name": "Jane", "books": [{"id": 1, "title": "P&P", "pages": [page]}], **more}


def objects(author: Any) -> list[Any]:
    return [author, author.books[0], author.books[0].pages[0]]


async def test_nested_objects_are_new_without_a_session_and_found_with_one(
    schema: Schema, session: AsyncSession
) -> None:
    for _ in range(2):  # nothing is kept from one to the next
        new = await load(schema, data())
        assert all(inspect(one).transient for one in objects(new))
        found = await load(schema, data(), session)
        assert all(one in session for one in objects(found))
    await session.commit()
    query = select(Author).options(selectinload(Author.books).selectinload(Book.pages))
    (author,) = await session.scalars(query.execution_options(populate_existing=True))
    assert [author.name, author.books[0].title] == ["Jane", "P&P"]
    assert author.books[0].pages[0].text == "universally acknowledged"


async def test_invalid_data_changes_no_row(schema: Schema, session: AsyncSession) -> None:
    with pytest.raises(BadArguments, match="name: Not a valid string"):
        await load(schema, data(name=7), session)
    with pytest.raises(BadArguments, match="nonsense: Unknown field"):
        await load(schema, [data(), data(nonsense=1)], session, many=True)
    assert not session.dirty
    await session.commit()
    assert await session.scalar(select(Page.text)) == "It is a truth"


@pytest.mark.parametrize("nesting", [Nested, fields.Nested])
async def test_a_plain_schema_may_nest_the_schema_of_a_mapped_class(
    nesting: Any, session: AsyncSession
) -> None:
    plain = Schema.from_dict({"page": nesting(PageSchema)})()
    new = await load(plain, {"page": {"id": 1, "text": "new"}})
    assert inspect(new["page"]).transient
    found = await load(plain, {"page": {"id": 1, "text": "found"}}, session)
    assert found["page"] in session


async def test_a_validator_may_query_the_session(session: AsyncSession) -> None:
    class Unique(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Page

        @validates("text")
        def not_there(self, value: str, **_: Any) -> None:
            assert self.session is not None
            assert self.session.query(Page).filter_by(text=value).count() == 0

    page = await load(Unique(), {"id": 1, "text": "else"}, session)
    assert page in session

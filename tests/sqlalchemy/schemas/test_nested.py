"""Nested schemas, by every way that marshmallow has."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
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


class Node(Base):
    __tablename__ = f"node_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey(f"node_{RUN}.id"))
    children: Mapped[list[Node]] = relationship()


class PageSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Page


def made(nest: Callable[[type[Schema]], fields.Field[Any]]) -> type[Schema]:
    """A schema of authors with their books, and of books with their pages, nested by *nest*."""

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

    return AuthorSchema


@pytest.fixture(
    params=[
        pytest.param(lambda schema: Nested(schema, many=True), id="their class"),
        pytest.param(lambda schema: Nested(schema(many=True)), id="their instance"),
        pytest.param(lambda schema: Nested(lambda: schema(many=True)), id="their callable"),
        pytest.param(lambda schema: fields.Nested(schema, many=True), id="class"),
        pytest.param(lambda schema: fields.Nested(schema(many=True)), id="instance"),
        pytest.param(lambda schema: fields.Nested(lambda: schema(many=True)), id="callable"),
        pytest.param(lambda schema: fields.List(fields.Nested(schema)), id="list"),
        pytest.param(lambda schema: fields.List(fields.Nested(schema())), id="list of instance"),
    ]
)
def schema_class(request: pytest.FixtureRequest) -> type[Schema]:
    return made(request.param)


@pytest.fixture
def schema(schema_class: type[Schema]) -> Schema:
    return schema_class()


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


# One database: the schema refuses the field. The tests above use each database.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "options", [{"exclude": ("books.title",)}, {"only": ("id", "name", "books.id", "books.pages")}]
)
async def test_a_nested_field_that_the_schema_leaves_out_is_refused(
    schema_class: type[Schema], options: dict[str, Any], session: AsyncSession
) -> None:
    for source in (None, session):
        with pytest.raises(BadArguments, match=r"^books\[0\]\.title: Unknown field\.$"):
            await load(schema_class(**options), data(), source)
    assert not session.dirty


async def test_a_schema_that_names_another_nests_it(session: AsyncSession) -> None:
    class NamedAuthorSchema(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Author

        books = Nested("NamedBookSchema", many=True)

    class NamedBookSchema(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Book

    named = NamedAuthorSchema(exclude=("books.title",))
    found = await load(named, {"id": 1, "name": "Jane", "books": [{"id": 1}]}, session)
    assert found.books[0].title == "Pride and Prejudice"
    with pytest.raises(BadArguments, match=r"books\[0\]\.title: Unknown field"):
        await load(named, {"id": 1, "name": "Jane", "books": [{"id": 1, "title": "P"}]}, session)


async def test_changes_to_the_fields_of_a_schema_hold_for_loading(session: AsyncSession) -> None:
    class Changed(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Page

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.fields["text"].required = False
            del self.load_fields["id"]

    for source in (None, session):
        assert (await load(Changed(), {}, source)).text is None
        with pytest.raises(BadArguments, match=r"^id: Unknown field\.$"):
            await load(Changed(), {"id": 1}, source)


async def test_a_schema_may_nest_itself() -> None:
    class Tree(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Node

        children = Nested(lambda: Tree(many=True), many=True)  # marshmallow 3 needs both

    tree: dict[str, Any] = {"name": "leaf", "children": []}
    for _ in range(30):
        tree = {"name": "branch", "children": [tree]}
    node = await load(Tree(), tree)
    depth = 0
    while node.children:
        node, depth = node.children[0], depth + 1
    assert (depth, node.name, inspect(node).transient) == (30, "leaf", True)


@pytest.mark.parametrize("nesting", [Nested, fields.Nested])
async def test_a_plain_schema_may_nest_the_schema_of_a_mapped_class(
    nesting: Any, session: AsyncSession
) -> None:
    plain = Schema.from_dict({"page": nesting(PageSchema)})()
    new = await load(plain, {"page": {"id": 1, "text": "new"}})
    assert inspect(new["page"]).transient
    found = await load(plain, {"page": {"id": 1, "text": "found"}}, session)
    assert found["page"] in session


@pytest.mark.parametrize("nesting", [Nested, fields.Nested])
async def test_a_mapping_or_a_tuple_may_nest_a_schema(nesting: Any, session: AsyncSession) -> None:
    class Shelf(Schema):
        by_name = fields.Dict(keys=fields.String(), values=nesting(PageSchema, exclude=("text",)))
        pair = fields.Tuple((fields.String(), nesting(PageSchema)))

    for _ in range(2):
        new = await load(Shelf(), {"by_name": {"a": {"id": 1}}, "pair": ["b", {"text": "b"}]})
        assert inspect(new["by_name"]["a"]).transient
        assert inspect(new["pair"][1]).transient
        found = await load(
            Shelf(), {"by_name": {"a": {"id": 1}}, "pair": ["b", {"id": 1, "text": "b"}]}, session
        )
        assert found["by_name"]["a"] is found["pair"][1]
        assert found["pair"][1] in session
        with pytest.raises(BadArguments, match=r"text: Unknown field"):
            await load(Shelf(), {"by_name": {"a": {"text": "c"}}}, session)


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

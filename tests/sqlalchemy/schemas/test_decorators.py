"""``@returns`` and ``@accepts`` in a service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from marshmallow import validate
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema, auto_field
from marshmallow_sqlalchemy.fields import Nested
from sqlalchemy import event, select
from sqlalchemy.orm import selectinload

from aiorpc import BadArguments, ConfigurationError, RemoteError, rpc
from aiorpc.sqlalchemy import (
    Database,
    DatabaseSession,
    accepts,
    dump,
    returns,
)
from tests.support.databases import Author, Base, Book, engine_of, running


class BookSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Book
        include_fk = True
        load_instance = True


class AuthorSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Author
        load_instance = True

    name = auto_field(validate=validate.Length(min=2))


class ShelfSchema(SQLAlchemyAutoSchema[Any]):
    """An author with the books nested in it."""

    class Meta:
        model = Author
        load_instance = True

    books = Nested(BookSchema, many=True, exclude=("author_id",))


class Library:
    name = "library"
    db = DatabaseSession(Base)
    auto = DatabaseSession(Base, commit=True)
    database = Database(Base)

    @rpc
    @accepts(author=ShelfSchema())
    async def add_author(self, author: Author) -> int:
        assert isinstance(author, Author)
        self.db.add(author)
        await self.db.commit()
        return author.id

    @rpc
    @returns(AuthorSchema(only=("name",)))
    @accepts(author=AuthorSchema())
    async def beside(self, author: Author) -> AsyncGenerator[Author]:
        yield author
        async for other in await self.db.stream_scalars(select(Author).order_by(Author.id)):
            yield other

    @rpc
    @returns(ShelfSchema())
    async def add_at_the_end(self, name: str) -> Author:
        author = Author(name=name)
        self.auto.add(author)
        return author

    @rpc
    @returns(AuthorSchema(), lazy="raise")
    async def rename_at_the_end(self, author_id: int, name: str) -> Author:
        author = await self.auto.get_one(Author, author_id)
        author.name = name
        return author

    @rpc
    @returns(ShelfSchema(), lazy="raise")
    async def add_at_the_end_loaded(self, name: str, *books: str) -> Author:
        author = Author(name=name)
        author.books.extend(Book(title=title) for title in books)
        self.auto.add(author)
        return author

    @rpc
    @accepts(AuthorSchema(many=True))
    async def add_authors(self, authors: list[Author]) -> list[int]:
        self.db.add_all(authors)
        await self.db.commit()
        return [author.id for author in authors]

    @rpc
    @accepts(author=AuthorSchema(), update=True)
    async def change_author(self, author: Author) -> bool:
        known = author in self.db
        await self.db.commit()
        return known

    @rpc
    @accepts(book=Book, update=True, session="database")
    async def change_book(self, book: Book) -> None:
        await self.database.session.commit()

    @rpc
    @accepts(author=Author)
    async def optional(self, author: Author | None = None, times: int = 1) -> str:
        return f"{author.name if author else 'nobody'} {times}"

    @rpc
    @returns(AuthorSchema())
    async def get_author(self, author_id: int) -> Author | None:
        return await self.db.get(Author, author_id)

    @rpc
    @returns(Author, many=True)
    async def all_authors(self) -> Any:
        return await self.db.scalars(select(Author).order_by(Author.id))

    @rpc
    @returns(AuthorSchema, many=True)
    async def streamed_authors(self) -> Any:
        return await self.db.stream_scalars(select(Author).order_by(Author.id))

    @rpc
    @returns(AuthorSchema, many=True)
    async def streamed_rows(self) -> Any:
        return await self.db.stream(select(Author).order_by(Author.id))

    @rpc
    @returns(Author, many=True)
    async def author_rows(self) -> Any:
        return (await self.db.execute(select(Author))).all()

    @rpc
    @returns(ShelfSchema(), many=True)
    async def shelves(self) -> Any:
        return await self.db.scalars(select(Author).order_by(Author.id))

    @rpc
    @returns(ShelfSchema(), many=True, lazy="raise")
    async def shelves_loaded(self, *, eagerly: bool) -> Any:
        query = select(Author).order_by(Author.id)
        if eagerly:
            query = query.options(selectinload(Author.books))
        return await self.db.scalars(query)

    @rpc
    @returns(ShelfSchema())
    async def shelf_of_a_closed_session(self) -> Author:
        async with self.database.get_session() as session:
            return (await session.scalars(select(Author))).one()

    @rpc
    @returns(Author)
    async def too_many(self, results: str) -> Any:
        found = await self.db.scalars(select(Author))
        return list(found) if results == "list" else found


AUSTEN = {"name": "Austen", "born": 1775, "books": [{"title": "Emma"}, {"title": "Persuasion"}]}


async def test_objects_are_accepted_and_returned(database_url: str) -> None:
    async with running(Library, database_url) as (proxy, _):
        austen = await proxy.add_author(AUSTEN)
        assert await proxy.get_author(austen) == {"id": austen, "name": "Austen", "born": 1775}
        assert await proxy.get_author(austen + 1) is None
        assert len(await proxy.add_authors([{"name": "Bronte"}, {"name": "Carroll"}])) == 2
        names = ["Austen", "Bronte", "Carroll"]
        for name in ("all_authors", "streamed_authors", "streamed_rows", "author_rows"):
            method = getattr(proxy, name)
            assert [author["name"] for author in await method()] == names


async def test_each_object_of_a_stream_is_returned(database_url: str) -> None:
    async with running(Library, database_url) as (proxy, _):
        await proxy.add_authors([{"name": "Bronte"}, {"name": "Carroll"}])
        stream = proxy.beside.stream({"name": "Austen"})
        names = [author async for author in stream]
        assert names == [{"name": "Austen"}, {"name": "Bronte"}, {"name": "Carroll"}]
        with pytest.raises(BadArguments, match="Shorter than minimum length 2"):
            await anext(proxy.beside.stream({"name": "A"}))


async def test_an_object_committed_at_the_end_has_its_key_in_the_result(database_url: str) -> None:
    async with running(Library, database_url) as (proxy, _):
        austen = await proxy.add_at_the_end("Austen")
        assert austen == {"id": austen["id"], "name": "Austen", "born": None, "books": []}
        assert (await proxy.get_author(austen["id"]))["name"] == "Austen"
        assert (await proxy.rename_at_the_end(austen["id"], "Jane"))["name"] == "Jane"
        bronte = await proxy.add_at_the_end_loaded("Bronte")
        assert bronte == {"id": austen["id"] + 1, "name": "Bronte", "born": None, "books": []}
        shelley = await proxy.add_at_the_end_loaded("Shelley", "Mathilda", "Lodore")
        assert [book["title"] for book in shelley["books"]] == ["Mathilda", "Lodore"]
        assert all(book["id"] for book in shelley["books"])


async def test_relationships_are_loaded_inside_the_session(database_url: str) -> None:
    async with running(Library, database_url) as (proxy, _):
        await proxy.add_author(AUSTEN)
        await proxy.add_author({"name": "Bronte", "books": []})
        first, second = await proxy.shelves()
        assert [book["title"] for book in first["books"]] == ["Emma", "Persuasion"]
        assert second["books"] == []


async def test_lazy_raise_names_the_relationship_to_load(sqlite_url: str) -> None:
    async with running(Library, sqlite_url) as (proxy, container):
        await proxy.add_author(AUSTEN)
        with pytest.raises(RemoteError) as caught:
            await proxy.shelves_loaded(eagerly=False)
        assert caught.value.exc_type == "NotLoaded"
        assert "ShelfSchema needs Author.books, which is not loaded" in caught.value.value
        assert "selectinload(Author.books)" in caught.value.value
        queries: list[str] = []
        event.listen(
            engine_of(container).sync_engine,
            "before_cursor_execute",
            lambda *args: queries.append(args[2]),
        )
        (shelf,) = await proxy.shelves_loaded(eagerly=True)
        assert len(shelf["books"]) == 2
        assert len(queries) == 2
        with pytest.raises(
            RemoteError, match=r"its session is closed.*selectinload\(Author.books\)"
        ):
            await proxy.shelf_of_a_closed_session()


async def test_a_schema_for_one_object_refuses_many_and_the_reverse(sqlite_url: str) -> None:
    async with running(Library, sqlite_url) as (proxy, _):
        for results in ("list", "ScalarResult"):
            with pytest.raises(RemoteError, match=rf"cannot dump a {results} with.*many=True"):
                await proxy.too_many(results)
    with pytest.raises(ConfigurationError, match=r"cannot dump one Author with.*leave out many"):
        await dump(Author, Author(name="Austen"), many=True)


async def test_the_error_for_invalid_arguments_has_messages_by_field(database_url: str) -> None:
    async with running(Library, database_url) as (proxy, _):
        with pytest.raises(BadArguments) as caught:
            await proxy.add_author({"born": "long ago", "books": [{}], "died": 1817})
        text = str(caught.value)
        assert text.startswith("Library.add_author: ")
        assert "author.name: Missing data for required field." in text
        assert "author.born: Not a valid integer." in text
        assert "author.books[0].title: Missing data for required field." in text
        assert "author.died: Unknown field." in text
        assert caught.value.messages["author"]["name"] == ["Missing data for required field."]
        with pytest.raises(BadArguments, match=r"authors\[1\].name: Shorter than minimum length 2"):
            await proxy.add_authors([{"name": "Bronte"}, {"name": "B"}])
        with pytest.raises(BadArguments, match="author"):
            await proxy.add_author("Austen")
        assert await proxy.all_authors() == []


async def test_accepted_arguments_do_not_change_existing_rows(database_url: str) -> None:
    async with running(Library, database_url) as (proxy, _):
        austen = await proxy.add_author(AUSTEN)
        (shelf,) = await proxy.shelves()
        with pytest.raises(RemoteError, match="IntegrityError"):
            await proxy.add_author({"id": austen, "name": "Mallory", "books": []})
        stolen = {"name": "Mallory", "books": [{"id": shelf["books"][0]["id"], "title": "Mine"}]}
        with pytest.raises(RemoteError, match="IntegrityError"):
            await proxy.add_author(stolen)
        assert await proxy.shelves() == [shelf]


async def test_update_changes_existing_rows(database_url: str) -> None:
    async with running(Library, database_url) as (proxy, _):
        austen = await proxy.add_author(AUSTEN)
        assert await proxy.change_author({"id": austen, "name": "Jane Austen"}) is True
        assert (await proxy.get_author(austen))["name"] == "Jane Austen"
        (shelf,) = await proxy.shelves()
        emma = {**shelf["books"][0], "title": "Emma II", "author_id": austen}
        await proxy.change_book(emma)
        assert (await proxy.shelves())[0]["books"][0]["title"] == "Emma II"


async def test_concurrent_updates_use_their_own_sessions(database_url: str) -> None:
    async with running(Library, database_url) as (proxy, _):
        ids = await proxy.add_authors([{"name": f"Author {n}"} for n in range(10)])
        changes = [proxy.change_author({"id": one, "name": f"Author {one}!"}) for one in ids]
        assert await asyncio.gather(*changes) == [True] * 10
        assert [author["name"] for author in await proxy.all_authors()] == [
            f"Author {one}!" for one in ids
        ]


async def test_other_arguments_and_defaults_are_unchanged(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Library, sqlite_url) as (proxy, _):
        assert await proxy.optional() == "nobody 1"
        assert await proxy.optional(None, 2) == "nobody 2"
        assert await proxy.optional(times=3, author={"name": "Austen"}) == "Austen 3"
        with pytest.raises(BadArguments, match="times"):
            await proxy.optional(None, "often")
    # Requests are checked against the types on the wire, not against the mapped class.
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and "unchecked" in r.msg]


async def test_objects_are_passed_unchanged_within_a_process() -> None:
    service = Library()
    author = Author(name="Austen")
    assert await service.optional(author) == "Austen 1"
    assert await service.optional(author=author, times=2) == "Austen 2"


def test_mistakes_are_errors_when_the_class_is_made() -> None:
    async def method(self: Any, author: Author) -> Author:
        return author

    def sync_method(self: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="takes a marshmallow schema or a mapped class"):
        returns("AuthorSchema")
    with pytest.raises(ConfigurationError, match="has no argument writer; it has author"):
        accepts(writer=AuthorSchema())(method)
    with pytest.raises(ConfigurationError, match=r"2 schemas, but .*method has 1 arguments"):
        accepts(AuthorSchema(), BookSchema())(method)
    with pytest.raises(ConfigurationError, match=r"make .*sync_method `async def`"):
        returns(AuthorSchema())(sync_method)


async def test_data_that_a_schema_refuses_is_one_warning_in_the_log(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Library, database_url) as (library, _):
        with pytest.raises(BadArguments):
            await library.add_author({"name": 1})
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    assert "library.add_author: a request was refused: BadArguments: " in record.getMessage()
    assert record.exc_info is None

"""Plain data as ORM objects."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import Schema, fields, validate
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema, SQLAlchemySchema, auto_field
from marshmallow_sqlalchemy.fields import Related
from sqlalchemy.ext.asyncio import AsyncSession

from aiorpc import BadArguments
from aiorpc.sqlalchemy import (
    dump,
    load,
)
from tests.support.databases import Author, Book


class AuthorSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Author
        load_instance = True

    name = auto_field(validate=validate.Length(min=2))


# dump and load by hand


async def test_load_with_a_session_finds_and_changes_a_row(session: AsyncSession) -> None:
    author = await load(AuthorSchema(), {"name": "Austen"}, session)
    session.add(author)
    await session.commit()
    same = await load(AuthorSchema(), {"id": author.id, "name": "Jane Austen"}, session)
    assert same is author
    assert await dump(AuthorSchema(), author) == {
        "id": author.id,
        "name": "Jane Austen",
        "born": None,
    }


async def test_load_without_a_session_makes_a_new_object(session: AsyncSession) -> None:
    author = Author(name="Austen")
    session.add(author)
    await session.commit()
    other = await load(AuthorSchema(), {"id": author.id, "name": "Mallory"})
    assert (other is author, author.name) == (False, "Austen")
    many = await load(Author, [{"name": "Bronte"}], many=True)
    assert [type(one) for one in many] == [Author]
    with pytest.raises(BadArguments, match=r"^writer.name: Missing data"):
        await load(Author, {}, name="writer")


async def test_a_related_object_is_looked_up_in_the_session(session: AsyncSession) -> None:
    class WithAuthor(SQLAlchemySchema[Any]):
        class Meta:
            model = Book

        title = auto_field()
        author = Related()

    author = Author(name="Austen")
    session.add(author)
    await session.commit()
    book = await load(WithAuthor(), {"title": "Emma", "author": author.id}, session)
    assert book.author is author


async def test_a_plain_schema_dumps_and_loads_plain_values() -> None:
    plain = Schema.from_dict({"name": fields.String()})
    assert await dump(plain(), {"name": "Austen"}) == {"name": "Austen"}
    assert await load(plain(), {"name": "Austen"}) == {"name": "Austen"}
    assert await dump(plain, None) is None


async def test_load_instance_false_loads_plain_data() -> None:
    class Plain(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Author
            load_instance = False

    class Silent(SQLAlchemyAutoSchema[Any]):
        class Meta:
            model = Author

    assert await load(Plain(), {"name": "Austen"}) == {"name": "Austen"}
    instances = AuthorSchema(load_instance=False)
    assert await load(instances, {"name": "Austen"}) == {"name": "Austen"}
    # ModelSchema made instances; its successors load dicts by default.
    assert isinstance(await load(Silent(), {"name": "Austen"}), Author)


async def test_data_nested_too_deep_is_not_valid() -> None:
    class Node(Schema):
        child = fields.Nested(lambda: Node())

    data: dict[str, Any] = {}
    for _ in range(1000):
        data = {"child": data}
    with pytest.raises(BadArguments, match="node: Nested too deep"):
        await load(Node, data, name="node")

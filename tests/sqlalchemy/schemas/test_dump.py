"""ORM objects as plain data: attributes that are not loaded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from marshmallow import Schema, fields, validate
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema, auto_field
from sqlalchemy import String, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    Mapped,
    mapped_column,
)

from aiorpc import RemoteError, rpc
from aiorpc.sqlalchemy import (
    Database,
    NotLoaded,
    dump,
    returns,
)
from tests.support.databases import RUN, Author, Base, running


class AuthorSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Author
        load_instance = True

    name = auto_field(validate=validate.Length(min=2))


# dump and load by hand


async def test_an_expired_attribute_is_refreshed_or_named(session: AsyncSession) -> None:
    author = Author(name="Austen")
    session.add(author)
    await session.commit()
    session.expire(author)
    with pytest.raises(NotLoaded, match=r"needs Author\.\w+.*undefer\(Author\.\w+\).*refresh"):
        await dump(AuthorSchema(), author, lazy="raise")
    assert (await dump(AuthorSchema(), author))["name"] == "Austen"


async def test_lazy_raise_finds_the_loads_of_functions_too(session: AsyncSession) -> None:
    class Counting(Schema):
        count = fields.Function(lambda author: len(author.books))

    author = Author(name="Austen")
    session.add(author)
    await session.commit()
    session.expire(author)
    with pytest.raises(
        NotLoaded,
        match="Counting reads, by a property or a method, an attribute of Author that",
    ):
        await dump(Counting(), author, lazy="raise")
    await session.refresh(author)
    with pytest.raises(NotLoaded, match=r"Counting needs Author.books.*selectinload"):
        await dump(Counting(), author, lazy="raise")
    assert await dump(Counting(), author) == {"count": 0}


class Dated(Base):
    __tablename__ = f"dated_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    changed: Mapped[datetime | None] = mapped_column(onupdate=func.current_timestamp())


class Dates:
    name = "dates"
    db = Database(Base)

    @rpc
    async def set_up(self) -> None:
        async with self.db.get_session() as session:
            session.add(Dated(name="new"))

    @rpc
    @returns(Dated)
    async def change(self) -> Dated:
        async with self.db.get_session() as session:
            dated = (await session.scalars(select(Dated))).one()
            dated.name = "changed"
        return dated


async def test_the_error_names_a_column_that_the_database_sets(sqlite_url: str) -> None:
    async with running(Dates, sqlite_url) as (proxy, _):
        await proxy.set_up()
        with pytest.raises(RemoteError, match=r"Dated.changed.*session is closed.*eager_defaults"):
            await proxy.change()

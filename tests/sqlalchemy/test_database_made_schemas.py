"""Schemas that are made for mapped classes: binary columns, classes that share tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

import pytest
from sqlalchemy import ForeignKey, LargeBinary, String, func, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    mapped_column,
    with_polymorphic,
)

from aiorpc import BadArguments, RemoteError, rpc
from aiorpc.sqlalchemy import Database, DatabaseSession, accepts, load, returns, schema_for
from tests.sqlalchemy.library import running

RUN = f"aiorpc_{os.getpid()}"


class Base(DeclarativeBase):
    pass


class Employee(Base):
    __tablename__ = f"employee_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__: ClassVar[Any] = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}


class Manager(Employee):
    __tablename__ = f"manager_{RUN}"

    id: Mapped[int] = mapped_column(ForeignKey(Employee.id), primary_key=True)
    grade: Mapped[int]
    __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "manager"}


class Director(Manager):
    """In the table of its parent."""

    __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "director"}


class Picture(Base):
    __tablename__ = f"picture_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    thumbnail: Mapped[bytes | None] = mapped_column(LargeBinary(4))


class Company:
    name = "company"
    db = DatabaseSession(Base, commit=True)

    @rpc
    @accepts(who=Employee)
    async def hire(self, who: Employee) -> None:
        self.db.add(who)

    @rpc
    @accepts(who=Manager)
    @returns(Manager)
    async def hire_manager(self, who: Manager) -> Manager:
        self.db.add(who)
        return who

    @rpc
    @accepts(who=Employee, update=True)
    async def change(self, who: Employee) -> None:
        pass

    @rpc
    @returns(Employee, many=True)
    async def everybody(self) -> Sequence[Employee]:
        return (await self.db.scalars(select(with_polymorphic(Employee, "*")))).all()

    @rpc
    @accepts(picture=Picture)
    @returns(Picture)
    async def add_picture(self, picture: Picture) -> Picture:
        self.db.add(picture)
        await self.db.commit()
        self.db.expire(picture)
        return picture


async def test_a_caller_cannot_say_of_which_class_a_row_is(database_url: str) -> None:
    async with running(Company, database_url) as (proxy, _):
        for kind in ("manager", "nonsense"):
            with pytest.raises(BadArguments, match=r"who\.kind: Unknown field"):
                await proxy.hire({"name": "Mallory", "kind": kind})
        await proxy.hire({"name": "Alice"})
        boss = await proxy.hire_manager({"name": "Bob", "grade": 3})
        assert boss == {"id": boss["id"], "kind": "manager", "name": "Bob", "grade": 3}
        with pytest.raises(BadArguments, match=r"who\.kind: Unknown field"):
            await proxy.change({"id": boss["id"], "name": "Bob", "kind": "employee"})
        await proxy.change({"id": boss["id"], "name": "Robert"})
        everybody = {one["name"]: one["kind"] for one in await proxy.everybody()}
        assert everybody == {"Alice": "employee", "Robert": "manager"}


def test_a_key_that_the_table_of_the_parent_gives_need_not_be_told() -> None:
    for model in (Employee, Manager, Director):
        fields = schema_for(model)().fields
        assert not fields["id"].required
        assert fields["name"].required


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff\xfe\x00'\"\\%s"])
async def test_bytes_come_back_as_they_went(database_url: str, data: bytes) -> None:
    async with running(Company, database_url) as (proxy, _):
        picture = await proxy.add_picture({"data": data})
        assert picture == {"id": picture["id"], "data": data, "thumbnail": None}


async def test_text_is_not_taken_for_bytes() -> None:
    with pytest.raises(BadArguments, match=r"data: Not valid bytes\.; thumbnail: Longer than"):
        await load(Picture, {"data": "abc", "thumbnail": b"12345"})


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


async def test_what_the_database_sets_and_nobody_read_is_named(sqlite_url: str) -> None:
    async with running(Dates, sqlite_url) as (proxy, _):
        await proxy.set_up()
        with pytest.raises(RemoteError, match=r"Dated.changed.*session is closed.*eager_defaults"):
            await proxy.change()


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class Point(DataBase):
    __tablename__ = f"point_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    x: Mapped[int]
    label: Mapped[str | None] = mapped_column(String(20))


async def test_a_mapped_dataclass_says_what_it_does_not_take() -> None:
    point = await load(Point, {"x": 1, "label": None})
    assert (point.x, point.label) == (1, None)
    with pytest.raises(BadArguments, match=r"^the data: missing 1 required .* 'label'"):
        await load(Point, {"x": 1})
    with pytest.raises(BadArguments, match=r"^point: got an unexpected keyword argument 'id'"):
        await load(Point, {"id": 1, "x": 1, "label": None}, name="point")

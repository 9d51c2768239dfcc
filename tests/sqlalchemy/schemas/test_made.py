"""Schemas made for mapped classes."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from sqlalchemy import ForeignKey, LargeBinary, Numeric, String, select, types
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    mapped_column,
    with_polymorphic,
)

from aiorpc import BadArguments, ConfigurationError, rpc
from aiorpc.sqlalchemy import (
    DatabaseSession,
    accepts,
    dump,
    load,
    returns,
    schema_for,
)
from tests.support.databases import RUN, Book, running


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


async def test_a_caller_cannot_set_the_class_of_a_row(database_url: str) -> None:
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


def test_a_key_from_the_table_of_the_parent_is_not_required() -> None:
    for model in (Employee, Manager, Director):
        fields = schema_for(model)().fields
        assert not fields["id"].required
        assert fields["name"].required


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff\xfe\x00'\"\\%s"])
async def test_bytes_come_back_unchanged(database_url: str, data: bytes) -> None:
    async with running(Company, database_url) as (proxy, _):
        picture = await proxy.add_picture({"data": data})
        assert picture == {"id": picture["id"], "data": data, "thumbnail": None}


async def test_text_is_not_accepted_as_bytes() -> None:
    with pytest.raises(BadArguments) as caught:
        await load(Picture, {"data": "abc", "thumbnail": b"12345"})
    assert "data: Not valid bytes." in str(caught.value)
    assert "thumbnail: Longer than" in str(caught.value)


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class Point(DataBase):
    __tablename__ = f"point_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    x: Mapped[int]
    label: Mapped[str | None] = mapped_column(String(20))


async def test_the_error_of_a_mapped_dataclass_names_the_argument() -> None:
    point = await load(Point, {"x": 1, "label": None})
    assert (point.x, point.label) == (1, None)
    with pytest.raises(BadArguments, match=r"^the data: missing 1 required .* 'label'"):
        await load(Point, {"x": 1})
    with pytest.raises(BadArguments, match=r"^point: got an unexpected keyword argument 'id'"):
        await load(Point, {"id": 1, "x": 1, "label": None}, name="point")


# Made schemas


class OtherBase(DeclarativeBase):
    pass


class Everything(OtherBase):
    __tablename__ = "everything"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(5))
    price: Mapped[decimal.Decimal] = mapped_column(Numeric(10, 2))
    when: Mapped[datetime.datetime]
    day: Mapped[datetime.date]
    flag: Mapped[bool] = mapped_column(default=True)


async def test_a_schema_made_for_a_class_has_its_columns() -> None:
    made = schema_for(Book)
    assert made is schema_for(Book)
    assert set(made().fields) == {"id", "title", "author_id"}
    data = {"text": "abc", "price": "1.50", "when": "2024-02-29T12:00:00", "day": "2024-02-29"}
    thing = await load(Everything, data)
    assert (thing.price, thing.day) == (decimal.Decimal("1.50"), datetime.date(2024, 2, 29))
    assert (await dump(Everything, thing))["when"] == "2024-02-29T12:00:00"
    with pytest.raises(BadArguments, match="text: Longer than maximum length 5"):
        await load(Everything, {**data, "text": "too long"})


def test_a_column_that_marshmallow_does_not_know_is_an_error() -> None:
    class Odd(types.UserDefinedType[Any]):
        cache_ok = True

    class OddThing(OtherBase):
        __tablename__ = "odd"

        id: Mapped[int] = mapped_column(primary_key=True)
        odd: Mapped[Any] = mapped_column(Odd)

    with pytest.raises(ConfigurationError, match=r"cannot make a schema for .*OddThing"):
        schema_for(OddThing)
    with pytest.raises(ConfigurationError, match="neither a marshmallow schema nor a class"):
        schema_for(dict)

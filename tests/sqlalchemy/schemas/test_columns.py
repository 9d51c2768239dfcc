"""Values of columns in the schemas that are made for mapped classes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from marshmallow import fields
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema
from sqlalchemy import Enum, ForeignKey, LargeBinary
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, composite, mapped_column, relationship

from aiorpc import BadArguments, ConfigurationError, ServiceContainer, rpc
from aiorpc.sqlalchemy import DatabaseSession, accepts, dump, load, returns
from tests.support.databases import RUN, running, settings_for


class Base(DeclarativeBase):
    pass


class Colour(enum.Enum):
    RED = "red"
    #: Its name is a value of another one.
    red = "dark red"
    ONE = 1


class Car(Base):
    __tablename__ = f"car_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    colour: Mapped[Colour]
    second: Mapped[Colour | None] = mapped_column(
        mysql.ENUM(Colour).with_variant(Enum(Colour), "sqlite")
    )
    gear: Mapped[str | None] = mapped_column(Enum("manual", "automatic", name=f"gear_{RUN}"))


class Garage:
    name = "garage"
    db = DatabaseSession(Base, commit=True)

    @rpc
    @returns(Car)
    @accepts(car=Car)
    async def add(self, car: Car) -> Car:
        assert isinstance(car.colour, Colour)
        self.db.add(car)
        return car


async def test_an_enum_is_one_value_for_callers_schemas_and_the_wire(sqlite_url: str) -> None:
    async with running(Garage, sqlite_url) as (proxy, _):
        for sent, spelled in ((Colour.RED, "red"), ("red", "red"), ("RED", "red"), (1, 1)):
            car = await proxy.add({"colour": sent, "second": sent, "gear": "manual"})
            assert car == {"id": car["id"], "colour": spelled, "second": spelled, "gear": "manual"}
            again = {**car, "id": car["id"] + 100}
            assert await proxy.add(again) == again
        with pytest.raises(BadArguments, match=r"car\.colour: Must be one of: red, dark red, 1"):
            await proxy.add({"colour": "green"})
        with pytest.raises(BadArguments, match=r"car\.gear: Must be one of: manual, automatic"):
            await proxy.add({"colour": "red", "gear": "none"})


class CarSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Car

    colour = fields.Enum(Colour)
    second = fields.Enum(Colour, by_value=True)


@pytest.mark.parametrize("sent", ["RED", "red", "ONE", 1])
async def test_a_load_takes_the_name_or_the_value_of_an_enum(sent: Any) -> None:
    data = {"colour": sent, "second": sent}
    for schema, session in ((CarSchema(), None), (CarSchema(), AsyncSession())):
        car = await load(schema, data, session)
        # A name of one member that is the value of another one is what the field's form says.
        by_name = {"red": Colour.red, "RED": Colour.RED}.get(sent, Colour.ONE)
        assert car.colour is by_name
        assert car.second is (Colour.RED if sent == "red" else by_name)
    for wrong in ("green", "mro", None, [1], {}):
        with pytest.raises(BadArguments):
            await load(CarSchema, {"colour": wrong, "second": wrong})


class FilmBase(DeclarativeBase):
    pass


class Film(FilmBase):
    __tablename__ = f"film_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    runs: Mapped[timedelta | None]


class Cinema:
    name = "cinema"
    db = DatabaseSession(FilmBase, commit=True)

    @rpc
    @returns(Film)
    @accepts(film=Film)
    async def show(self, film: Film) -> Film:
        assert film.runs is None or isinstance(film.runs, timedelta)
        self.db.add(film)
        return film


async def test_a_duration_is_seconds_for_callers_schemas_and_the_wire(database_url: str) -> None:
    async with running(Cinema, database_url) as (proxy, _):
        for sent in (timedelta(minutes=1, milliseconds=500), 60.5, "60.5"):
            assert (await proxy.show({"runs": sent}))["runs"] == 60.5
        assert (await proxy.show({"runs": None}))["runs"] is None
        for wrong in ("an hour", 1e30, [1]):
            with pytest.raises(BadArguments, match=r"film\.runs: Not a valid period of time"):
                await proxy.show({"runs": wrong})


@dataclass
class Point:
    x: int
    y: int


class Pin(Base):
    __tablename__ = f"pin_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    x: Mapped[int]
    y: Mapped[int]
    at: Mapped[Point] = composite("x", "y")


async def test_the_columns_of_a_composite_are_fields() -> None:
    pin = await load(Pin, {"x": 1, "y": 2})
    assert pin.at == Point(1, 2)
    assert await dump(Pin, pin) == {"id": None, "x": 1, "y": 2}


class OtherBase(DeclarativeBase):
    pass


class Odd(OtherBase):
    __tablename__ = "odd"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    tags: Mapped[Any] = mapped_column(mysql.SET("a", "b"))
    bits: Mapped[Any] = mapped_column(postgresql.BIT(3))
    more: Mapped[Any] = mapped_column(mysql.BIT(3))
    price: Mapped[Any] = mapped_column(postgresql.MONEY)
    span: Mapped[Any] = mapped_column(postgresql.INT4RANGE)
    prices: Mapped[Any] = mapped_column(postgresql.ARRAY(postgresql.MONEY))
    data: Mapped[bytes] = mapped_column(LargeBinary)


@pytest.mark.parametrize("decorate", [returns(Odd), accepts(odd=Odd)])
async def test_columns_that_a_made_schema_cannot_carry_are_named_at_the_start(
    decorate: Any, sqlite_url: str
) -> None:
    async def method(self: Any, odd: Any = None) -> Any: ...

    service = type(
        "Service", (), {"name": "s", "db": DatabaseSession(Base), "m": rpc(decorate(method))}
    )
    with pytest.raises(ConfigurationError) as caught:
        await ServiceContainer(service, settings_for(service, sqlite_url)).start()
    text = str(caught.value)
    assert (
        "cannot make a schema for Odd: no field carries tags (SET), bits (BIT), more (BIT)," in text
    )
    assert "price (MONEY), span (INT4RANGE), prices (ARRAY). Write a SQLAlchemyAutoSchema" in text


async def test_a_class_may_refer_to_one_that_is_defined_after_the_service(sqlite_url: str) -> None:
    class LateBase(DeclarativeBase):
        pass

    class Early(LateBase):
        __tablename__ = f"early_{RUN}"

        id: Mapped[int] = mapped_column(primary_key=True)
        late: Mapped[Any] = relationship("Late")

    class Service:
        name = "service"
        db = DatabaseSession(LateBase)

        @rpc
        @returns(Early)
        async def get(self) -> Early:
            return Early(id=1)

    class Late(LateBase):
        __tablename__ = f"late_{RUN}"

        id: Mapped[int] = mapped_column(ForeignKey(Early.id), primary_key=True)

    async with running(Service, sqlite_url) as (proxy, _):
        assert await proxy.get() == {"id": 1}

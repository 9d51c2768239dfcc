"""Which changes of a type break callers: those who pass it as an argument, those who read it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from datetime import date, datetime
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    Union,
)

import msgspec
import pydantic
import pytest
from msgspec import Meta, Struct, defstruct

from aiorpc import rpc
from aiorpc.contracts.describing import contract_of
from aiorpc.contracts.differences import breaks_of
from aiorpc.contracts.model import Contract


def contract(argument: Any, result: Any) -> Contract:
    class Shop:
        name = "shop"

        @rpc
        async def sell(self, a): ...

    Shop.sell.__annotations__.update({"a": argument, "return": result})
    return contract_of([Shop])


def broken(old: Any, new: Any) -> tuple[list[str], list[str]]:
    """What the change breaks of an argument, and of a result."""
    passed = breaks_of(contract(old, None), contract(new, None))
    read = breaks_of(contract(None, old), contract(None, new))
    return [str(each) for each in passed], [str(each) for each in read]


def data(**fields: Any) -> type:
    return make_dataclass("Data", fields.items())


def with_default(value: Any) -> type:
    return make_dataclass("Data", [("x", int, value)])


@dataclass
class Base:
    x: int


@dataclass
class Heir(Base):
    y: int


class Moved(Struct):
    """In another module, with another name."""

    x: int


Moved.__module__ = "elsewhere"


class Whole(TypedDict):
    a: int
    b: str


class Total(TypedDict, total=False):
    a: int
    b: str


class Partly(TypedDict):
    a: int
    b: NotRequired[str]


class Mostly(TypedDict, total=False):
    a: Required[int]
    b: str


Two = enum.Enum("State", {"A": "a", "B": "b"})
Three = enum.Enum("State", {"A": "a", "B": "b", "C": "c"})
Renamed = enum.StrEnum("Status", {"Y": "b", "X": "a"})
Numbers = enum.IntEnum("State", {"A": 1, "B": 2})
Circle = defstruct("Circle", [("x", int)], tag="circle")
Square = defstruct("Square", [("x", int)], tag="square")
Cube = defstruct("Cube", [("x", int)], tag="cube")
Disc = defstruct("Disc", [("x", int)], tag="circle")
Row = defstruct("Row", [("x", int), ("y", str)], array_like=True)
Longer = defstruct("Row", [("x", int), ("y", str), ("z", int, 0)], array_like=True)
Other = defstruct("Row", [("x", int), ("y", int)], array_like=True)
Strict = defstruct("Strict", [("x", int)], forbid_unknown_fields=True)
StrictMore = defstruct("Strict", [("x", int), ("y", int, 0)], forbid_unknown_fields=True)
Unset = defstruct("Unset", [("x", int | msgspec.UnsetType, msgspec.UNSET)])
Small = pydantic.create_model("Model", x=(int, ...))
Model = pydantic.create_model("Model", x=(int, ...), y=(int, 3))
Fuller = pydantic.create_model("Model", x=(int, ...), y=(int, ...))
Id = NewType("Id", int)
Positive = Annotated[int, Meta(gt=0)]
Some: Any = Annotated[list[int], Meta(max_length=3)]

COMPATIBLE, NARROWER, WIDER, OTHER = (False, False), (True, False), (False, True), (True, True)


@pytest.mark.parametrize(
    ("old", "new", "breaks"),
    [
        # Names and places of types.
        (data(x=int), Moved, COMPATIBLE),
        (list[data(x=int)], list[Moved], COMPATIBLE),
        (data(x=int) | None, Moved | None, COMPATIBLE),
        (data(x=int), Small, COMPATIBLE),
        (data(x=int, y=int), Heir, COMPATIBLE),
        (Base, Heir, NARROWER),
        (data(x=int), data(x=int, c=ClassVar[int]), COMPATIBLE),
        (int, Id, COMPATIBLE),
        # Unions, and their order.
        (Optional[int], Union[None, int], COMPATIBLE),  # noqa: UP007, UP045
        (int | str, str | int, COMPATIBLE),
        (int | str, int | str | None, WIDER),
        (Circle | Square, Square | Circle, COMPATIBLE),
        (Circle | Square, Disc | Square, COMPATIBLE),
        (Circle | Square, Circle | Square | Cube, WIDER),
        (Circle | Square, Cube | Square, OTHER),
        # Constraints.
        (int, Annotated[int, "a note"], COMPATIBLE),
        (int, Annotated[int, Meta(description="a note")], COMPATIBLE),
        (int, Positive, NARROWER),
        (Positive, Annotated[int, Meta(ge=1)], COMPATIBLE),
        (Annotated[int, Meta(ge=1)], Positive, COMPATIBLE),
        (Annotated[int, Meta(ge=5)], Positive, WIDER),
        (Annotated[int, Meta(le=5)], Annotated[int, Meta(lt=6)], COMPATIBLE),
        (Annotated[float, Meta(ge=0)], Annotated[float, Meta(gt=0)], NARROWER),
        (Annotated[float, Meta(lt=1)], Annotated[float, Meta(le=1)], WIDER),
        (Annotated[int, Meta(multiple_of=4)], Annotated[int, Meta(multiple_of=2)], WIDER),
        (Annotated[str, Meta(pattern="a")], Annotated[str, Meta(pattern="b")], OTHER),
        (list[int], Some, NARROWER),
        # Fields that may be missing, and defaults.
        (Whole, Total, WIDER),
        (Whole, Partly, WIDER),
        (Partly, Mostly, COMPATIBLE),
        (Total, Whole, NARROWER),
        (with_default(1), with_default(2), COMPATIBLE),
        (with_default(1), data(x=int), NARROWER),
        (data(x=int), with_default(1), COMPATIBLE),
        (with_default(1), Unset, WIDER),
        (Small, Model, COMPATIBLE),
        (Model, Fuller, NARROWER),
        (StrictMore, Strict, OTHER),
        (data(x=int), Strict, COMPATIBLE),
        # Enumerations.
        (Two, Three, WIDER),
        (Two | None, Three | None, WIDER),
        (dict[str, list[Two]], dict[str, list[Three]], WIDER),
        (Two, Renamed, COMPATIBLE),
        (Two, Literal["b", "a"], COMPATIBLE),
        (Two, Numbers, OTHER),
        (Literal["a", None], Literal["a"] | None, COMPATIBLE),
        (bool, Literal[True, False], COMPATIBLE),
        (Literal[1, 2], Positive, WIDER),
        (Literal[0, 1], Positive, OTHER),
        (Literal[4, 8], Annotated[int, Meta(multiple_of=4)], WIDER),
        (Literal[4, 7], Annotated[int, Meta(multiple_of=4)], OTHER),
        (Literal["ab"], Annotated[str, Meta(max_length=2)], WIDER),
        (Literal["abc"], Annotated[str, Meta(max_length=2)], OTHER),
        (Literal[True], Literal[False], OTHER),
        # Collections.
        (list[int], tuple[int, ...], COMPATIBLE),
        (set[int], frozenset[int], COMPATIBLE),
        (list[int], Sequence[int], COMPATIBLE),
        (dict[str, int], Mapping[str, int], COMPATIBLE),
        (tuple[int, int], list[int], WIDER),
        (tuple[int, int], tuple[int, int, int], OTHER),
        (Row, Longer, COMPATIBLE),
        (Row, Other, OTHER),
        (dict[str, int], data(x=int), NARROWER),
        (dict[str, int], make_dataclass("Data", [("x", str, "")]), OTHER),
        (dict[str, int], dict[Literal["a"], int], NARROWER),
        (dict[str, dict[str, int]], dict[str, dict[str, str]], OTHER),
        # Values.
        (Any, int, NARROWER),
        (int, float, WIDER),
        (str, bytes, OTHER),
        (date, datetime, OTHER),
        (bool, int, OTHER),
    ],
)
def test_a_change_of_a_type_breaks_those_who_pass_it_or_read_it(
    old: Any, new: Any, breaks: tuple[bool, bool]
) -> None:
    passed, read = broken(old, new)
    assert (bool(passed), bool(read)) == breaks, (passed, read)
    assert broken(old, old) == broken(new, new) == ([], [])


class OldNode(Struct):
    value: int
    next: OldNode | None = None
    parts: list[OldNode] = []


class NewNode(Struct):
    value: str
    next: NewNode | None = None
    parts: list[NewNode] = []


class OldLeft(Struct):
    right: OldRight | None


class OldRight(Struct):
    left: OldLeft | None
    pages: int


class NewLeft(Struct):
    right: NewRight | None


class NewRight(Struct):
    left: NewLeft | None
    pages: str


@dataclass
class OldTree:
    value: int
    leaf: OldTree | None = field(default_factory=lambda: OldTree(1, None))


def test_classes_that_contain_each_other_are_compared_once() -> None:
    passed, read = broken(OldNode, NewNode)
    assert passed == ["FIELD_SAME_TYPE shop.sell(a).value: was integer, is string; hurts callers"]
    assert len(read) == 1
    passed, read = broken(OldLeft, NewLeft)
    assert (len(passed), len(read)) == (1, 1)
    assert broken(OldTree, OldTree) == ([], [])

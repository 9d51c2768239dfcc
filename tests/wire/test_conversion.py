"""Converters: a value of an exact type may skip the conversion, because it would not change."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, strategies as st

from aiorpc.wire.conversion import Converter, Unfit, converter_of


class Colour(Enum):
    RED = "red"


@dataclass
class Item:
    name: str


@dataclass
class Inner:
    a: int
    b: int = 2


@dataclass
class Outer:
    inner: list[Inner]
    label: str = "none"
    tags: list[str] = field(default_factory=list)


class Row(msgspec.Struct):
    name: str


ANNOTATIONS = [
    *(str, int, float, bool, bytes, None, list, dict, datetime, date, time, Decimal, UUID),
    *(Colour, Item, Row, Optional[int], int | str, Item | None),  # noqa: UP045
    *(list[int], dict[str, int], tuple[int, ...], set[str], Literal["a", 1]),
    *(Annotated[int, msgspec.Meta(ge=1)], Annotated[str, msgspec.Meta(description="a name")]),
]
VALUES = (
    st.none()
    | st.text(max_size=3)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.binary(max_size=3)
    | st.lists(st.integers() | st.text(max_size=2), max_size=3)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.sampled_from([Colour.RED, Item("x"), Row("x")])
)


def converter(annotation: Any, *, strict: bool) -> Converter:
    made = converter_of("value", annotation, strict=strict)
    assert made is not None
    return made


@given(st.sampled_from(ANNOTATIONS), VALUES, st.booleans())
def test_a_value_of_an_exact_type_is_converted_to_itself(
    annotation: Any, value: Any, strict: bool
) -> None:
    made = converter(annotation, strict=strict)
    if type(value) in made.exact:
        converted = made.convert(value)
        assert (type(converted), converted) == (type(value), value)


@pytest.mark.parametrize(
    "annotation", [list[int], dict[str, int], Annotated[int, msgspec.Meta(ge=1)], Literal["a", 1]]
)
def test_an_annotation_that_limits_its_values_has_no_exact_types(annotation: Any) -> None:
    made = converter(annotation, strict=True)
    assert not made.exact
    with pytest.raises(Unfit):
        made.convert(0)


def test_bytes_are_base64_only_where_json_has_no_bytes() -> None:
    made = converter_of("value", list[bytes], strict=True, base64=True)
    assert made is not None
    assert made.convert(["eA==", b"y"]) == [b"x", b"y"]
    with pytest.raises(Unfit, match="bytes"):
        converter(list[bytes], strict=True).convert(["eA=="])


def test_a_converted_dataclass_has_its_defaults_itself_and_in_order() -> None:
    converter = converter_of("x", dict[str, Outer], strict=True)
    assert converter is not None
    outer = converter.convert({"k": {"inner": [{"a": 1}]}})["k"]
    assert list(vars(outer)) == ["inner", "label", "tags"]
    assert vars(outer.inner[0]) == {"a": 1, "b": 2}
    assert msgspec.json.encode(outer) == b'{"inner":[{"a":1,"b":2}],"label":"none","tags":[]}'

"""JSON Schemas of annotations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest

from aiorpc.wire.schemas import Schemas

MOMENT = {"type": "string", "format": "date-time"}


@dataclass
class Visit:
    at: datetime
    until: datetime | None
    by_room: dict[str, tuple[datetime, str]]
    previous: Visit | None = None


class Slot(NamedTuple):
    begins: time


class Row(msgspec.Struct, array_like=True, tag=True):
    at: datetime


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (datetime, MOMENT),
        (datetime | None, {"anyOf": [MOMENT, {"type": "null"}]}),
        (Annotated[datetime, msgspec.Meta(tz=True)], MOMENT),
        (list[time], {"type": "array", "items": {"type": "string", "format": "time"}}),
        (list[datetime] | None, {"anyOf": [{"type": "array", "items": MOMENT}, {"type": "null"}]}),
        (str, {"type": "string"}),
        (Any, {}),
    ],
)
def test_dates_and_times_have_their_format(kind: Any, schema: dict[str, Any]) -> None:
    assert Schemas([kind]).of(kind) == schema


def test_dates_in_classes_have_their_format() -> None:
    components = Schemas([Visit, Slot, Row]).components
    visit = components["Visit"]["properties"]
    assert visit["at"] == MOMENT
    assert visit["until"]["anyOf"][0] == MOMENT
    pair = visit["by_room"]["additionalProperties"]["prefixItems"]
    assert pair == [MOMENT, {"type": "string"}]
    assert components["Slot"]["prefixItems"] == [{"type": "string", "format": "time"}]
    assert components["Row"]["prefixItems"][1] == MOMENT


def test_a_type_that_nobody_can_describe_has_an_empty_schema() -> None:
    strange = list[int] | dict[str, int] | Visit
    assert Schemas([strange]).of(strange) == {}

"""JSON: the forms of kombu are written and read, and every other value is explained."""

from __future__ import annotations

import json as stdlib
import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given, strategies as st

from aiorpc.exceptions import MalformedRequest, UnserializableValueError
from aiorpc.wire.json import decode, encode, encode_plain
from aiorpc.wire.objects import MAX_DEPTH
from tests.support.files import DATA

GOLDEN = stdlib.loads((DATA / "golden_json.json").read_text())["values"]
VALUES: dict[str, Any] = {
    "datetime": datetime(2020, 1, 2, 3, 4, 5),
    "datetime_utc": datetime(2020, 1, 2, tzinfo=UTC),
    "date": date(2020, 1, 2),
    "time": time(1, 2, 3),
    "decimal": Decimal("1.10"),
    "uuid": UUID(int=5),
    "uuid4": UUID("6a5724f7197f4a42b4a863aa38b69150"),
    "bytes": b"abc",
    "bad_bytes": b"\xff",
}

# The supported domain

# Lone surrogates included: kombu carries them as escapes.
texts = st.text(st.characters(exclude_categories=()))
plain_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.text()
)
typed_leaves = (
    st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(minutes=-90))))
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary()
)


def is_no_envelope(value: dict[str, Any]) -> bool:
    return value.keys() != {"__type__", "__value__"}


def values_of(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(texts, inner)
            | st.dictionaries(st.sampled_from(["__type__", "__value__", "x"]), inner).filter(
                is_no_envelope
            )
        ),
        max_leaves=20,
    )


plain_values = values_of(plain_leaves)
all_values = values_of(plain_leaves | typed_leaves)


@given(all_values)
def test_a_value_decodes_to_itself(value):
    assert decode(encode(value)) == value


@given(all_values)
def test_the_standard_library_reads_our_json(value):
    stdlib.loads(encode(value))


@given(plain_values)
def test_plain_data_is_written_and_read_as_the_standard_library_does(value):
    assert repr(stdlib.loads(encode(value))) == repr(value)
    assert repr(decode(stdlib.dumps(value).encode())) == repr(value)
    assert encode_plain(value) == encode(value)


@given(all_values)
def test_msgspec_and_the_standard_library_write_the_same(value):
    # A Decimal sends the whole value the long way.
    assert stdlib.loads(encode([value, Decimal(1)]))[0] == stdlib.loads(encode(value))


@given(plain_values.map(encode))
def test_msgspec_and_the_standard_library_read_the_same(data):
    # An escaped letter sends the whole text the long way.
    assert repr(decode(b'[%s, "\\u0061"]' % data)[0]) == repr(decode(data))


@given(st.binary() | st.text().map(str.encode) | plain_values.map(stdlib.dumps).map(str.encode))
def test_text_is_refused_if_the_standard_library_refuses_it(data):
    try:
        expected = stdlib.loads(data.decode("utf-8"))
    except ValueError:
        with pytest.raises(MalformedRequest):
            decode(data)
    else:
        assert repr(decode(data)) == repr(expected)  # tells 1 from 1.0 and knows NaN


# kombu's forms


@pytest.mark.parametrize("name", VALUES)
def test_values_are_written_as_kombu_5_3_and_later_do(name):
    assert stdlib.loads(encode(VALUES[name])) == GOLDEN[name]["kombu >= 5.3"]


@pytest.mark.parametrize("name", VALUES)
def test_the_envelopes_of_every_kombu_are_read(name):
    for version, form in GOLDEN[name].items():
        if version != "kombu < 5.3":
            decoded = decode(stdlib.dumps({"args": [form]}).encode())["args"][0]
            assert decoded == VALUES[name]
            assert type(decoded) is type(VALUES[name])


@pytest.mark.parametrize("name", [name for name in VALUES if "kombu < 5.3" in GOLDEN[name]])
def test_plain_values_are_written_as_kombu_before_5_3_does(name):
    form = GOLDEN[name]["kombu < 5.3"]
    assert stdlib.loads(encode_plain({"x": VALUES[name]})) == {"x": form}
    assert decode(stdlib.dumps(form).encode()) == form


def test_the_plain_form_refuses_bytes():
    with pytest.raises(UnserializableValueError, match=r"args\[0\] \(bytes\).*base64"):
        encode_plain({"args": [b"abc"]})


def test_an_envelope_may_contain_a_datetime_of_an_old_kombu():
    data = b'[{"__type__": "datetime", "__value__": "2020-01-02T00:00:00Z"}]'
    assert decode(data) == [datetime(2020, 1, 2, tzinfo=UTC)]
    data = b'[{"__type__": "date", "__value__": "2020-01-02T00:00:00"}]'
    assert decode(data) == [date(2020, 1, 2)]


@pytest.mark.parametrize("key", ['"\\u005f_type__"', '"__\\u0074ype__"', '"__typ\\u0065_\\u005F"'])
def test_an_envelope_with_an_escaped_key_is_opened(key):
    assert decode(b'{%s: "bytes", "__value__": "x"}' % key.encode()) == b"x"


def test_only_an_object_with_exactly_two_keys_is_an_envelope():
    value = {"__type__": "datetime", "__value__": "2020-01-02T00:00:00", "more": 1}
    assert decode(encode(value)) == value
    assert decode(b'{"__type__": "datetime"}') == {"__type__": "datetime"}


@pytest.mark.parametrize(
    "literal", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 4000, b'"\\ud800"']
)
def test_literals_that_strict_json_lacks_are_read_as_the_standard_library_does(literal):
    expected = stdlib.loads(literal)
    assert decode(literal) == expected or math.isnan(expected)
    assert type(decode(literal)) is type(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, b"[NaN]"),
        (math.inf, b"[Infinity]"),
        (-math.inf, b"[-Infinity]"),
        ("\ud800", b'["\\ud800"]'),
        (2**64, b"[18446744073709551616]"),
        (-(2**70), b"[-1180591620717411303424]"),
        (10**4000, b"[1" + b"0" * 4000 + b"]"),
    ],
)
def test_values_that_strict_json_lacks_are_written_as_kombu_does(value, text):
    assert encode([value]) == text
    assert encode([value, Decimal(1)]).startswith(text[:-1])


def test_the_last_of_duplicate_keys_wins():
    assert decode(b'{"a": 1, "a": 2}') == {"a": 2}


def test_keys_become_strings_as_with_the_standard_library():
    value = {7: "int", 2.5: "float", True: "bool", None: "none", 2**70: "big"}
    assert stdlib.loads(encode(value)) == stdlib.loads(stdlib.dumps(value))


# What else is encoded


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


class Flavour(str, Enum):  # noqa: UP042 - what people wrote before StrEnum
    SWEET = "sweet"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Item:
    sku: UUID
    price: Decimal


@dataclass
class Order:
    id: int
    items: list[Item] = field(default_factory=list)
    colour: Colour = Colour.RED


class Tagged(msgspec.Struct, tag="tagged", rename="camel"):
    first_name: str
    born: date
    note: str | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct, array_like=True):
    a: int
    b: Decimal


class Custom:
    def __json__(self) -> Any:
        return {"made": date(2020, 1, 2)}


class Moment(datetime):
    """As pandas does it."""


class Name(str):
    pass


DAY = {"__type__": "date", "__value__": "2020-01-02"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        (Flavour.SWEET, "sweet"),
        ({Word.YES: 1, Level.HIGH: 2}, {"yes": 1, "3": 2}),
        (Point(1, 2), [1, 2]),
        ((1, (2,)), [1, [2]]),
        (OrderedDict(a=1), {"a": 1}),
        (Name("n"), "n"),
        (Tagged("Ann", date(2020, 1, 2)), {"type": "tagged", "firstName": "Ann", "born": DAY}),
        (Row(1, Decimal(2)), [1, {"__type__": "decimal", "__value__": "2"}]),
        (Custom(), {"made": DAY}),
        (Moment(2020, 1, 2), {"__type__": "datetime", "__value__": "2020-01-02T00:00:00"}),
        (timedelta(days=1, milliseconds=500), 86400.5),
        (bytearray(b"ab"), {"__type__": "bytes", "__value__": "ab"}),
        (memoryview(b"ab"), {"__type__": "bytes", "__value__": "ab"}),
        (
            Order(1, [Item(UUID(int=5), Decimal("1.10"))]),
            {
                "id": 1,
                "items": [
                    {
                        "sku": {"__type__": "uuid", "__value__": {"hex": "0" * 31 + "5"}},
                        "price": {"__type__": "decimal", "__value__": "1.10"},
                    }
                ],
                "colour": "red",
            },
        ),
    ],
)
def test_objects_are_sent_as_their_fields_or_value(value, expected):
    assert stdlib.loads(encode({"result": value})) == {"result": expected}


def test_pydantic_models_are_sent_by_alias():
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        size: int = pydantic.Field(alias="Size")
        born: date

    model = Model(Size=3, born=date(2020, 1, 2))
    assert Model.model_validate(decode(encode(model))) == model
    assert stdlib.loads(encode(model)) == {"Size": 3, "born": DAY}


# What is not


class Opaque:
    pass


class Mapped:
    __mapper__ = "an ORM's"


@dataclass
class MappedToo:
    id: int = 1
    __mapper__ = "an ORM's"

    @property
    def lazy(self) -> Any:
        raise AssertionError("reading it queries the database")


@dataclass
class Basket:
    tags: Any


class Failing:
    def __json__(self) -> Any:
        raise LookupError("no such row")


async def coroutine() -> None: ...


KeyPair = namedtuple("KeyPair", "x y")


@pytest.mark.parametrize(
    ("value", "place", "remedy"),
    [
        ({"args": [{1, 2}]}, "args[0] (set)", "list"),
        ({"args": [1, Basket({"a"})]}, "args[1].tags (set)", "list"),
        ({"result": [{"x": frozenset()}]}, "result[0].x (frozenset)", "list"),
        ({"kwargs": {"odd key": Opaque()}}, "kwargs['odd key'] (Opaque)", "__json__"),
        ({"result": Mapped()}, "result (Mapped)", "@returns("),
        ({"result": [MappedToo()]}, "result[0] (MappedToo)", "@returns("),
        ({"result": (n for n in "ab")}, "result (generator)", "list"),
        ({"result": range(3)}, "result (range)", "list"),
        ({"result": Opaque}, "result (type)", "class"),
        ({"result": Custom}, "result (type)", "class"),
        ({"result": Order}, "result (type)", "class"),
        ({"result": {(1, 2): 3}}, "result (dict)", "a key is a tuple"),
        ({"result": {KeyPair(1, 2): 3}}, "result (dict)", "a key is a KeyPair"),
        ({"result": {UUID(int=1): 3}}, "result (dict)", "a key is a UUID"),
        ({"result": Failing()}, "result (Failing)", "no such row"),
        (Opaque(), "the value (Opaque)", "dataclass"),
    ],
)
def test_a_refusal_names_the_place_the_type_and_the_remedy(value, place, remedy):
    with pytest.raises(UnserializableValueError) as caught:
        encode(value)
    assert place in str(caught.value)
    assert remedy in str(caught.value)


def test_the_error_for_a_coroutine_names_the_forgotten_await():
    pending = coroutine()
    with pytest.raises(UnserializableValueError, match=r"result \(coroutine\).*await"):
        encode({"result": pending})
    pending.close()


def test_an_int_beyond_pythons_own_limit_is_refused():
    with pytest.raises(UnserializableValueError, match="4300"):
        encode({"result": 10**5000})
    with pytest.raises(MalformedRequest, match="4300"):
        decode(b"1" * 5000)


def test_a_value_that_contains_itself_is_refused():
    cycle: dict[str, Any] = {"children": []}
    cycle["children"].append(cycle)
    with pytest.raises(UnserializableValueError, match=r"result.children\[0\].*contains itself"):
        encode({"result": cycle})
    basket = Basket([])
    basket.tags.append(basket)
    with pytest.raises(UnserializableValueError, match=r"tags\[0\].*contains itself"):
        encode(basket)


def nested(depth: int, innermost: Any) -> Any:
    value = innermost
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("leaf", [1, math.nan, date(2020, 1, 2)])
@pytest.mark.parametrize("depth", [MAX_DEPTH * 2, 100_000])
def test_a_value_nested_too_deep_is_not_written(depth, leaf):
    with pytest.raises(UnserializableValueError, match="nested deeper than 200"):
        encode(nested(depth, leaf))


@pytest.mark.parametrize("leaf", [b"1", b"NaN", b'{"__type__": "bytes", "__value__": ""}'])
@pytest.mark.parametrize("depth", [MAX_DEPTH * 2, 100_000])
def test_a_text_nested_too_deep_is_not_read(depth, leaf):
    with pytest.raises(MalformedRequest, match="nested deeper than 200"):
        decode(b"[" * depth + leaf + b"]" * depth)
    with pytest.raises(MalformedRequest, match="nested deeper than 200"):
        decode(b'{"a":' * depth + leaf + b"}" * depth)


@pytest.mark.parametrize("leaf", [1, 1.5, math.inf, {}, {"a": 1}, [1, 2], date(2020, 1, 2)])
def test_the_limit_of_nesting_is_the_same_for_writing_and_reading(leaf):
    levels = 0 if isinstance(leaf, int | float) else 1
    deepest = nested(MAX_DEPTH - levels, leaf)
    assert decode(encode(deepest)) == deepest
    with pytest.raises(UnserializableValueError, match="nested deeper than 200"):
        encode([deepest])
    with pytest.raises(MalformedRequest, match="nested deeper than 200"):
        decode(b"[%s]" % encode(deepest))


@pytest.mark.parametrize("noise", ["[" * 1000, "{[" * 500, ']\\"[', '\\\\"[', "]" * 999])
def test_brackets_in_strings_do_not_count_as_nesting(noise):
    value = [{"text": noise, "more": [noise]} for _ in range(MAX_DEPTH)]
    assert decode(encode(value)) == value
    assert decode(encode([value, Decimal(1)])) == [value, Decimal(1)]


# Bad input


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "Expecting value"),
        (b"{", "line 1 column 2"),
        (b"1 2", "Extra data"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"\xef\xbb\xbf1", "Expecting value"),
        (b'{"__type__": "bogus", "__value__": 1}', "unknown __type__ 'bogus': known are base64"),
        (b'{"__type__": ["x"], "__value__": 1}', "unknown __type__"),
        (b'{"__type__": "decimal", "__value__": "x"}', "__value__ of a decimal"),
        (b'{"__type__": "datetime", "__value__": 5}', "__value__ of a datetime .*int"),
        (b'{"__type__": "date", "__value__": null}', "__value__ of a date"),
        (b'{"__type__": "uuid", "__value__": {"int": 5}}', "__value__ of a uuid"),
        (b'{"__type__": "uuid", "__value__": "5"}', "__value__ of a uuid"),
        (b'{"__type__": "base64", "__value__": "x"}', "__value__ of a base64"),
        (b'{"__type__": "bytes", "__value__": 1}', "__value__ of a bytes"),
    ],
)
def test_the_error_for_bad_json_explains_it(data, text):
    with pytest.raises(MalformedRequest, match=text):
        decode(data)


def test_errors_do_not_show_values():
    with pytest.raises(MalformedRequest) as caught:
        decode(b'{"__type__": "decimal", "__value__": "hunter2"}')
    assert "hunter2" not in str(caught.value)
    with pytest.raises(UnserializableValueError) as refused:
        encode({"args": [{"hunter2"}]})
    assert "hunter2" not in str(refused.value)


def test_a_uuid_with_its_version_is_read():
    for value in (uuid4(), UUID(int=5)):
        data = {"__type__": "uuid", "__value__": {"hex": value.hex, "version": value.version}}
        assert decode(stdlib.dumps(data).encode()) == value

"""Arguments are checked against signatures, and converted as annotations say; results too."""

import functools
import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import msgspec
import pytest

from aiorpc.exceptions import BadArguments, IncorrectSignature, MalformedReply
from aiorpc.wire.arguments import Arguments, result_converter

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Item:
    name: str
    price: float = 0.0
    day: date | None = None


@dataclass
class Order:
    id: int
    items: list[Item] = field(default_factory=list)
    colour: Colour = Colour.RED


@dataclass
class Page(Generic[T]):
    items: list[T]
    next: "Page[T] | None" = None


class Point(NamedTuple):
    x: int
    day: date | None = None


class Options(TypedDict):
    limit: int
    since: NotRequired[date]


class Tagged(msgspec.Struct, rename="camel", tag="tagged"):
    born_on: date


@dataclass
class Tree:
    day: date
    children: list["Tree"] = field(default_factory=list)


UserId = NewType("UserId", int)


def bind(function: Callable[..., Any], *args: Any, mode: Any = "strict", **kwargs: Any) -> Any:
    """What arrives: the positional arguments, and after them the keyword arguments if any."""
    arguments = Arguments(function, skip_self=False, mode=mode, name="service_x.method")
    bound_args, bound_kwargs = arguments.bind(list(args), kwargs)
    assert type(bound_args) is tuple
    return (*bound_args, bound_kwargs) if bound_kwargs else bound_args


def taking(annotation: Any) -> Callable[..., Any]:
    def method(value: Any) -> None: ...

    method.__annotations__["value"] = annotation
    return method


# Signatures


class Service:
    def none(self): ...
    def one(self, a): ...
    def two(self, a, b): ...
    def default(self, a, b=None): ...
    def rest(self, *args): ...
    def one_and_rest(self, a, *args): ...
    def keywords(self, **kwargs): ...
    def one_and_keywords(self, a, **kwargs): ...
    def everything(self, a, b=1, *args, c, d=2, **kwargs): ...
    def keyword_only(self, *, a, b=1): ...
    def positional_only(self, a, /, b, *, c=1): ...
    def positional_only_and_keywords(self, a, /, **kwargs): ...
    def self_positional_only(self, /, **kwargs): ...
    def only_rest(*args): ...


METHODS = [name for name in vars(Service) if not name.startswith("_")]


@pytest.mark.parametrize("name", METHODS)
def test_arguments_are_accepted_and_refused_as_python_does(name):
    method = getattr(Service, name)
    arguments = Arguments(method, name=f"service_x.{name}")
    names = ("a", "b", "c", "x", "self")
    for count in range(4):
        for given in itertools.chain.from_iterable(
            itertools.combinations(names, n) for n in range(4)
        ):
            args, kwargs = [0] * count, dict.fromkeys(given, 0)
            try:
                method(Service(), *args, **kwargs)
            except TypeError as exc:
                with pytest.raises(IncorrectSignature) as caught:
                    arguments.bind(args, kwargs)
                expected = str(exc).replace(f"Service.{name}()", f"{name}()")
                assert str(caught.value) == expected
                assert type(caught.value) is IncorrectSignature
            else:
                assert arguments.bind(args, kwargs) == (tuple(args), kwargs)


def test_the_text_for_wrong_arguments_is_namekos():
    arguments = Arguments(Service.one)
    with pytest.raises(IncorrectSignature, match=r"one\(\) missing 1 required .*: 'a'"):
        arguments.bind([], {})


def test_keywords_that_are_not_strings_are_refused():
    with pytest.raises(IncorrectSignature, match="keywords must be strings"):
        Arguments(Service.keywords).bind([], {1: 2})


def test_a_class_method_keeps_its_first_argument():
    class Sample:
        @classmethod
        def method(cls, value: str) -> None: ...

    arguments = Arguments(Sample.method)
    assert arguments.bind(["x"], {}) == (("x",), {})
    with pytest.raises(IncorrectSignature):
        arguments.bind([], {})
    with pytest.raises(BadArguments):
        arguments.bind([5], {})


def test_the_signature_is_that_of_the_decorated_method():
    def traced(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @traced
    def method(self: Any, value: int) -> None: ...

    arguments = Arguments(method)
    with pytest.raises(IncorrectSignature, match="unexpected keyword argument 'valu'"):
        arguments.bind([], {"valu": 1})
    with pytest.raises(BadArguments, match="'value' must be int, got str"):
        arguments.bind(["1"], {})


def test_mode_off_checks_the_outermost_signature_and_no_types():
    def injecting(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(self: Any, *args: Any) -> Any:
            return function(self, "session", *args)

        return wrapper

    @injecting
    def method(self: Any, session: str, value: int) -> None: ...

    arguments = Arguments(method, mode="off")
    assert arguments.bind(["not an int"], {}) == (("not an int",), {})
    with pytest.raises(IncorrectSignature):
        arguments.bind([], {"value": 1})


# Conversion


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (str, "x", "x"),
        (int, 5, 5),
        (int, 2**70, 2**70),
        (float, 5, 5.0),
        (float, 5.5, 5.5),
        (bool, True, True),
        (bytes, b"x", b"x"),
        (None, None, None),
        (Any, {1, 2}, {1, 2}),
        (object, {1, 2}, {1, 2}),
        (list, [1, "x"], [1, "x"]),
        (dict, {"x": object}, {"x": object}),
        (dict[str, object], {"x": 1}, {"x": 1}),
        (dict[int, str], {"1": "x"}, {1: "x"}),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (tuple, [1, 2], (1, 2)),
        (tuple[int, str], [1, "x"], (1, "x")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (set[int], [1, 1], {1}),
        (frozenset[str], ["a"], frozenset("a")),
        (Sequence[int], [1], [1]),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (int | None, None, None),
        (Optional[int], 5, 5),  # noqa: UP045
        (int | str, "x", "x"),
        (Literal["a", "b"], "a", "a"),
        (UserId, 5, 5),
        (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
        (Annotated[int, msgspec.Meta(description="a number")], 1, 1),
        (Colour, "blue", Colour.BLUE),
        (Level, 3, Level.HIGH),
        (Item, {"name": "x", "price": 1}, Item("x", 1.0)),
        (Order, {"id": 1, "items": [{"name": "x"}]}, Order(1, [Item("x")])),
        (Page[int], {"items": [1], "next": {"items": [2]}}, Page([1], Page([2]))),
        (dict[str, Item], {"a": {"name": "x"}}, {"a": Item("x")}),
        (Point, [1], Point(1)),
        (Options, {"limit": 1}, {"limit": 1}),
        (Tagged, {"type": "tagged", "bornOn": date(2020, 1, 2)}, Tagged(date(2020, 1, 2))),
        # as JSON of kombu >= 5.3 brings them
        (datetime, datetime(2020, 1, 2, 3), datetime(2020, 1, 2, 3)),
        (date, date(2020, 1, 2), date(2020, 1, 2)),
        (time, time(1, 2), time(1, 2)),
        (Decimal, Decimal("1.10"), Decimal("1.10")),
        (UUID, UUID(int=5), UUID(int=5)),
        (Item, {"name": "x", "day": date(2020, 1, 2)}, Item("x", 0.0, date(2020, 1, 2))),
        # as JSON of kombu < 5.3 brings them
        (datetime, "2020-01-02T03:04:05", datetime(2020, 1, 2, 3, 4, 5)),
        (datetime, "2020-01-02T00:00:00Z", datetime(2020, 1, 2, tzinfo=UTC)),
        (datetime, "2020-01-02T00:00:00.000001", datetime(2020, 1, 2, microsecond=1)),
        (date, "2020-01-02T00:00:00", date(2020, 1, 2)),
        (date, "2020-01-02", date(2020, 1, 2)),
        (date | None, "2020-01-02T00:00:00", date(2020, 1, 2)),
        (timedelta | None, 90000.5, timedelta(days=1, seconds=3600.5)),
        (list[timedelta], [60], [timedelta(minutes=1)]),
        (time, "01:02:03", time(1, 2, 3)),
        (Decimal, "1.10", Decimal("1.10")),
        (UUID, "00000000-0000-0000-0000-000000000005", UUID(int=5)),
        (Point, [1, "2020-01-02T00:00:00"], Point(1, date(2020, 1, 2))),
        (
            Options,
            {"limit": 1, "since": "2020-01-02T00:00:00"},
            {"limit": 1, "since": date(2020, 1, 2)},
        ),
        (Tagged, {"type": "tagged", "bornOn": "2020-01-02T00:00:00"}, Tagged(date(2020, 1, 2))),
        (
            dict[date, list[date]],
            {"2020-01-02T00:00:00": ["2020-01-03T00:00:00"]},
            {date(2020, 1, 2): [date(2020, 1, 3)]},
        ),
        (
            tuple[str, date],
            ["2020-01-02T00:00:00", "2020-01-02T00:00:00"],
            ("2020-01-02T00:00:00", date(2020, 1, 2)),
        ),
        (
            Tree,
            {"day": "2020-01-02T00:00:00", "children": [{"day": "2020-01-03T00:00:00"}]},
            Tree(date(2020, 1, 2), [Tree(date(2020, 1, 3))]),
        ),
        (
            Item,
            {"name": "2020-01-02T00:00:00", "day": "2020-01-02T00:00:00"},
            Item("2020-01-02T00:00:00", 0.0, date(2020, 1, 2)),
        ),
        # as a call within the process brings them
        (Order, Order(1), Order(1)),
        (list[Item], [Item("x")], [Item("x")]),
        (Colour, Colour.RED, Colour.RED),
    ],
)
@pytest.mark.parametrize("mode", ["strict", "lax"])
def test_values_are_converted_as_their_annotation_says(annotation, value, expected, mode):
    (converted,) = bind(taking(annotation), value, mode=mode)
    assert converted == expected
    assert type(converted) is type(expected)
    assert bind(taking(annotation), value=value, mode=mode) == ({"value": converted},)


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (str, 5, "must be str, got int"),
        (str, None, "must be str, got NoneType"),
        (str, b"x", "must be str, got bytes"),
        (int, "5", "must be int, got str"),
        (int, True, "must be int, got bool"),
        (int, 5.5, "must be int, got float"),
        (float, True, "must be float, got bool"),
        (bool, 1, "must be bool, got int"),
        (bytes, "eA==", "must be bytes, got str"),
        (int | None, "x", "must be int | None, got str"),
        (date, datetime(2020, 1, 2), "must be date, got datetime"),
        (date, "2020-01-02T00:00:01", "must be date, got str: invalid RFC3339 encoded date"),
        (UUID, "x", "must be UUID, got str: invalid UUID"),
        (Page[int], {"items": ["hunter2"]}, "must be Page[int]: items[0] must be int, got str"),
        (Order, [], "must be Order, got list"),
        (Order, {}, "must be Order, got dict: object missing required field 'id'"),
        (Order, {"id": "1"}, "must be Order: id must be int, got str"),
        (
            Order,
            {"id": 1, "items": [{"name": "x"}, {"name": "x", "price": "1"}]},
            "must be Order: items[1].price must be float, got str",
        ),
        (Order, {"id": 1, "items": {}}, "must be Order: items must be list, got dict"),
        (Order, {"id": 1, "items": [None]}, "must be Order: items[0] must be dict, got None"),
        (
            Order,
            {"id": 1, "items": [{}]},
            "must be Order: items[0]: object missing required field 'name'",
        ),
        (Order, {"id": 1, "colour": "hunter2"}, "must be Order: colour: invalid enum value"),
        (dict[str, int], {"a": "b"}, "must be dict[str, int]: [...] must be int, got str"),
        (dict[int, str], {"a": "b"}, "must be dict[int, str]: a key of it must be int, got str"),
        (list[Order], [{}], "must be list[Order]: [0]: object missing required field 'id'"),
        (tuple[int, str], [1], "must be list of length 2, got 1"),
        (Annotated[int, msgspec.Meta(ge=5)], 3, "must be int >= 5, got int"),
        (Colour, "hunter2", "must be one of 'red', 'blue', got another str"),
        (Colour, 5, "must be Colour, got int"),
        (Level, 4, "must be one of 3, got another int"),
        (Literal["a", "b"], "hunter2", "must be one of 'a', 'b', got another str"),
    ],
)
def test_an_error_names_the_argument_and_does_not_show_its_value(annotation, value, text):
    for args, kwargs in (([value], {}), ([], {"value": value})):
        with pytest.raises(BadArguments) as caught:
            bind(taking(annotation), *args, **kwargs)
        assert str(caught.value) == f"service_x.method: argument 'value' {text}"
        assert isinstance(caught.value, ValueError)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [(int, "5", 5), (bool, 1, True), (float, "1.5", 1.5), (list[int], ["1"], [1])],
)
def test_lax_converts_values_that_strict_refuses(annotation, value, expected):
    assert bind(taking(annotation), value, mode="lax") == (expected,)
    with pytest.raises(BadArguments):
        bind(taking(annotation), value, mode="strict")
    assert bind(taking(annotation), value, mode="off") == (value,)


def test_lax_refuses_a_text_that_is_not_a_number():
    with pytest.raises(BadArguments, match="must be int, got str"):
        bind(taking(int), "x", mode="lax")


def test_every_kind_of_parameter_is_converted():
    def method(a: Item, /, b: Item, *rest: Item, c: Item, **more: Item) -> None: ...

    one, whole = {"name": "x"}, Item("x")
    assert bind(method, one, one, one, one, c=one, d=one) == (
        *[whole] * 4,
        {"c": whole, "d": whole},
    )
    for args, kwargs, name in [
        ([5, one], {"c": one}, "'a'"),
        ([one], {"b": 5, "c": one}, "'b'"),
        ([one, one, one, 5], {"c": one}, "'*rest[1]'"),
        ([one, one], {"c": 5}, "'c'"),
        ([one, one], {"c": one, "d": 5}, "'d'"),
    ]:
        with pytest.raises(BadArguments) as caught:
            bind(method, *args, **kwargs)
        assert f"argument {name} must be Item, got int" in str(caught.value)


def test_the_given_arguments_are_not_changed():
    def method(a: Item, b: Item) -> None: ...

    args, kwargs = [{"name": "x"}], {"b": {"name": "x"}}
    Arguments(method, skip_self=False).bind(args, kwargs)
    assert (args, kwargs) == ([{"name": "x"}], {"b": {"name": "x"}})


def test_defaults_are_left_to_the_call():
    def method(a: int = "wrong", *, b: str = 5) -> None: ...

    assert bind(method) == ()
    assert bind(method, 1) == (1,)


def test_a_default_of_none_allows_none():
    def method(a: str = None) -> None: ...  # noqa: RUF013

    assert bind(method, None) == (None,)
    with pytest.raises(BadArguments, match="got int"):
        bind(method, 5)


def test_parameters_without_annotation_pass_unchecked():
    def method(a, b: int, c): ...

    value = object()
    assert bind(method, value, 1, value) == (value, 1, value)
    with pytest.raises(BadArguments, match="'b'"):
        bind(method, value, "1", value)


def test_a_value_nested_too_deep_is_a_bad_argument():
    deep: Any = {"day": date(2020, 1, 2)}
    for _ in range(100_000):
        deep = {"day": date(2020, 1, 2), "children": [deep]}
    with pytest.raises(BadArguments, match="'value' is nested too deep"):
        bind(taking(Tree), deep)


def test_errors_of_a_constructor_are_bad_arguments():
    @dataclass
    class Range:
        low: int
        high: int

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    with pytest.raises(BadArguments, match="'value' must be Range, got dict: low is above high"):
        bind(taking(Range), {"low": 2, "high": 1})


# pydantic, by duck


pydantic = pytest.importorskip("pydantic")


class Model(pydantic.BaseModel):
    size: int = pydantic.Field(alias="Size")
    day: date | None = None


def test_objects_become_pydantic_models():
    model = Model(Size=3, day=date(2020, 1, 2))
    for form in ({"Size": 3, "day": "2020-01-02T00:00:00"}, {"Size": 3, "day": date(2020, 1, 2)}):
        assert bind(taking(Model), form) == (model,)
        assert bind(taking(list[Model]), [form]) == ([model],)
        assert bind(taking(Model | None), form) == (model,)
    assert bind(taking(Model), model) == (model,)
    assert bind(taking(list[Model]), [model]) == ([model],)


def test_an_error_of_a_pydantic_model_does_not_show_values():
    with pytest.raises(BadArguments) as caught:
        bind(taking(list[Model]), [{"Size": "hunter2"}])
    text = str(caught.value)
    assert text.startswith("service_x.method: argument 'value' must be list[Model]: [0]: Size: ")
    assert "valid integer" in text
    assert "hunter2" not in text


# What cannot be checked


class Opaque:
    pass


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ("Missing", "'Missing' cannot be resolved"),
        ("Missing | None", "cannot be resolved"),
        ("list[Missing]", "cannot be resolved"),
        ("not python", "cannot be resolved"),
        (Opaque, "Opaque is neither a dataclass"),
        (list[Opaque], "list[Opaque] is unsupported: Opaque is neither"),
        (Callable[[], int], "is unsupported"),
        (Iterable[int], "is unsupported"),
        (str | date, "is unsupported"),
        (Item | Order, "is unsupported"),
    ],
)
def test_an_annotation_that_cannot_be_checked_gives_one_warning(annotation, reason, caplog):
    def method(before: int, value: Any, after: int) -> None: ...

    method.__annotations__["value"] = annotation
    with caplog.at_level(logging.WARNING, "aiorpc"):
        arguments = Arguments(method, skip_self=False, name="service_x.method")
        value = object()
        assert arguments.bind([1, value, 2], {}) == ((1, value, 2), {})
        for wrong in ([1, value, "2"], ["1", value, 2]):
            with pytest.raises(BadArguments):
                arguments.bind(wrong, {})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith("service_x.method: argument 'value' passes unchecked: ")
    assert reason in text


def test_mode_off_ignores_annotations(caplog):
    assert bind(taking("Missing"), 1, mode="off") == (1,)
    assert not caplog.records


# Results


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (str, "x", "x"),
        (Item, {"name": "x", "day": "2020-01-02T00:00:00"}, Item("x", 0.0, date(2020, 1, 2))),
        (list[Item], [{"name": "x"}], [Item("x")]),
        (Awaitable[Item], {"name": "x"}, Item("x")),
        (Coroutine[Any, Any, Item], {"name": "x"}, Item("x")),
        (Model, {"Size": 1}, Model(Size=1)),
        ("Item", {"name": "x"}, Item("x")),
        ("Missing", {"name": "x"}, {"name": "x"}),
        (Opaque, 5, 5),
        (None, 5, 5),
        (Any, 5, 5),
        (inspect.Signature.empty, 5, 5),
    ],
)
def test_results_are_converted_as_the_annotation_says(annotation, value, expected, caplog):
    def method() -> Any: ...

    if annotation is inspect.Signature.empty:
        del method.__annotations__["return"]
    else:
        method.__annotations__["return"] = annotation
    convert = result_converter(method)
    assert (value if convert is None else convert(value)) == expected
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_result_that_does_not_fit_is_a_malformed_reply():
    async def method() -> Order: ...

    convert = result_converter(method, name="service_x.method")
    assert convert is not None
    with pytest.raises(MalformedReply) as caught:
        convert({"id": "hunter2"})
    assert str(caught.value) == (
        "service_x.method: the result must be Order: id must be int, got str"
    )

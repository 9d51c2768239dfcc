"""``aiorpc contract diff``: what a change breaks, and for whom."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiorpc.contracts.describing import contract_of
from aiorpc.contracts.differences import breaks_of
from aiorpc.contracts.model import (
    Argument,
    ConsumedQueue,
    Contract,
    HandledEvent,
    OfferedMethod,
    OfferedRoute,
    Service,
)
from aiorpc.contracts.rules import RULES
from tests.support.seeded_changes import BREAKING, COMPATIBLE, SOURCE, Changed, changed


def contract_in(source: str, directory: Path, name: str) -> Contract:
    """The contract of the services in *source*, which becomes the module *name*."""
    path = directory / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        return contract_of(module.SERVICES)
    finally:
        del sys.modules[name]


def judge(numbers: range, directory: Path) -> tuple[list[tuple[Changed, list[str]]], Counter[str]]:
    """Return the changes that are judged wrong, with what was named, and how many were right."""
    old = contract_in(SOURCE, directory, "seeded_old")
    assert breaks_of(old, old) == []
    wrong, right = [], Counter[str]()
    for seed in numbers:
        for breaking in (True, False):
            change = changed(seed, breaking=breaking)
            new = contract_in(change.source, directory, f"seeded_{breaking}_{seed}")
            named = breaks_of(old, new)
            if breaking == bool(named) and (
                not breaking or {each.rule for each in named} & {*change.rules}
            ):
                right["found" if breaking else "silent"] += 1
            else:
                wrong.append((change, [str(each) for each in named]))
    return wrong, right


#: So many seeds change the services in each way once.
KINDS = max(len(BREAKING), len(COMPATIBLE))


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [
        range(KINDS),
        pytest.param(range(KINDS, 100), marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
def test_breaking_changes_are_found_and_others_are_not(
    numbers: range, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, right = judge(numbers, tmp_path)
    false = sum(not change.rules for change, _ in wrong)
    with capsys.disabled():
        print(f"\n{len(numbers)} breaking changes: {right['found']} found; ", end="")
        print(f"{len(numbers)} compatible changes: {false} false alarms")
    assert wrong == []


def methods(*methods: OfferedMethod) -> Contract:
    return Contract({"shop": Service("shop", methods=methods)})


def taking(*arguments: Argument) -> Contract:
    return methods(OfferedMethod("sell", arguments))


def lines(old: Contract, new: Contract) -> list[str]:
    return [str(each) for each in breaks_of(old, new)]


TEXT: Any = {"type": "string"}
INT: Any = {"type": "integer"}
ANY: Any = {}


def argument(name: str, kind: Any = "positional_or_keyword", required: bool = True) -> Argument:
    return Argument(name, kind, required, TEXT)


def test_a_break_says_where_what_it_was_what_it_is_and_who_is_hurt() -> None:
    old = methods(OfferedMethod("sell", (Argument("title", schema=INT),), TEXT, idempotent=True))
    new = methods(OfferedMethod("sell", (Argument("title", schema=TEXT),), ANY))
    assert lines(old, new) == [
        "METHOD_SAME_IDEMPOTENCY shop.sell: was idempotent, is not idempotent; hurts callers",
        "METHOD_SAME_RESULT shop.sell ->: was string, is any value; hurts callers",
        "ARGUMENT_SAME_TYPE shop.sell(title): was integer, is string; hurts callers",
    ]


@pytest.mark.parametrize(
    ("old", "new", "broken"),
    [
        ([argument("a")], [], "METHOD_SAME_ARGUMENTS"),
        ([argument("a")], [argument("a", "keyword_only")], "METHOD_SAME_ARGUMENTS"),
        ([argument("a")], [argument("a", "positional_only")], "METHOD_SAME_ARGUMENTS"),
        ([argument("a", "keyword_only")], [argument("a")], ""),
        ([argument("a", "positional_only")], [argument("b")], ""),
        ([argument("a", "positional_only")], [argument("b", "var_positional", False)], ""),
        ([argument("a", "keyword_only")], [argument("b", "var_keyword", False)], ""),
        ([argument("a")], [argument("b", "var_keyword", False)], "METHOD_SAME_ARGUMENTS"),
        ([argument("a", "var_keyword", False)], [], "METHOD_SAME_ARGUMENTS"),
        ([argument("a", "var_positional", False)], [], "METHOD_SAME_ARGUMENTS"),
        ([argument("a")], [argument("a"), argument("b", required=False)], ""),
        ([argument("a")], [argument("b", required=False), argument("a")], "METHOD_SAME_ARGUMENTS"),
        ([argument("a", required=False)], [argument("a")], "ARGUMENT_NO_NEW_REQUIRED"),
        ([], [argument("a", "keyword_only")], "ARGUMENT_NO_NEW_REQUIRED"),
    ],
)
def test_arguments_by_position_and_by_name(
    old: list[Argument], new: list[Argument], broken: str
) -> None:
    found = breaks_of(taking(*old), taking(*new))
    assert {each.rule for each in found} == ({broken} if broken else set())


def test_a_method_that_checks_its_arguments_refuses_more() -> None:
    (found,) = breaks_of(methods(OfferedMethod("m", checked=False)), methods(OfferedMethod("m")))
    assert (found.rule, found.was, found.now) == ("METHOD_SAME_ARGUMENTS", "unchecked", "checked")


OBJECT = {"type": "object", "properties": {"id": INT, "name": TEXT}, "required": ["id"]}
NUMBER, NULL = {"type": "number"}, {"type": "null"}


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (INT, NUMBER),
        (INT, {"anyOf": [INT, NULL]}),
        (TEXT, ANY),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}),
        ({"const": "a"}, TEXT),
        ({"enum": ["a", 1]}, {"anyOf": [TEXT, INT]}),
        ({"type": "array", "items": INT}, {"type": "array", "items": NUMBER}),
        ({"type": "array", "items": [INT, INT]}, {"type": "array", "items": INT}),
        ({"type": "integer", "minimum": 3}, {"type": "integer", "minimum": 2}),
        ({"type": "string", "maxLength": 3}, TEXT),
        ({"type": "string", "pattern": "a"}, TEXT),
        ({**OBJECT, "required": ["id", "name"]}, OBJECT),
        (
            {"type": "object", "additionalProperties": INT},
            {"type": "object", "additionalProperties": NUMBER},
        ),
        ({"allOf": [INT], "default": 3}, {"type": ["integer", "string"]}),
    ],
)
def test_arguments_may_become_wider_and_results_narrower(narrow: Any, wide: Any) -> None:
    def takes(schema: Any) -> Contract:
        return taking(Argument("a", schema=schema))

    def gives(schema: Any) -> Contract:
        return methods(OfferedMethod("sell", result=schema))

    assert lines(takes(narrow), takes(wide)) == []
    assert lines(gives(wide), gives(narrow)) == []
    assert lines(takes(wide), takes(narrow)) != []
    assert lines(gives(narrow), gives(wide)) != []
    assert lines(takes(wide), takes(wide)) == lines(gives(narrow), gives(narrow)) == []


@pytest.mark.parametrize("kinds", [("date-time", ""), ("", "date"), ("uuid", "date")])
def test_types_that_travel_as_themselves_are_not_text(kinds: tuple[str, str]) -> None:
    old, new = ({**TEXT, **({"format": each} if each else {})} for each in kinds)
    assert lines(taking(Argument("a", schema=old)), taking(Argument("a", schema=new))) != []


def test_a_field_with_a_default_is_always_in_a_result() -> None:
    required = {"type": "object", "properties": {"n": INT}, "required": ["n"]}
    default = {"type": "object", "properties": {"n": {**INT, "default": 1}}}
    old = methods(OfferedMethod("m", (Argument("a", schema=default),), required))
    new = methods(OfferedMethod("m", (Argument("a", schema=required),), default))
    (found,) = breaks_of(old, new)
    assert (found.rule, found.where) == ("FIELD_NO_NEW_REQUIRED", "shop.m(a).n")


def test_a_queue_needs_somebody_who_consumes_it() -> None:
    def shop(*, handlers: Any = (), consumers: Any = ()) -> Contract:
        return Contract({"shop": Service("shop", handlers=handlers, consumers=consumers)})

    on_paid = HandledEvent("on_paid", "bank", "paid", "singleton", "q", TEXT)
    everywhere = HandledEvent("on_all", "bank", "paid", "broadcast", "b", TEXT)
    letter = ConsumedQueue("letter", "q", TEXT)
    both = shop(
        handlers=(on_paid, everywhere), consumers=(msgspec.structs.replace(letter, queue="l"),)
    )
    assert lines(both, shop()) == [
        "CONSUMER_NO_DELETE shop.letter consumes l: was a consumer, is gone; hurts the service",
        "HANDLER_NO_DELETE shop.on_paid handles bank.paid: was a handler on q, is gone; hurts the "
        "service",
    ]
    # Another way to consume the same queue.
    assert lines(shop(handlers=(on_paid,)), shop(consumers=(letter,))) == []
    number = msgspec.structs.replace(letter, payload=INT)
    assert lines(shop(handlers=(on_paid,)), shop(consumers=(number,))) == [
        "HANDLER_SAME_PAYLOAD shop.on_paid handles bank.paid: was string, is integer; hurts the "
        "service"
    ]


def test_a_handler_may_stop_reading_a_field() -> None:
    def handles(payload: Any) -> Contract:
        handler = HandledEvent("on_paid", "bank", "paid", "singleton", "q", payload)
        return Contract({"shop": Service("shop", handlers=(handler,))})

    less = {"type": "object", "properties": {"id": INT}, "required": ["id"]}
    assert lines(handles(OBJECT), handles(less)) == []
    assert lines(taking(Argument("a", schema=OBJECT)), taking(Argument("a", schema=less))) != []
    (found,) = lines(handles(OBJECT), handles({**less, "additionalProperties": False}))
    assert found.startswith("FIELD_NO_DELETE shop.on_paid handles bank.paid.name: was string")


def test_a_variable_of_a_path_that_becomes_text_takes_each_value() -> None:
    def route(schema: Any) -> Contract:
        parameters = (Argument("id", schema=schema),)
        path = "/books/{id}"
        shown = OfferedRoute("show", ("GET",), path, ("id",), parameters=parameters)
        return Contract({"shop": Service("shop", routes=(shown,))})

    assert lines(route(INT), route(TEXT)) == []
    assert lines(route(TEXT), route(INT)) == [
        "ARGUMENT_SAME_TYPE shop GET /books/{id}({0}): was string, is integer; hurts callers"
    ]
    assert lines(route(INT), route({"enum": ["a"]})) != []


def test_schemas_that_contain_themselves_are_compared() -> None:
    def tree(**fields: Any) -> Contract:
        node = {"type": "object", "properties": fields}
        reference = {"$ref": "#/components/schemas/Node"}
        service = Service("shop", methods=(OfferedMethod("m", result=reference),))
        return Contract({"shop": service}, {"Node": node})

    parts = {"type": "array", "items": {"$ref": "#/components/schemas/Node"}}
    assert lines(tree(name=TEXT, parts=parts), tree(parts=parts, name=TEXT, more=INT)) == []
    assert lines(tree(name=TEXT, parts=parts), tree(parts=parts)) == [
        "FIELD_NO_DELETE shop.m ->.name: was string, is absent; hurts callers"
    ]


def test_every_rule_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
    for rule, meaning in RULES.items():
        assert f"| `{rule}` | {meaning} |" in text

"""Contracts that somebody else wrote: what is wrong is an error, and what is not is usable."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from aiorpc import ConfigurationError
from aiorpc.contracts.describing import contract_of
from aiorpc.contracts.differences import breaks_of
from aiorpc.contracts.hiding import hide_by_name
from aiorpc.contracts.inputs import input_schema
from aiorpc.contracts.merging import merged
from aiorpc.contracts.model import Argument, Contract, OfferedMethod, Service
from aiorpc.contracts.reading import contract_from, read
from aiorpc.contracts.stubs import stub_of
from aiorpc.contracts.writing import document_of, text_of
from tests.support.contract_services import SERVICES

GOOD = contract_of(SERVICES)
DOCUMENT = json.loads(text_of(GOOD))

#: Values that are no schemas, or that no keyword may have, and some that are sound.
VALUES: list[Any] = [
    *(None, [], {}, "", 0, 1.5, True, [1], [True], {"a": 1}, "#/x"),
    *({"$ref": 5}, {"$ref": "#/components/schemas/Line"}, {"$ref": "#/components/schemas/none"}),
    *({"type": 5}, {"type": []}, {"type": ["a", 1]}, {"type": "array", "items": []}),
    *({"enum": 5}, {"enum": [[1], {"a": 2}]}, {"const": {"a": 1}}, {"format": []}),
    *({"anyOf": 5}, {"anyOf": [5]}, {"allOf": []}, {"discriminator": {}}, {"title": 1}),
    *({"allOf": [{"$ref": "#/components/schemas/Order"}]}, {"items": [5]}, {"items": 5}),
    *({"properties": 5}, {"properties": {"a": 5}}, {"properties": {"properties": {}}}),
    *({"required": 5}, {"required": [["a"]]}, {"properties": {"x": {"default": {"type": 5}}}}),
    *({"minimum": "x"}, {"type": "integer", "exclusiveMinimum": "a"}, {"multipleOf": 0}),
]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_contract_is_an_error_or_can_be_used(seed: int) -> None:
    chance = random.Random(seed)
    document = copy.deepcopy(DOCUMENT)
    container, key = chance.choice(list(places(document)))
    container[key] = copy.deepcopy(chance.choice(VALUES))
    try:
        contract = contract_from(document, "it")
    except ConfigurationError:
        return
    assert isinstance(breaks_of(GOOD, contract) + breaks_of(contract, GOOD), list)
    for service in contract.services.values():
        try:
            stub = stub_of(contract, service.name)
        except ConfigurationError:
            continue  # a name that Python does not have
        compile(stub, service.name, "exec")
        for method in service.methods:
            json.dumps(input_schema(method, contract.schemas))
    hide_by_name(contract)
    assert msgspec.json.encode(merged([contract, GOOD]))


def shop(*parameters: Argument, **schemas: Any) -> Any:
    service = Service("shop", methods=(OfferedMethod("sell", parameters),))
    return document_of(Contract({"shop": service}, schemas))


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": 5}, "type of a schema is int: 5"),
        ({"type": []}, "type of a schema is list"),
        ({"items": {"enum": "a"}}, "enum of a schema is str: 'a'"),
        ({"properties": {"a": 5}}, "a schema is int"),
        ({"properties": {"a": {"required": [1]}}}, "required of a schema is list"),
        ({"allOf": []}, "allOf of a schema is list"),
        ({"minimum": True}, "minimum of a schema is bool"),
        ({"multipleOf": 0}, "multipleOf of a schema is int: 0"),
        ({"multipleOf": 10**400}, "multipleOf of a schema is int: 1000"),
        ({"exclusiveMinimum": float("inf")}, "exclusiveMinimum of a schema is float: inf"),
        ({"maximum": float("nan")}, "maximum of a schema is float: nan"),
    ],
)
def test_a_schema_with_a_wrong_keyword_is_named(schema: Any, fault: str) -> None:
    for document in (shop(Argument("a", schema=schema)), shop(Named=schema)):
        with pytest.raises(ConfigurationError, match="it is damaged") as caught:
            contract_from(document, "it")
        assert fault in str(caught.value)


def test_data_in_a_schema_is_no_schema() -> None:
    schema = {"default": {"type": 5}, "enum": [{"items": 5}], "properties": {"type": {}}}
    assert contract_from(shop(Named=schema), "it").schemas == {"Named": schema}


@pytest.mark.parametrize(
    "parameters",
    [
        [Argument("a", required=False), Argument("b")],
        [Argument("a", "keyword_only"), Argument("b")],
        [Argument("a", "var_positional", False), Argument("b", "var_positional", False)],
    ],
)
def test_arguments_that_python_cannot_have_are_refused(parameters: list[Argument]) -> None:
    with pytest.raises(ConfigurationError, match="the arguments of sell have an order"):
        contract_from(shop(*parameters), "it")


def test_a_contract_that_is_nested_too_deep_is_damaged() -> None:
    deep: Any = {}
    for _ in range(2000):
        deep = {"items": deep}
    with pytest.raises(ConfigurationError, match="it is damaged"):
        contract_from(shop(Argument("a", schema=deep)), "it")
    text = '{"a":' * 200_000
    with pytest.raises(ConfigurationError, match="it is not JSON"):
        read(text, "it")

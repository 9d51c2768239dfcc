"""Contracts of service classes: what they have, and that they are AsyncAPI 3."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import msgspec
import pytest
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase

from aiorpc import ConfigurationError, EventDispatcher, rpc
from aiorpc.contracts.describing import contract_of
from aiorpc.contracts.model import HIDDEN, Contract, OfferedMethod, Service
from aiorpc.contracts.reading import contract_from, read
from aiorpc.contracts.writing import document_of, text_of
from aiorpc.sqlalchemy import DatabaseSession, Outbox, returns
from services.library.letters import Letters
from services.library.library import Library
from services.library.members import Members
from services.service_x import ServiceX
from services.service_y import ServiceY
from tests.support.contract_services import SERVICES, Articles, Customers, Legacy, Orders, Web

EXAMPLES = (Library, Letters, Members, ServiceX, ServiceY)
#: AsyncAPI's own schema: the package @asyncapi/specs 6.11.1 of npm, Apache-2.0.
OFFICIAL = Path(__file__).parents[1] / "data" / "asyncapi" / "3.0.0.json"


@cache
def validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(OFFICIAL.read_text(encoding="utf-8")))


def faults_of(document: dict[str, Any]) -> Iterator[str]:
    for error in validator().iter_errors(document):
        yield f"{error.json_path}: {error.message[:200]}"


def method(service: type, name: str) -> OfferedMethod:
    (found,) = [
        each for each in contract_of([service]).services[service.name].methods if each.name == name
    ]
    return found


def service(service_cls: type) -> Service:
    (found,) = contract_of([service_cls]).services.values()
    return found


@pytest.mark.parametrize("services", [SERVICES, EXAMPLES, ()], ids=["all kinds", "examples", "no"])
def test_a_contract_is_a_document_of_asyncapi_3(services: tuple[type, ...]) -> None:
    document = json.loads(text_of(contract_of(services)))
    assert list(faults_of(document)) == []
    for reference in json.dumps(document).split('"$ref": "')[1:]:
        found: Any = document
        for part in unquote(reference.partition('"')[0]).removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/")]


def test_the_official_schema_finds_a_wrong_document() -> None:
    document = document_of(contract_of([Orders]))
    operation = document["operations"]["contract_orders.place"]
    operation["action"] = "call"
    assert any("contract_orders.place" in each for each in faults_of(document))


def test_the_same_services_give_the_same_text() -> None:
    text = text_of(contract_of(SERVICES))
    assert text == text_of(contract_of([*SERVICES[::-1], *SERVICES]))
    assert read(text, "the text") == contract_of(SERVICES)
    assert text_of(read(text.encode(), "the text")) == text
    assert text.endswith("}\n")


def test_a_method_has_its_arguments_result_errors_and_docstring() -> None:
    place = method(Orders, "place")
    assert [(each.name, each.kind, each.required) for each in place.parameters] == [
        ("lines", "positional_or_keyword", True),
        ("customer", "positional_or_keyword", True),
        ("express", "keyword_only", False),
    ]
    lines, customer, express = (each.schema for each in place.parameters)
    assert lines == {"type": "array", "items": {"$ref": "#/components/schemas/Line"}}
    assert customer == {"type": "string", "format": "uuid"}
    assert express == {"type": "boolean", "default": False}
    assert place.result == {"$ref": "#/components/schemas/Order"}
    assert [(each.name, each.description) for each in place.errors] == [
        ("NotFound", "There is no such thing."),
        ("SoldOut", "No copy is left."),
    ]
    assert place.description == "Place an order.\n\nThe stock must have all lines."
    assert service(Orders).version == "2.1"
    assert service(Orders).description == "Takes orders.\n\nHas a second paragraph."


def test_every_kind_of_signature_is_described() -> None:
    search = method(Orders, "search")
    assert [(each.name, each.kind) for each in search.parameters] == [
        ("where", "positional_only"),
        ("states", "var_positional"),
        ("more", "var_keyword"),
    ]
    both = method(Legacy, "both")
    assert [each.kind for each in both.parameters] == [
        *("positional_only", "positional_or_keyword", "var_positional"),
        *("keyword_only", "keyword_only"),
    ]
    assert [each.required for each in both.parameters] == [True, True, False, True, False]
    assert method(Legacy, "find").parameters[1].schema == {"default": 3}
    assert method(Orders, "export").stream
    assert method(Orders, "pay").sensitive == ("payment.by",)
    assert not method(Customers, "unchecked").checked


def test_classes_become_schemas() -> None:
    schemas = contract_of([Orders, Customers]).schemas
    order = schemas["Order"]["properties"]
    assert order["placed"] == {"type": "string", "format": "date-time"}
    assert order["state"] == {"$ref": "#/components/schemas/State"}
    assert schemas["State"]["enum"] == ["new", "paid", "sent"]
    assert schemas["Address"]["additionalProperties"] is False
    assert set(schemas["Address"]["properties"]) == {"streetName", "zipCode"}
    assert schemas["Category"]["properties"]["parts"]["items"] == {
        "$ref": "#/components/schemas/Category"
    }
    assert schemas["Payment"]["properties"]["by"]["discriminator"] == "type"
    assert schemas["Profile"]["properties"]["age"]["maximum"] == 150


def test_marshmallow_schemas_are_described_in_both_directions() -> None:
    add = method(Articles, "add")
    (result, null) = add.result["anyOf"]
    assert null == {"type": "null"}
    assert set(result["properties"]) == {"id", "title", "price", "writtenOn", "parts"}
    argument = add.parameters[0].schema
    assert set(argument["properties"]) == {"title", "price", "secret", "writtenOn", "parts"}
    assert (argument["required"], argument["additionalProperties"]) == (["title"], False)
    assert method(Articles, "all").result["items"] == result


def test_a_field_that_a_dump_may_leave_out_is_not_promised() -> None:
    class Leaflet(Schema):
        title = fields.String(required=True)
        pages = fields.Integer()
        price = fields.Integer(dump_default=0)
        length = fields.Function(lambda leaflet: len(leaflet["title"]))

    class Leaflets:
        name = "contract_leaflets"

        @rpc
        @returns(Leaflet)
        async def first(self) -> Any: ...

    assert set(Leaflet().dump({"title": "Emma"})) == {"title", "price", "length"}
    assert set(method(Leaflets, "first").result["required"]) == {"title", "price", "length"}


def test_mapped_classes_are_described() -> None:
    lend = method(Library, "lend")
    assert set(lend.result["required"]) == set(lend.result["properties"])
    assert lend.result["properties"]["due"] == {"type": "string", "format": "date"}
    assert [each.name for each in lend.errors] == ["NotAvailable"]


def test_events_are_found_where_the_code_dispatches_them() -> None:
    by_type = {each.event_type: each for each in service(Orders).events}
    assert by_type.keys() == {"placed", "paid", "restocked"}
    assert by_type["restocked"].payload == {"$ref": "#/components/schemas/Line"}
    assert by_type["restocked"].methods == ("cancel",)
    assert by_type["paid"].payload == {
        "type": "object",
        "properties": {"order_id": {"type": "integer"}, "amount": {"type": "number"}},
        "required": ["order_id", "amount"],
    }


class Sizes(msgspec.Struct):
    pair: tuple[int, str] = (1, "a")
    most: float = math.inf
    by_number: dict[int, int] = msgspec.field(default_factory=dict)


class Defaults:
    name = "contract_defaults"

    @rpc
    async def set(
        self,
        pair: tuple[int, ...] = (1, 2),
        most: float = math.nan,
        by_number: dict[int, int] = {1: 2},  # noqa: B006
        sizes: Sizes = Sizes(),  # noqa: B008
        marker: Any = object(),  # noqa: B008
    ) -> Sizes: ...


def test_defaults_are_those_of_json() -> None:
    contract = contract_of([Defaults])
    text = text_of(contract)
    assert read(text, "the text") == contract
    json.loads(text, parse_constant=pytest.fail)  # no NaN, no Infinity
    parameters = {each.name: each.schema for each in method(Defaults, "set").parameters}
    assert parameters["pair"]["default"] == [1, 2]
    assert parameters["by_number"]["default"] == {"1": 2}
    assert parameters["most"] == {"type": "number", HIDDEN: True}
    assert not {"default", HIDDEN} & {*parameters["marker"]}
    assert HIDDEN in contract.schemas["Sizes"]["properties"]["most"]


class Base:
    dispatch = EventDispatcher()
    KIND = "inherited"

    @rpc
    async def first(self, kind: str) -> None:
        await self.dispatch(self.KIND, 1)
        await self.dispatch(kind)  # computed: nobody can know its type

    @rpc
    async def second(self) -> None:
        await self.dispatch("overridden")


class Heir(Base):
    name = "contract_heir"

    @rpc
    async def second(self) -> None:
        await self.dispatch("own", {"a": 1, self.KIND: 2})


def test_events_of_base_classes_are_found() -> None:
    found = {each.event_type: each.payload for each in service(Heir).events}
    assert found == {"inherited": {"type": "integer"}, "own": {}}


def test_handlers_consumers_and_routes_are_described() -> None:
    legacy = service(Legacy)
    on_paid, on_placed = legacy.handlers
    assert (on_paid.queue, on_paid.handler_type) == ("evt-contract_orders-paid", "singleton")
    assert on_paid.payload == {"$ref": "#/components/schemas/Payment"}
    assert on_placed.queue == "evt-contract_orders-placed--contract_legacy.on_placed"
    (letter,) = legacy.consumers
    assert (letter.queue, letter.payload) == ("contract_letters", {"type": "object"})
    put, raw, show = service(Web).routes
    assert (show.verbs, show.path, show.in_path) == (("GET",), "/orders/{order_id}", ("order_id",))
    assert [each.name for each in show.parameters] == ["order_id", "full"]
    assert (put.verbs, put.body) == (("POST", "PUT"), "line")
    assert (raw.path, raw.in_path) == ("/raw/{rest}", ("rest",))


class Twin:
    name = Orders.name


def test_idempotency_is_described() -> None:
    assert method(Articles, "add").idempotent
    assert not method(Articles, "all").idempotent


class Model(DeclarativeBase): ...


class WithOutbox:
    name = "contract_outbox"
    db = DatabaseSession(Model, commit=True)
    outbox = Outbox(Model)

    @rpc
    async def order(self) -> None:
        await self.outbox.dispatch("ordered", {"book": 1})
        await self.outbox("noted", "text")
        await self.outbox.publish("no event")


def test_events_of_an_outbox_are_found() -> None:
    found = {each.event_type: each.payload["type"] for each in service(WithOutbox).events}
    assert found == {"noted": "string", "ordered": "object"}


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="Orders and Twin both have the name"):
        contract_of([Orders, Twin])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "contract.json is not JSON"),
        ("[]", "is not a contract of aiorpc"),
        ('{"asyncapi": "3.0.0"}', "it has no x-aiorpc"),
        ('{"x-aiorpc": {"format": 2}}', "has the format 2, and this aiorpc reads format 1"),
        ('{"x-aiorpc": {"format": 1}}', "is damaged"),
    ],
)
def test_a_file_that_is_no_contract_says_what_to_do(text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault) as caught:
        read(text, "contract.json")
    assert "aiorpc contract MODULE -o FILE" in str(caught.value)


def test_a_damaged_document_is_an_error_and_never_another() -> None:
    document = document_of(contract_of([Orders]))

    def places(value: Any) -> Iterator[tuple[Any, Any]]:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            if isinstance(value[key], (dict, list)):
                yield from places(value[key])

    for container, key in places(document):
        kept = container[key]
        for wrong in (None, []):
            container[key] = wrong
            try:
                found = contract_from(document, "it")
            except ConfigurationError:
                continue
            finally:
                container[key] = kept
            assert isinstance(found, Contract)

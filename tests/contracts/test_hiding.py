"""Secret defaults, which no contract and no document has."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from aiorpc import Queue, ServiceContainer, consume, event_handler, rpc
from aiorpc.cli.live_contracts import live_contract
from aiorpc.config import resolve
from aiorpc.contracts.describing import contract_of
from aiorpc.contracts.differences import breaks_of
from aiorpc.contracts.hiding import hide_by_name
from aiorpc.contracts.inputs import input_schema
from aiorpc.contracts.model import HIDDEN, Contract, OfferedMethod
from aiorpc.contracts.reading import contract_from, read
from aiorpc.contracts.stubs import stub_of
from aiorpc.contracts.writing import text_of
from aiorpc.hosting.discovery.asking import asking
from aiorpc.hosting.discovery.shapes import Question
from aiorpc.http import http
from aiorpc.transports import open_transport

SECRET = "hunter2"


@dataclass(frozen=True)
class Key:
    teeth: str = SECRET
    metal: str = "brass"
    tags: list[str] = field(default_factory=list)


class Lock(msgspec.Struct, rename="camel"):
    spare_key: Key = Key()
    keys: list[Key] = []
    next: Lock | None = None


class Card(msgspec.Struct):
    number: str
    code_word: str = SECRET
    country: str = "DE"


class Vault:
    name = "hiding_vault"

    @rpc(sensitive_arguments=("secret", "tries"))
    async def open(self, secret: str = SECRET, tries: int = 4711, slow: bool = True) -> None: ...

    @rpc(sensitive_arguments="key.teeth")
    async def copy(self, key: Key) -> Key: ...

    @rpc
    async def change(self, lock: Lock = Lock(), most: int = 3) -> Lock: ...  # noqa: B008

    @rpc(sensitive_arguments="cards[0].code_word")
    async def pay(self, cards: list[Card | None], note: str = "thanks") -> None: ...

    @event_handler("shop", "sold", sensitive_arguments="sold.pin")
    async def on_sold(self, sold: Sold) -> None: ...

    @consume(Queue("hiding_letters"), sensitive_arguments="letter")
    async def on_letter(self, letter: Letter) -> None: ...

    @http("GET", "/doors", sensitive_arguments="code")
    async def doors(self, code: str = SECRET, page: int = 1) -> None: ...


@dataclass
class Sold:
    pin: str | None = SECRET
    title: str = "Emma"


@dataclass
class Letter:
    text: str = SECRET


def method_of(contract: Contract, name: str) -> OfferedMethod:
    (found,) = (each for each in contract.services[Vault.name].methods if each.name == name)
    return found


@pytest.fixture(scope="module")
def contract() -> Contract:
    return contract_of([Vault])


def test_a_contract_has_no_default_of_a_sensitive_argument(contract: Contract) -> None:
    text = text_of(contract)
    assert SECRET not in text
    assert "4711" not in text
    assert read(text, "it") == contract
    secret, tries, slow = method_of(contract, "open").parameters
    assert secret.schema == {"type": "string", HIDDEN: True}
    assert tries.schema == {"type": "integer", HIDDEN: True}
    assert slow.schema["default"] is True
    assert [each.required for each in (secret, tries)] == [False, False]
    (doors,) = contract.services[Vault.name].routes
    assert [HIDDEN in each.schema for each in doors.parameters] == [True, False]


def test_defaults_of_sensitive_fields_are_hidden_and_others_stay(contract: Contract) -> None:
    fields = {name: each["properties"] for name, each in contract.schemas.items()}
    shown = {
        f"{name}.{each}": schema.get("default", "hidden" if HIDDEN in schema else None)
        for name in fields
        for each, schema in fields[name].items()
    }
    assert shown == {
        "Card.country": "DE",
        "Card.code_word": "hidden",
        "Card.number": None,
        "Key.metal": "brass",
        "Key.tags": [],
        "Key.teeth": "hidden",
        "Letter.text": "hidden",
        "Lock.keys": [],
        "Lock.next": None,
        "Lock.spareKey": "hidden",  # it repeats that of Key.teeth
        "Sold.pin": "hidden",
        "Sold.title": "Emma",
    }
    lock, most = method_of(contract, "change").parameters
    assert HIDDEN in lock.schema
    assert most.schema["default"] == 3
    assert method_of(contract, "pay").parameters[1].schema["default"] == "thanks"


@pytest.mark.parametrize("rename", [True, False])
def test_a_field_that_a_path_cannot_name_hides_its_neighbours(rename: bool) -> None:
    """A schema has the names of the wire, and a path those of the code."""

    class Login(msgspec.Struct):
        word: str = msgspec.field(default=SECRET, name="w" if rename else None)
        user: str = "ada"

    class Door:
        name = "hiding_door"

        @rpc(sensitive_arguments="login.word")
        async def open(self, login: Login) -> None: ...

    Door.open.__annotations__["login"] = Login
    text = text_of(contract_of([Door]))
    assert SECRET not in text
    assert ('"ada"' in text) is not rename


def test_a_sensitive_argument_may_have_a_name_that_only_its_caller_knows() -> None:
    class Door:
        name = "hiding_options"

        @rpc(sensitive_arguments="spare.teeth")
        async def open(self, **keys: Key) -> None: ...

    text = text_of(contract_of([Door]))
    assert SECRET not in text
    assert '"brass"' in text


def test_a_document_of_others_is_masked_by_name_too() -> None:
    class Door:
        name = "hiding_names"

        @rpc
        async def open(self, api_key: str = "k-1", url: str = "ftp://a:k-1@b/", n: int = 1): ...

    contract = contract_of([Door])
    assert "k-1" in text_of(contract)  # nobody said that it is a secret
    hide_by_name(contract)
    assert "k-1" not in text_of(contract)
    assert contract.services[Door.name].methods[0].parameters[2].schema["default"] == 1


def test_a_contract_of_an_older_aiorpc_is_read_without_its_secrets(contract: Contract) -> None:
    document = json.loads(text_of(contract).replace(f'"{HIDDEN}": true', f'"default": "{SECRET}"'))
    read_again = contract_from(document, "it")
    assert read_again == contract
    assert SECRET in json.dumps(document)


def test_what_is_made_of_a_contract_has_no_secret(contract: Contract) -> None:
    stub = stub_of(contract, Vault.name)
    assert SECRET not in stub
    assert "async def open(self, secret: str = ..., tries: int = ..., slow: bool = True)" in stub
    tools = [input_schema(each, contract.schemas) for each in contract.services[Vault.name].methods]
    assert SECRET not in json.dumps(tools)
    assert "secret" not in tools[2].get("required", [])


async def test_a_running_service_sends_no_secret(contract: Contract) -> None:
    settings = resolve({"AMQP_URI": "memory://hiding", "WEB_SERVER_ADDRESS": "127.0.0.1:0"})
    async with ServiceContainer(Vault, settings):
        assert await live_contract(settings, [Vault.name], 0.3) == contract
        async with open_transport(settings) as transport, asking(transport) as asker:
            for question in (Question.INFO, Question.STATS, Question.CONTRACT):
                answers = await asker.ask(question, 0.05)
                assert [each.name for each in answers] == [Vault.name]
                assert SECRET.encode() not in msgspec.json.encode(answers)


def door(default: Any = ..., teeth: Any = ..., sensitive: tuple[str, ...] = ()) -> Contract:
    """The contract of a service whose argument and field have these defaults."""
    own = [("teeth", str)] if teeth is ... else [("teeth", str, teeth)]
    made = msgspec.defstruct("Key", own)

    class Door:
        name = "hiding_door"

        @rpc(sensitive_arguments=sensitive)
        async def open(self, key, secret=default): ...

        @rpc
        async def last(self): ...

    annotations = {"key": made, "secret": str}
    Door.open.__annotations__.update(annotations)
    Door.last.__annotations__["return"] = made
    if default is ...:
        Door.open.__defaults__ = None
    return contract_of([Door])


def rules(old: Contract, new: Contract) -> list[str]:
    return sorted(f"{each.rule} {each.where}" for each in breaks_of(old, new))


def test_a_diff_knows_that_a_hidden_default_is_one() -> None:
    paths = ("secret", "key.teeth")
    hidden = door(SECRET, SECRET, paths)
    assert rules(hidden, door("another", "another", paths)) == []
    assert rules(hidden, door(SECRET, SECRET)) == []
    assert rules(door(SECRET, SECRET), hidden) == []
    assert rules(hidden, door(sensitive=paths)) == [
        "ARGUMENT_NO_NEW_REQUIRED hiding_door.open(secret)",
        "FIELD_NO_NEW_REQUIRED hiding_door.open(key).teeth",
    ]
    assert rules(door(sensitive=paths), hidden) == []

"""How the arguments of a call are shown to an operator: short, and without secrets."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest

from aiorpc import Call, rpc
from aiorpc.extensions import entrypoints_of
from aiorpc.hosting.discovery.arguments import shown_arguments


class Cover(Enum):
    HARD = "hard"


@dataclass
class Order:
    title: str
    pieces: int
    token: str = "t0p"


class Rude:
    """A value that must not run code of the user when somebody looks at it."""

    def __repr__(self) -> str:
        raise AssertionError("its __repr__ ran")

    __str__ = __repr__


class Shop:
    name = "shown"

    @rpc
    async def anything(self, *values: Any, **options: Any) -> None: ...

    @rpc
    async def order(self, title: str, pieces: int = 1, *, note: Any = None) -> None: ...

    @staticmethod
    @rpc
    async def static(title: str) -> None: ...

    @rpc(sensitive_arguments=("card.number", "pin"))
    async def pay(self, card: dict[str, Any], pin: int, note: str = "") -> None: ...


def shown(method: str, *args: Any, **kwargs: Any) -> dict[str, str]:
    (entrypoint,) = [each for each in entrypoints_of(Shop) if each.method_name == method]
    return shown_arguments(entrypoint, Call("shown", method, args, kwargs), Shop)


def test_arguments_have_the_names_of_the_method() -> None:
    assert shown("order", "Emma", note=3) == {"title": "'Emma'", "note": "3"}
    assert shown("static", "Emma") == {"title": "'Emma'"}
    assert shown("anything", 1, 2, more=3) == {"[0]": "1", "[1]": "2", "more": "3"}
    assert shown("order", 1, 2, 3) == {"title": "1", "pieces": "2", "[2]": "3"}  # too many


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("a\x1b[2Jb", "'a\\x1b[2Jb'"),
        (Decimal("9.90"), "9.90"),
        (date(1815, 12, 10), "1815-12-10"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (b"12345", "<5 bytes>"),
        ([1, [2, [3, [4]]]], "[1, [2, [3, [... (1)]]]]"),
        (list(range(1000)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (1000)]"),
        ({"title": "Emma", "password": "pw"}, "{'title': 'Emma', 'password': ***}"),
        (Order("Emma", 2), "Order{'title': 'Emma', 'pieces': 2, 'token': ***}"),
        (Cover.HARD, "Cover('hard')"),
        ("amqp://guest:guest@host/", "'amqp://guest:***@host/'"),
        (Rude(), "<Rude>"),
        ([Rude()], "[<Rude>]"),
    ],
)
def test_a_value_is_shown_without_running_its_code(value: Any, text: str) -> None:
    assert shown("anything", value) == {"[0]": text}


def test_long_texts_are_cut() -> None:
    (text,) = shown("anything", "x" * 100_000).values()
    assert len(text) < 150
    (text,) = shown("anything", {str(number): "x" * 1000 for number in range(1000)}).values()
    assert len(text) < 350


def test_sensitive_arguments_are_masked_wherever_their_values_are() -> None:
    found = shown("pay", {"number": "4111 1111"}, 4321, note="card 4111 1111, pin 4321")
    assert found == {"card": "***", "pin": "***", "note": "'card ***, pin ***'"}


def test_arguments_that_do_not_fit_the_method_are_all_sensitive() -> None:
    found = shown("pay", "4111", 4321, "note", "one too many")
    assert "4111" not in str(found)
    assert "one too many" not in str(found)

"""The types in a signature, as services and documents read them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from aiorpc.wire.conversion import Unsupported
from aiorpc.wire.signatures import (
    expected_type,
    result_type,
    signature_of,
    takes_self,
    unwrapped,
)

if TYPE_CHECKING:
    from decimal import Decimal


class Shop:
    async def quote(self, title: str, count: int = None, *, price: Decimal = 0) -> list[int]:  # noqa: RUF013
        return []

    def later(self) -> Coroutine[Any, Any, int]: ...
    def soon(self) -> Awaitable[str]: ...
    def bare(*args): ...
    def unknown(self) -> Decimal: ...


PARAMETERS = signature_of(Shop.quote).parameters


def test_the_types_of_parameters_are_resolved_one_by_one() -> None:
    assert expected_type(Shop.quote, PARAMETERS["title"]) is str
    assert expected_type(Shop.quote, PARAMETERS["self"]) is Any
    with pytest.raises(Unsupported, match="outside of TYPE_CHECKING"):
        expected_type(Shop.quote, PARAMETERS["price"])


def test_a_default_of_none_is_part_of_the_type() -> None:
    assert expected_type(Shop.quote, PARAMETERS["count"]) == int | None


@pytest.mark.parametrize(
    ("method", "expected"),
    [(Shop.quote, list[int]), (Shop.later, int), (Shop.soon, str), (Shop.bare, Any)],
)
def test_the_type_of_a_result_is_what_a_caller_gets(
    method: Callable[..., Any], expected: Any
) -> None:
    assert result_type(method) == expected


def test_a_result_whose_type_cannot_be_resolved_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="Decimal"):
        result_type(Shop.unknown)


def test_self_is_the_first_parameter_that_has_a_position() -> None:
    def takes(function: Callable[..., Any]) -> bool:
        return takes_self(function, list(inspect.signature(function).parameters.values()))

    assert takes(Shop.quote)
    assert not takes(Shop().quote)
    assert not takes(Shop.bare)
    assert not takes(lambda: None)


def test_the_function_inside_decorators_is_found() -> None:
    @functools.wraps(Shop.quote)
    def outer(*args: Any) -> Any: ...

    assert unwrapped(outer) is Shop.quote
    vars(outer)["__signature__"] = inspect.signature(outer)
    assert unwrapped(outer) is outer

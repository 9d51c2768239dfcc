"""
Describes a method: its parameters, its result and its docstring, with the types that aiorpc checks.
For documents that describe methods. Pure functions: nothing here awaits or does I/O.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from .conversion import Unsupported, converter_of
from .signatures import (
    expected_type,
    is_stream,
    result_type,
    signature_of,
    takes_self,
    unwrapped,
)

__all__ = ["MethodDescription", "Parameter", "described"]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of a method. ``expected`` is ``Any`` if its annotation is not checked."""

    name: str
    kind: Any
    expected: Any
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        """Whether each request must have this argument."""
        return self.default is inspect.Parameter.empty and self.kind not in _VARIADIC


class MethodDescription(msgspec.Struct, frozen=True):
    """
    What the code says of a method.

    Attributes:
        result: the type of the result, or of the items of a stream; ``Any`` if it is not checked.
        text: the docstring, without its indentation.
    """

    parameters: list[Parameter]
    result: Any
    is_stream: bool
    text: str


def described(function: Callable[..., Any], *, skip_self: bool) -> MethodDescription:
    """
    Describe *function*.

    Args:
        skip_self: whether *function* belongs to a class, so a call does not pass ``self``.
    """
    inner = unwrapped(function)
    given = list(signature_of(inner).parameters.values())
    if skip_self and takes_self(inner, given):
        del given[0]
    return MethodDescription(
        [Parameter(each.name, each.kind, _expected(inner, each), each.default) for each in given],
        _supported(lambda: result_type(inner)),
        is_stream(function),
        inspect.getdoc(function) or "",
    )


def _expected(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    return _supported(lambda: expected_type(function, parameter))


def _supported(read: Callable[[], Any]) -> Any:
    """Return the type that *read* returns, or ``Any`` if values of this type pass unchecked."""
    try:
        found = read()
        converter_of("", found, strict=True)
    except Unsupported:
        return Any
    return found

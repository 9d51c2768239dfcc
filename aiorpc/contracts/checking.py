"""
Checks the schemas of a contract that somebody else wrote. Pure functions.

A file may be damaged, and every program on the broker may answer as a service. So all that reads
schemas may rely on the types of their keywords.
"""

from __future__ import annotations

import sys
from typing import Any, get_args

from .draft07 import BY_NAME
from .model import Contract, Kind, OfferedMethod, named_schemas

__all__ = ["require_sound"]

_NUMBERS = frozenset(
    {
        *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
        *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    }
)
_TEXTS = frozenset({"$ref", "format", "pattern", "contentEncoding", "discriminator", "title"})
_UNIONS = frozenset({"allOf", "anyOf", "oneOf"})
#: What may also be true or false: each other value is permitted, or none.
_OTHERS = frozenset({"additionalProperties", "additionalItems", "items"})


def require_sound(contract: Contract) -> None:
    """
    Check all schemas of *contract*, and the order of arguments.

    Raises:
        ValueError: a keyword has a value that it cannot have, or Python has no such arguments.
    """
    for _, schema in named_schemas(contract):
        _check(schema)
    for service in contract.services.values():
        for method in service.methods:
            _check_order(method)


_ORDER = get_args(Kind)


def _check_order(method: OfferedMethod) -> None:
    kinds = [_ORDER.index(each.kind) for each in method.parameters]
    required = [each.required for each in method.parameters if each.by_position]
    names = {each.name for each in method.parameters}
    if (
        kinds != sorted(kinds)
        or required != sorted(required, reverse=True)
        or len(names) < len(kinds)
        or any(kinds.count(_ORDER.index(each)) > 1 for each in ("var_positional", "var_keyword"))
    ):
        raise ValueError(f"the arguments of {method.name} have an order that Python does not have")


def _check(schema: Any) -> None:
    if not isinstance(schema, dict):
        raise ValueError(f"a schema is {type(schema).__name__}")
    for keyword, value in schema.items():
        if not _is_sound(keyword, value):
            raise ValueError(f"{keyword} of a schema is {type(value).__name__}: {value!r:.80}")


def _is_sound(keyword: str, value: Any) -> bool:
    """Return whether *keyword* may have *value*; check the schemas in it."""
    if keyword in _NUMBERS:
        return _is_number(value)
    if keyword in _TEXTS:
        return isinstance(value, str)
    if keyword == "multipleOf":
        return _is_number(value) and value > 0
    if keyword == "type":
        return isinstance(value, str) or (_are_texts(value) and bool(value))
    if keyword == "required":
        return _are_texts(value)
    if keyword == "enum":
        return isinstance(value, list)
    if keyword in BY_NAME:
        parts = list(value.values()) if isinstance(value, dict) else None
    elif keyword in _UNIONS:
        parts = value or None
    elif keyword in _OTHERS:
        parts = value if keyword == "items" and isinstance(value, list) else [value]
        parts = [each for each in parts if not isinstance(each, bool)]
    else:
        parts = [value] if keyword == "propertyNames" else []
    for each in parts if isinstance(parts, list) else ():
        _check(each)
    return isinstance(parts, list)


def _is_number(value: Any) -> bool:
    """Return whether *value* is a finite number. Python reads also NaN, Infinity and 1e999."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)

"""
Turns JSON Schema 2020-12, which msgspec and pydantic write, into draft 07, which AsyncAPI has. Pure
functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .model import HIDDEN

__all__ = ["BY_NAME", "DATA", "draft07", "inside", "with_keywords"]

#: Keywords whose values are schemas by name.
BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
#: Keywords whose values are data, not schemas.
DATA = frozenset({"default", "enum", "const", "examples", "required", "example"})


def draft07(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return *schema* in draft 07."""
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in DATA:
            found.update(_data(keyword, value))
        elif keyword in BY_NAME:
            found[keyword] = {name: draft07(each) for name, each in value.items()}
        elif keyword == "discriminator" and isinstance(value, Mapping):
            found[keyword] = value["propertyName"]  # the members have its values as constants
        else:
            found[keyword] = _converted(value)
    if "prefixItems" in found:
        rest = found.pop("items", None)
        found["items"] = found.pop("prefixItems")
        if rest is not None:
            found["additionalItems"] = rest
        if not found["items"]:  # an empty tuple; draft 07 has no empty list there
            found["items"] = False
            found.pop("additionalItems", None)
    if "$ref" in found and len(found) > 1:  # draft 07 ignores what stands beside a reference
        reference = {"$ref": found.pop("$ref")}
        found = {"allOf": [reference, *found.pop("allOf", ())], **found}
    return found


def _data(keyword: str, value: Any) -> dict[str, Any]:
    """Return *keyword* with *value* as JSON has it: a tuple is a list, and infinity is no value."""
    try:
        return {keyword: json.loads(json.dumps(value, allow_nan=False))}
    except (TypeError, ValueError):
        return {HIDDEN: True} if keyword == "default" else {}


def _converted(value: Any) -> Any:
    if isinstance(value, list):
        return [_converted(each) for each in value]
    return draft07(value) if isinstance(value, Mapping) else value


def with_keywords(schema: dict[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return *schema* with more *keywords*."""
    return draft07({**schema, **keywords}) if keywords else schema


def inside(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """
    Yield the schemas directly inside *schema*, of draft 07 or 2020-12, each with its keyword; with
    the name of a field too, if it has one.
    """
    for keyword, value in schema.items():
        if keyword in BY_NAME and isinstance(value, Mapping):
            yield from ((keyword, name, each) for name, each in value.items() if _is_schema(each))
        elif keyword not in DATA:
            found = value if isinstance(value, list) else [value]
            yield from ((keyword, "", each) for each in found if _is_schema(each))


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict)

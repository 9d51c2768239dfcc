"""
Describes the arguments of a method as one JSON object, for tools that ask for them by name: each
member is an argument. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..wire.schemas import PREFIX
from .draft07 import BY_NAME, DATA
from .model import OfferedMethod, Schema

__all__ = ["arguments_of", "input_schema"]


def input_schema(method: OfferedMethod, schemas: Mapping[str, Schema]) -> Schema:
    """
    Return the schema of the object with the arguments of *method*, in JSON Schema 2020-12.

    ``*args`` is a member with a list. ``**kwargs`` lets the object have other members.
    """
    found: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
    for each in method.parameters:
        schema = _newest(each.schema)
        if each.kind == "var_keyword":
            found["additionalProperties"] = schema
        elif each.kind == "var_positional":
            found["properties"][each.name] = {"type": "array", "items": schema}
        else:
            found["properties"][each.name] = schema
    if required := [each.name for each in method.parameters if each.required]:
        found["required"] = required
    names = list(_references(found))
    parts: dict[str, Schema] = {}
    while names:
        name = names.pop()
        if name in schemas and name not in parts:
            parts[name] = _newest(schemas[name])
            names += _references(parts[name])
    return {**found, "$defs": dict(sorted(parts.items()))} if parts else found


def arguments_of(
    method: OfferedMethod, given: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """
    Return the positional and the keyword arguments of a call with the members of *given*. The
    service checks them.
    """
    rest = dict(given)
    args: list[Any] = []
    many = next((each.name for each in method.parameters if each.kind == "var_positional"), None)
    extra = rest.pop(many, []) if many is not None else []
    by_position = ("positional_only", "positional_or_keyword" if extra else "positional_only")
    for each in method.parameters:
        if each.kind in by_position:
            if each.name not in rest:
                break
            args.append(rest.pop(each.name))
    return (*args, *(extra if isinstance(extra, list) else [extra])), rest


def _newest(schema: Any) -> Any:
    """Return *schema*, in draft 07, as JSON Schema 2020-12 with ``$defs``."""
    if isinstance(schema, list):
        return [_newest(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found: Schema = {}
    for keyword, value in schema.items():
        if keyword == "$ref":
            found[keyword] = f"#/$defs/{str(value).removeprefix(PREFIX)}"
        elif keyword in BY_NAME and isinstance(value, dict):
            found[keyword] = {name: _newest(each) for name, each in value.items()}
        elif keyword == "items" and isinstance(value, list):
            found["prefixItems"] = _newest(value)
        elif keyword == "additionalItems":
            found["items"] = _newest(value)
        elif keyword != "discriminator":  # OpenAPI's; the members have its values
            found[keyword] = value if keyword in DATA else _newest(value)
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield str(schema["$ref"]).removeprefix("#/$defs/")
        for each in schema.values():
            yield from _references(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)

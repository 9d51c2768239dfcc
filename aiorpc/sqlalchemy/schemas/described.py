"""
Describes marshmallow's schemas as JSON Schemas, for contracts. Awaits nothing, and does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from marshmallow import RAISE, Schema, fields, missing

from .made import AnySchema, as_schema

__all__ = ["describe", "described_as", "may_be_none"]

_Direction: TypeAlias = Literal["dump", "load"]
_Json: TypeAlias = dict[str, Any]

#: The attribute of a method that ``aiorpc contract`` reads.
_SCHEMAS_OF = "__aiorpc_schemas__"
#: Levels of nested schemas; a schema may contain itself.
_DEPTH = 5

_TYPES: dict[type[fields.Field[Any]], _Json] = {
    fields.UUID: {"type": "string", "format": "uuid"},
    fields.Email: {"type": "string", "format": "email"},
    fields.Url: {"type": "string", "format": "uri"},
    fields.String: {"type": "string"},
    fields.Integer: {"type": "integer"},
    fields.Boolean: {"type": "boolean"},
    fields.NaiveDateTime: {"type": "string", "format": "date-time"},
    fields.DateTime: {"type": "string", "format": "date-time"},
    fields.Date: {"type": "string", "format": "date"},
    fields.Time: {"type": "string", "format": "time"},
    fields.TimeDelta: {"type": "number"},
    fields.Float: {"type": "number"},
    fields.Mapping: {"type": "object"},
}


def described_as(
    method: Callable[..., Any], schemas: Mapping[str, tuple[AnySchema, bool | None, bool]]
) -> None:
    """
    Let ``aiorpc contract`` describe arguments and the result of *method*.

    Args:
        schemas: by argument, or ``return``: the schema, ``many``, and whether ``None`` may stand in
            its place.
    """
    found = {
        name: partial(describe, schema, "dump" if name == "return" else "load", many, optional)
        for name, (schema, many, optional) in schemas.items()
    }
    setattr(method, _SCHEMAS_OF, {**getattr(method, _SCHEMAS_OF, {}), **found})


def may_be_none(method: Callable[..., Any]) -> bool:
    """Return whether the result of *method* is annotated with ``None``."""
    try:
        annotation = method.__annotations__.get("return")
    except NameError:  # Python 3.14 evaluates all annotations; a name may be undefined
        return False
    return bool(re.search(r"\bNone\b|\bOptional\b", str(annotation)))


def describe(
    schema: AnySchema, direction: _Direction, many: bool | None = None, optional: bool = False
) -> _Json:
    """
    Return the JSON Schema of what *schema* dumps or loads.

    Args:
        many: a list of objects; ``None``: the schema says it.
        optional: whether ``None`` may stand in its place.
    """
    made = as_schema(schema)
    found = _object(made, direction, _DEPTH)
    if made.many if many is None else many:
        found = {"type": "array", "items": found}
    return _optional(found) if optional else found


def _object(schema: Schema, direction: _Direction, depth: int) -> _Json:
    chosen = schema.dump_fields if direction == "dump" else schema.load_fields
    found: _Json = {"type": "object", "properties": {}}
    required = []
    for name, field in chosen.items():
        key = name if field.data_key is None else field.data_key
        found["properties"][key] = _of(field, direction, depth)
        if field.required or (direction == "dump" and _always_dumped(field, schema)):
            required.append(key)
    if required:
        found["required"] = required
    if direction == "load" and schema.unknown == RAISE:
        found["additionalProperties"] = False
    return found


def _always_dumped(field: fields.Field[Any], schema: Schema) -> bool:
    """
    Return whether a dump always has *field*. marshmallow leaves a field out if the object lacks
    its attribute or key. An object of a mapped class has all attributes.
    """
    of_mapped = getattr(schema.opts, "model", None) or getattr(schema.opts, "table", None)
    is_computed = isinstance(field, (fields.Method, fields.Function))
    return of_mapped is not None or is_computed or field.dump_default is not missing


def _of(field: fields.Field[Any], direction: _Direction, depth: int) -> _Json:
    found: _Json
    if isinstance(field, fields.Nested):
        found = {"type": "object"} if depth == 0 else _object(field.schema, direction, depth - 1)
        found = {"type": "array", "items": found} if field.many else found
    elif isinstance(field, fields.List):
        found = {"type": "array", "items": _of(field.inner, direction, depth)}
    elif isinstance(field, fields.Decimal):
        found = {"type": "string", "format": "decimal"} if field.as_string else {"type": "number"}
    elif isinstance(field, fields.Enum):
        members: dict[str, Any] = dict(getattr(field.enum, "__members__", {}))
        values = [each.value for each in members.values()] if field.by_value else list(members)
        found = {"enum": values}
    else:
        found = dict(next((_TYPES[kind] for kind in _TYPES if isinstance(field, kind)), {}))
    return _optional(found) if field.allow_none and found else found


def _optional(schema: _Json) -> _Json:
    return {"anyOf": [schema, {"type": "null"}]}

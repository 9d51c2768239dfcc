"""
Makes JSON Schemas of annotations, for documents that describe methods. Pure functions: nothing here
awaits or does I/O.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import inspect as shapes

from .described import Parameter
from .objects import fields_of

__all__ = ["PREFIX", "Schemas", "default_of"]

#: The beginning of each reference to a component.
PREFIX = "#/components/schemas/"
_ANYTHING = {"description": "Any value."}  # msgspec 0.23 refuses an empty schema of a hook


class Schemas:
    """
    The schemas of *types*, as JSON Schema 2020-12, and the ``components`` to which they refer.

    msgspec makes the schemas, and pydantic those of its models. If two classes have one name, their
    components have the names of their modules too.
    """

    def __init__(self, types: Iterable[Any]) -> None:
        every = [each for each in {id(each): each for each in types}.values() if _has_schema(each)]
        template = PREFIX + "{name}"
        # First without the models of pydantic: their names must not be those of other classes.
        _, self.components = msgspec.json.schema_components(
            every, ref_template=template, schema_hook=lambda kind: _ANYTHING
        )
        self._models: dict[str, Any] = {}
        schemas, components = msgspec.json.schema_components(
            every, ref_template=template, schema_hook=self._model
        )
        self.components = {**components, **self._models}
        seen: set[int] = set()
        for kind, schema in zip(every, schemas, strict=True):
            _add_formats(shapes.type_info(kind), schema, self.components, seen)
        self._by_type = {id(kind): schema for kind, schema in zip(every, schemas, strict=True)}
        self._types = every  # an id is that of a living object only

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of one of the types; an empty one if nobody can describe it."""
        return self._by_type.get(id(kind), {})

    def _model(self, kind: type) -> dict[str, Any]:
        describe = getattr(kind, "model_json_schema", None)
        if describe is None:  # object
            return _ANYTHING
        for prefix in ("", f"{kind.__module__}."):
            schema = describe(ref_template=f"{PREFIX}{prefix}{{model}}")
            parts = schema.pop("$defs", {})
            if "$ref" not in schema:  # a model that contains itself is one of its parts
                parts = {kind.__name__: schema, **parts}
            found = {prefix + name: part for name, part in parts.items()}
            if not any(self._is_taken(name, part) for name, part in found.items()):
                break
        self._models |= found
        return {"$ref": f"{PREFIX}{prefix}{kind.__name__}"}

    def _is_taken(self, name: str, schema: Any) -> bool:
        return name in self.components or self._models.get(name, schema) != schema


def _add_formats(
    shape: shapes.Type, schema: Any, components: Mapping[str, Any], seen: set[int]
) -> None:
    """
    Add the ``format`` of dates and times: msgspec 0.23 has none where no time zone is required.
    """
    if isinstance(shape, shapes.Metadata):
        _add_formats(shape.type, schema, components, seen)
    elif isinstance(shape, shapes.UnionType):
        for member in schema["anyOf"] if isinstance(schema, dict) and "anyOf" in schema else ():
            for each in shape.types:
                if _may_be(each, member):
                    _add_formats(each, member, components, seen)
    elif isinstance(schema, dict) and "$ref" in schema:
        name = schema["$ref"].removeprefix(PREFIX)
        _add_formats(shape, components.get(name), components, seen)
    elif isinstance(schema, dict) and id(schema) not in seen:
        seen.add(id(schema))  # a class may contain itself
        if isinstance(shape, shapes.DateTimeType | shapes.TimeType):
            is_time = isinstance(shape, shapes.TimeType)
            schema.setdefault("format", "time" if is_time else "date-time")
        for part, its_schema in _inside(shape, schema):
            _add_formats(part, its_schema, components, seen)


def _may_be(shape: shapes.Type, schema: Mapping[str, Any]) -> bool:
    """Return whether *schema*, of a member of a union, may be that of *shape*."""
    if isinstance(shape, shapes.DateTimeType | shapes.TimeType):  # a union has one kind of text
        return schema.get("type") == "string"
    if isinstance(shape, shapes.DictType):
        return schema.get("type") == "object"
    name = getattr(getattr(shape, "cls", None), "__name__", None)
    if name is None:
        return schema.get("type") == "array"
    return bool(str(schema.get("$ref", "")).rpartition(".")[2].endswith(name))


def _inside(shape: Any, schema: Mapping[str, Any]) -> Iterable[tuple[shapes.Type, Any]]:
    if isinstance(shape, shapes.TupleType):
        return zip(shape.item_types, schema.get("prefixItems", ()), strict=False)
    if isinstance(shape, shapes.DictType):
        return [(shape.value_type, schema.get("additionalProperties"))]
    if hasattr(shape, "item_type"):
        return [(shape.item_type, schema.get("items"))]
    properties = schema.get("properties")
    if properties is None:  # an array-like class; its tag comes first
        parts = schema.get("prefixItems", ())
        fields = getattr(shape, "fields", ())
        return zip((each.type for each in fields), parts[len(parts) - len(fields) :], strict=False)
    return [(each.type, properties.get(each.encode_name)) for each in getattr(shape, "fields", ())]


def _has_schema(kind: Any) -> bool:
    try:
        msgspec.json.schema_components([kind], schema_hook=lambda kind: _ANYTHING)
    except Exception:  # noqa: BLE001 - for example the default of a field, which may be any object
        return False
    return True


def default_of(parameter: Parameter) -> Mapping[str, Any]:
    """Return the ``default`` of the schema of *parameter*, if JSON has the value."""
    if parameter.default is inspect.Parameter.empty:
        return {}
    try:
        return {"default": msgspec.to_builtins(parameter.default, enc_hook=fields_of)}
    except Exception:  # noqa: BLE001 - a value that JSON has not, such as a marker
        return {}

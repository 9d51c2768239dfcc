"""
Takes secret defaults out of schemas. Pure functions; they change the schemas that they get.

The code has the default of a sensitive argument, but other teams, agents and browsers read a
contract. A schema whose default is hidden says so (``HIDDEN``): the value is still optional.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from ..config.redaction import redact
from ..declarations import argument_path
from ..wire.schemas import PREFIX
from .draft07 import inside
from .model import HIDDEN, Contract, Schema, named_schemas

__all__ = ["Place", "hide_by_name", "hide_declared", "hide_defaults", "places_of"]

#: A schema, with the path to a sensitive part of its value; an empty path is the whole value.
Place: TypeAlias = tuple[Schema, Sequence[str]]

#: Keywords whose schemas describe the value itself, not a part of it.
_SAME = frozenset({"allOf", "anyOf", "oneOf"})
_LISTS = frozenset({"items", "prefixItems", "additionalItems"})


def hide_declared(contract: Contract) -> None:
    """Hide the defaults of the arguments, and of the parts of arguments, that are sensitive."""
    places: list[Place] = []
    for service in contract.services.values():
        for each in service.offered:
            by_name = {argument.name: argument.schema for argument in each.parameters}
            rest = [one.schema for one in each.parameters if one.kind == "var_keyword"]
            places += places_of(each.sensitive, by_name, rest[0] if rest else None)
        for message in service.queues:
            places += [(message.payload, argument_path(name)[1:]) for name in message.sensitive]
    hide_defaults(places, (schema for _, schema in named_schemas(contract)), contract.schemas)


def places_of(
    sensitive: Iterable[str], by_name: Mapping[str, Schema], others: Schema | None
) -> Iterator[Place]:
    """
    Yield the places of *sensitive* arguments.

    Args:
        by_name: the schemas of the arguments.
        others: the schema of each argument with another name (``**options``); ``None``: none has.
    """
    for path in map(argument_path, sensitive):
        schema = by_name.get(path[0], others) if path else None  # a foreign one may have any text
        if schema is not None:
            yield schema, path[1:]


def hide_defaults(
    places: Collection[Place],
    every: Iterable[Schema],
    schemas: Mapping[str, Schema],
) -> None:
    """
    Hide the defaults at *places*: on the way along a path, at its end, and below.

    Args:
        every: all schemas that may repeat such a default inside a larger one.
        schemas: the named ones, to which the others refer.
    """
    walk = _Walk(schemas)
    for schema, path in places:
        walk.hide(schema, tuple(path))
    for schema in (*every, *schemas.values()) if places else ():
        for _, part in _parts("", schema):
            if "default" in part and walk.is_hidden_in(part):
                _hide(part)


def hide_by_name(contract: Contract) -> None:
    """Hide the defaults that logs mask: those of a ``password``, and passwords inside of URLs."""
    for start, schema in named_schemas(contract):
        for name, part in _parts(start, schema):
            if "default" in part and redact(name, part["default"]) != part["default"]:
                _hide(part)


class _Walk:
    """Follows paths through *schemas*."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self._done: set[tuple[str, tuple[str, ...]]] = set()

    def hide(self, schema: Schema, path: tuple[str, ...]) -> None:
        """Hide the defaults of *schema* on the way along *path*, at its end, and below."""
        _hide(schema)
        name = _reference(schema)
        if name in self._schemas and (name, path) not in self._done:  # a class may contain itself
            self._done.add((name, path))
            self.hide(self._schemas[name], path)
        parts = list(inside(schema))
        fields = {_plain(field) for keyword, field, _ in parts if keyword == "properties"}
        if path and fields and _plain(path[0]) not in fields:
            path = ()  # the field has another name on the wire: it may be each of them
        for keyword, field, part in parts:
            if keyword in _SAME:
                self.hide(part, path)
            elif keyword in _LISTS:  # an index, or none: `lines[0].card`, `lines.card`
                self.hide(part, path[1:] if path and path[0].isdigit() else path)
            elif keyword != "properties" or not path or _plain(field) == _plain(path[0]):
                self.hide(part, path[1:])

    def is_hidden_in(self, schema: Schema, seen: frozenset[str] = frozenset()) -> bool:
        """Return whether a default is hidden in *schema* or in what it refers to."""
        name = _reference(schema)
        if name in self._schemas and name not in seen:
            return self.is_hidden_in(self._schemas[name], seen | {name})
        return HIDDEN in schema or any(
            self.is_hidden_in(part, seen) for _, _, part in inside(schema)
        )


def _hide(schema: Schema) -> None:
    """Hide the default of *schema*. One that is empty, true or false tells nothing."""
    if "default" in schema:
        value = schema["default"]
        if value is not None and not isinstance(value, bool) and value not in ("", [], (), {}):
            del schema["default"]
            schema[HIDDEN] = True


def _reference(schema: Schema) -> str:
    return str(schema.get("$ref", "")).removeprefix(PREFIX)


def _plain(field: str) -> str:
    """Return *field* as both ``zip_code`` and ``zipCode`` are written."""
    return field.replace("_", "").lower()


def _parts(name: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield *schema* and all schemas in it, each with the name of its argument or field."""
    yield name, schema
    for keyword, field, part in inside(schema):
        yield from _parts(field if keyword == "properties" else name, part)

"""
Compares JSON Schemas: is each value that one side sends a value that the other side takes? Pure
functions.

The *sent* schema is the old one for arguments (callers send as before) and the new one for results
(callers read as before). Constraints, such as ``minimum``, count as part of the type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from math import ceil, floor
from typing import Any, Literal, TypeAlias

import msgspec

from ..wire.schemas import PREFIX
from .model import HIDDEN, Schema

__all__ = ["Change", "Comparison", "shown"]

_Kind: TypeAlias = Literal["type", "enum", "deleted", "required", "optional"]

#: Keywords that say nothing about values.
_NOTES = frozenset(
    {"title", "description", "default", HIDDEN, "examples", "deprecated", "discriminator"}
)
#: Formats of text that are types of their own on aiorpc's wire.
_TYPES = frozenset({"date-time", "date", "time", "duration", "uuid", "decimal", "binary"})
_LOWER = ("minLength", "minItems", "minProperties")
_UPPER = ("maxLength", "maxItems", "maxProperties")
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_SHOWN = (*_BOUNDS, *_LOWER, *_UPPER, "pattern", "multipleOf", "contentEncoding")
_NO = float("inf")
#: All values of a type that has few.
_FEW: Mapping[str, list[Any]] = {"null": [None], "boolean": [False, True]}
#: The schemas of any value and of any text. Their ids stay.
_ANY: Schema = {}
_TEXT: Schema = {"type": "string"}
#: Characters of a type in a text.
_LONGEST = 80


class Change(msgspec.Struct, frozen=True):
    """
    A place at which a value that is sent may not be taken.

    Attributes:
        path: from the compared schemas: ``.lines[].product``; empty for themselves.
        sent, taken: the types of the two sides, in words.
    """

    path: str
    kind: _Kind
    sent: str
    taken: str


class Comparison:
    """
    Compares schemas of two contracts.

    Args:
        sent, taken: the named schemas of each side.
        is_result: whether the service sends (a result, an event); else callers do (arguments).
        unknown_fits: whether an unknown type, which has an empty schema, fits every other.
        drops: whether a field that is not taken may be dropped: nobody wants it back.
    """

    def __init__(
        self,
        sent: Mapping[str, Schema],
        taken: Mapping[str, Schema],
        *,
        is_result: bool,
        unknown_fits: bool = False,
        drops: bool = False,
    ) -> None:
        self._sent, self._taken = sent, taken
        self._is_result, self._drops = is_result, drops
        self._unknown_fits = unknown_fits
        #: The changes of pairs of schemas, which are parts of the contracts: by name, else by id.
        self._known: dict[tuple[str | int, str | int], list[Change]] = {}
        #: The fields of the classes that are being compared. A class may contain itself.
        self._open: set[tuple[int, int]] = set()

    def changes(self, sent: Any, taken: Any, path: str = "") -> list[Change]:
        """Return where values of *sent* do not fit *taken*."""
        pair = _name_of(sent) or id(sent), _name_of(taken) or id(taken)
        if pair not in self._known:
            self._known[pair] = []  # while it is compared
            self._known[pair] = self._compare(sent, taken)
        found = self._known[pair]
        if not path:
            return found
        return [msgspec.structs.replace(each, path=f"{path}{each.path}") for each in found]

    def _compare(self, sent: Any, taken: Any) -> list[Change]:
        givers = list(_alternatives(sent, self._sent))
        takers = list(_alternatives(taken, self._taken))
        everything = [_change("", "type", sent, taken)]
        if any(_is_any(each) for each in takers):
            return []
        if any(_is_any(each) for each in givers):
            return [] if self._unknown_fits else everything
        found: list[Change] = []
        for each in givers:
            rivals = [other for other in takers if _kind_of(each) in _kinds_taken(other)]
            tried = [self._one(each, other, "") for other in rivals]
            if [] in tried:
                continue
            same = [one.get("title") == each.get("title") for one in rivals]
            if not tried or (len(takers) > 1 and True not in same and "title" in each):
                return everything
            found += min(zip(same, tried, strict=True), key=_distance)[1]
        return list(dict.fromkeys(found))

    def _one(self, sent: Schema, taken: Schema, path: str) -> list[Change]:
        """Compare two alternatives of one kind."""
        if (values := _values(taken)) is not None:
            given = _values(sent) or _FEW.get(_kind_of(sent))
            if given is None or any(each not in values for each in given):
                return [_change(path, "enum", sent, taken)]
            return []
        given = _values(sent)
        fits = all(_fits(each, taken) for each in given) if given else _constraints_fit(sent, taken)
        if not fits:
            return [_change(path, "type", sent, taken)]
        kind = _kind_of(sent)
        if kind == "object":
            return self._classes(sent, taken, path)
        return self._arrays(sent, taken, path) if kind == "array" else []

    def _classes(self, sent: Schema, taken: Schema, path: str) -> list[Change]:
        if not (sent.get("properties") and taken.get("properties")):
            return list(self._objects(sent, taken, path))
        pair = id(sent["properties"]), id(taken["properties"])
        if pair in self._open:
            return []
        self._open.add(pair)
        found = list(self._objects(sent, taken, path))
        self._open.discard(pair)
        return found

    def _arrays(self, sent: Schema, taken: Schema, path: str) -> list[Change]:
        given, wanted = sent.get("items", _ANY), taken.get("items", _ANY)
        if isinstance(given, list):
            rest = taken.get("additionalItems", _ANY) if isinstance(wanted, list) else wanted
            places = zip_longest(given, wanted[: len(given)] if rest is not wanted else ())
            pairs = [
                (each, rest if other is None else other, f"[{at}]")
                for at, (each, other) in enumerate(places)
            ]
        elif isinstance(wanted, list):
            return [_change(path, "type", sent, taken)]
        else:
            pairs = [(given, wanted, "[]")]
        return [
            each for one, other, at in pairs for each in self.changes(one, other, f"{path}{at}")
        ]

    def _objects(self, sent: Schema, taken: Schema, path: str) -> Iterator[Change]:
        given, wanted = sent.get("properties", {}), taken.get("properties", {})
        others_sent = sent.get("additionalProperties", _ANY if not given else False)
        others_taken = taken.get("additionalProperties", _ANY)
        required = {*taken.get("required", ())}
        if required and not given:  # a mapping is no object with fields
            yield _change(path, "type", sent, taken)
            return
        for name in sorted({*given, *wanted}):
            place = f"{path}.{name}"
            if name not in given:
                if self._is_result:
                    yield Change(place, "deleted", "absent", shown(wanted[name]))
                elif name in required:
                    yield Change(place, "required", "absent", f"required {shown(wanted[name])}")
                elif others_sent is not False:  # a mapping may have it
                    yield from self.changes(_schema(others_sent), wanted[name], place)
            elif name in wanted:
                if self._is_present(name, taken) and not self._is_present(name, sent):
                    kind: _Kind = "optional" if self._is_result else "required"
                    yield Change(place, kind, "optional", "required")
                yield from self.changes(given[name], wanted[name], place)
            elif wanted or others_taken is False:
                if not self._is_result and not (self._drops and others_taken is not False):
                    yield Change(place, "deleted", shown(given[name]), "absent")
            else:
                yield from self.changes(given[name], _schema(others_taken), place)
        if others_sent is not False and others_taken is not False and not wanted:
            yield from self.changes(_schema(others_sent), _schema(others_taken), f"{path}[...]")
        if "propertyNames" in taken and not given:
            names = sent.get("propertyNames", _TEXT)
            yield from self.changes(names, taken["propertyNames"], f"{path}[key]")

    def _is_present(self, name: str, schema: Schema) -> bool:
        """Return whether the field is always there: a service also sends fields with a default."""
        if name in schema.get("required", ()):
            return True
        return self._is_result and bool({"default", HIDDEN} & {*schema["properties"][name]})


def _distance(tried: tuple[bool, list[Change]]) -> tuple[bool, int]:
    """Return how far an alternative is, whether it has the same title, and its changes."""
    has_same_title, changes = tried
    return not has_same_title, len(changes)


def _change(path: str, kind: _Kind, sent: Any, taken: Any) -> Change:
    return Change(path, kind, shown(sent), shown(taken))


def _schema(value: Any) -> Schema:
    return value if isinstance(value, dict) else _ANY


def _name_of(schema: Any) -> str:
    reference = schema.get("$ref", "") if isinstance(schema, dict) else ""
    return str(reference).removeprefix(PREFIX)


def _alternatives(schema: Any, schemas: Mapping[str, Schema], depth: int = 20) -> Iterator[Schema]:
    """Yield the schemas, without references, of which a value has one."""
    if not isinstance(schema, dict) or depth == 0:
        if schema is not False:
            yield {}
        return
    if "$ref" in schema:
        yield from _alternatives(schemas.get(_name_of(schema), {}), schemas, depth - 1)
    elif "allOf" in schema:
        beside = {name: value for name, value in schema.items() if name != "allOf"}
        for first in _alternatives(schema["allOf"][0], schemas, depth - 1):
            merged = {**first, **beside}
            for each in schema["allOf"][1:]:
                merged |= next(_alternatives(each, schemas, depth - 1), {})
            yield merged
    elif found := schema.get("anyOf") or schema.get("oneOf"):
        for each in found:
            yield from _alternatives(each, schemas, depth - 1)
    elif isinstance(schema.get("type"), list):
        for kind in schema["type"]:
            yield {**schema, "type": kind}
    elif "type" not in schema and (values := _values(schema)) is not None:
        for kind in sorted({_json_kind(each) for each in values}):
            of_kind = [each for each in values if _json_kind(each) == kind]
            yield {**schema, "type": kind, "enum": of_kind}
    else:
        yield schema


def _is_any(schema: Schema) -> bool:
    return not {*schema} - _NOTES


def _values(schema: Schema) -> list[Any] | None:
    """Return the values of an enumeration; ``None`` for another schema."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _json_kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


def _kind_of(schema: Schema) -> str:
    if "type" in schema:
        return str(schema["type"])
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _kinds_taken(schema: Schema) -> tuple[str, ...]:
    kind = _kind_of(schema)
    return ("number", "integer") if kind == "number" else (kind,)


def _constraints_fit(sent: Schema, taken: Schema) -> bool:
    formats = sent.get("format"), taken.get("format")
    if formats[0] != formats[1] and ({*formats} & _TYPES or formats[1] is not None):
        return False
    if sent.get("contentEncoding") != taken.get("contentEncoding"):  # bytes and text
        return False
    (lowest, highest), (lower, upper) = _bounds(sent), _bounds(taken)
    return (
        lowest >= lower
        and highest <= upper
        and all(sent.get(each, 0) >= taken.get(each, 0) for each in _LOWER)
        and all(sent.get(each, _NO) <= taken.get(each, _NO) for each in _UPPER)
        and ("pattern" not in taken or sent.get("pattern") == taken["pattern"])
        and _is_multiple(sent.get("multipleOf"), taken.get("multipleOf"))
    )


def _fits(value: Any, taken: Schema) -> bool:
    """Return whether a *value* of an enumeration has what *taken*, of its type, asks for."""
    if isinstance(value, str):
        least, most = taken.get("minLength", 0), taken.get("maxLength", _NO)
        return least <= len(value) <= most and not {"pattern", "format", "contentEncoding"} & {
            *taken
        }
    if isinstance(value, int | float) and not isinstance(value, bool):
        lower, upper = _bounds(taken)
        return lower <= (value, 0.0) <= upper and value % taken.get("multipleOf", value or 1) == 0
    return True


_Bound: TypeAlias = tuple[float, float]


def _bounds(schema: Schema) -> tuple[_Bound, _Bound]:
    """Return the least and the largest value. The second number says on which side they stay."""
    lowest, highest = (schema.get("minimum", -_NO), 0.0), (schema.get("maximum", _NO), 0.0)
    is_whole = schema.get("type") == "integer"
    if (above := schema.get("exclusiveMinimum")) is not None:
        lowest = max(lowest, (floor(above) + 1, 0.0) if is_whole else (above, 1.0))
    if (below := schema.get("exclusiveMaximum")) is not None:
        highest = min(highest, (ceil(below) - 1, 0.0) if is_whole else (below, -1.0))
    return lowest, highest


def _is_multiple(sent: float | None, taken: float | None) -> bool:
    if taken is None or sent == taken:
        return True
    return sent is not None and sent % taken == 0


def shown(schema: Any) -> str:
    """Return *schema* in a few words."""
    text = _words(schema)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _words(schema: Any) -> str:
    if not isinstance(schema, dict) or _is_any(schema):
        return "any value"
    if "$ref" in schema:
        return _name_of(schema)
    if found := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_words, found))
    if "allOf" in schema:
        return " and ".join(map(_words, schema["allOf"]))
    if (values := _values(schema)) is not None:
        return " | ".join(map(repr, values))
    kind = _kind_of(schema)
    limits = [f"{each} {schema[each]}" for each in _SHOWN if each in schema]
    if kind == "array":
        items = schema.get("items", {})
        if isinstance(items, list):
            return f"tuple of {', '.join(map(_words, items))}"
        text = f"list of {_words(items)}"
    elif kind == "object" and schema.get("properties"):
        text = str(schema.get("title") or f"object with {', '.join(schema['properties'])}")
    elif kind == "object":
        text = f"mapping to {_words(schema.get('additionalProperties'))}"
    else:
        text = str(schema.get("format") or kind)
    return f"{text} ({', '.join(limits)})" if limits else text

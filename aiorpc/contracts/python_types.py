"""
Writes JSON Schemas as Python types: annotations, dataclasses, TypedDicts, Structs. Pure functions.

A contract may come from another team, or from a message. So every name is checked before it becomes
code, and every other text becomes a literal.
"""

from __future__ import annotations

import builtins
import json
import keyword
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..wire.schemas import PREFIX
from .draft07 import inside
from .model import Schema

__all__ = ["Types", "class_name", "code_of", "docstring", "is_name", "literal", "references_in"]

_MODULES = {
    "Any": "typing",
    "AsyncIterator": "collections.abc",
    "Decimal": "decimal",
    "Literal": "typing",
    "NotRequired": "typing",
    "Protocol": "typing",
    "TypeAlias": "typing",
    "TypedDict": "typing",
    "UUID": "uuid",
    "dataclass": "dataclasses",
    "date": "datetime",
    "datetime": "datetime",
    "field": "dataclasses",
    "time": "datetime",
    "timedelta": "datetime",
}
_FORMATS = {
    "date-time": "datetime",
    "date": "date",
    "time": "time",
    "duration": "timedelta",
    "uuid": "UUID",
    "decimal": "Decimal",
}
_SIMPLE = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_RESERVED = frozenset({*_MODULES, *dir(builtins), "msgspec", "annotations", "SERVICE"})
#: Levels of types inside types, without names.
_DEPTH = 50


def is_name(text: Any) -> bool:
    """Return whether *text* can be a name in Python."""
    if not (isinstance(text, str) and text.isidentifier() and not keyword.iskeyword(text)):
        return False
    return unicodedata.normalize("NFKC", text) == text  # else Python reads another name


def class_name(text: str) -> str:
    """Return the name of a class for *text*: ``tea_shop`` gives ``TeaShop``."""
    words = [each for each in re.split(r"[\W_]+", unicodedata.normalize("NFKC", text)) if each]
    name = "".join(each[0].upper() + each[1:] for each in words)
    return name if name.isidentifier() else f"Of{re.sub('[^0-9A-Za-z]', '', name)}"


class Types:
    """
    The types that a module needs.

    Args:
        schemas: the named schemas of the contract.
        others: all other schemas that need a type.
        taken: names of methods. A type with such a name gets another one.
    """

    def __init__(
        self, schemas: Mapping[str, Schema], others: Iterable[Schema], taken: Iterable[str]
    ) -> None:
        self._schemas = schemas
        every = [part for each in (*schemas.values(), *others) for part in _parts(each)]
        fields = {each for part in every for each in part.get("properties", {})}
        #: Names inside classes, which hide the types of the same names.
        self._shadowed = {*taken, *fields}
        self._names: dict[str, str] = {}
        self._used: set[str] = set()
        self._classes: dict[str, str] = {}
        self._aliases: list[str] = []
        self._tags = dict(_tags_in(every, schemas))
        self._untagged = {*_untagged_in(every, schemas)}

    def definitions(self) -> list[str]:
        """Return the texts of the classes, then of the aliases, which Python evaluates at once."""
        return [*filter(None, self._classes.values()), *self._aliases]

    def use(self, name: str) -> str:
        """Return how the module names *name*, a type of Python."""
        self._used.add(name)
        return f"_{name}" if name in self._shadowed else name

    def imports(self) -> list[str]:
        """Return the lines that import what was used."""
        by_module: dict[str, list[str]] = {}
        for name in sorted(self._used & {*_MODULES}):
            shown = f"{name} as {self.use(name)}" if name in self._shadowed else name
            by_module.setdefault(_MODULES[name], []).append(shown)
        lines = [f"from {each} import {', '.join(by_module[each])}" for each in sorted(by_module)]
        if "msgspec" in self._used:
            name = self.use("msgspec")
            lines += ["", "import msgspec" if name == "msgspec" else f"import msgspec as {name}"]
        shadowed = sorted(self._used & self._shadowed - {*_MODULES, "msgspec"})
        return [*lines, *([""] if shadowed else []), *(f"_{name} = {name}" for name in shadowed)]

    def named(self, wanted: str) -> str:
        """Return *wanted*, or a name like it that no other class, method or field has."""
        name = class_name(wanted)
        while name in _RESERVED or name in self._shadowed or name in self._classes:
            name += "_"
        self._classes[name] = ""  # taken from now on
        return name

    def of(self, schema: Any, place: str, depth: int = _DEPTH) -> str:
        """
        Return the annotation for *schema*.

        Args:
            place: names the class of an object that has no name.
        """
        if not isinstance(schema, dict) or depth == 0:
            return self.use("Any")
        if "$ref" in schema:
            return self._named_schema(str(schema["$ref"]).removeprefix(PREFIX))
        if len(parts := schema.get("allOf", ())) == 1:
            return self.of(parts[0], place, depth - 1)
        if members := schema.get("anyOf") or schema.get("oneOf"):
            return self._union([self.of(each, place, depth - 1) for each in members])
        if (values := _values(schema)) is not None:
            return self._literal(values)
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._union(
                [self.of({**schema, "type": each}, place, depth - 1) for each in kind]
            )
        if kind == "string" or "format" in schema:
            bytes_ = "bytes" if schema.get("contentEncoding") == "base64" else "str"
            return self.use(_FORMATS.get(schema.get("format", ""), bytes_))
        if kind == "array":
            return self._array(schema, place, depth)
        if kind == "object" or "properties" in schema:
            return self._object(schema, place, depth)
        simple = _SIMPLE.get(str(kind))
        return simple if simple == "None" else self.use(simple or "Any")

    def _union(self, members: Iterable[str]) -> str:
        found = list(dict.fromkeys(members))
        if anything := [each for each in found if each in ("Any", "_Any")]:
            return anything[0]
        return " | ".join(sorted(found, key=lambda each: each == "None"))

    def _literal(self, values: list[Any]) -> str:
        if values and all(each is None or isinstance(each, (str, int, bool)) for each in values):
            return f"{self.use('Literal')}[{', '.join(map(code_of, values))}]"
        kinds = {type(each).__name__ for each in values}
        return self.use("float") if kinds <= {"float", "int"} else self.use("Any")

    def _array(self, schema: Schema, place: str, depth: int) -> str:
        items = schema.get("items", {})
        if isinstance(items, list):
            parts = [self.of(each, f"{place}_{n}", depth - 1) for n, each in enumerate(items)]
            return f"{self.use('tuple')}[{', '.join(parts) or '()'}]"
        inner = self.of(items, f"{place}_item", depth - 1)
        return f"{self.use(_list_or_set(schema))}[{inner}]"

    def _object(self, schema: Schema, place: str, depth: int) -> str:
        if schema.get("properties"):
            name = self.named(place)
            self._classes[name] = self._class(name, schema, "", depth)
            return name
        values = self.of(schema.get("additionalProperties", {}), f"{place}_value", depth - 1)
        return f"{self.use('dict')}[{self.use('str')}, {values}]"

    def _named_schema(self, key: str) -> str:
        if key not in self._schemas:
            return self.use("Any")
        if key not in self._names:
            schema = self._schemas[key]
            name = self._names[key] = self.named(_title_of(key, schema))
            if schema.get("properties"):
                self._classes[name] = self._class(name, schema, key, _DEPTH)
            else:
                inner = self.of(schema, key)
                quoted = code_of(inner) if name in re.findall(r"\w+", inner) else inner
                self._aliases.append(f"{name}: {self.use('TypeAlias')} = {quoted}")
        return self._names[key]

    def _class(self, name: str, schema: Schema, key: str, depth: int) -> str:
        """Return the text of the class for an object with fields."""
        tag_field, tag = self._tags.get(key, ("", ""))
        fields = {each: part for each, part in schema["properties"].items() if each != tag_field}
        types = {each: self.of(fields[each], f"{name}_{each}", depth - 1) for each in fields}
        required = {*schema.get("required", ())} & {*fields}
        defaults = {each: self._default(fields[each]) for each in fields if each not in required}
        docs = docstring(schema.get("description"), 1)
        can_be_class = all(map(is_name, types)) and None not in defaults.values()
        if key in self._untagged or not can_be_class:
            return self._typed_dict(name, types, required, docs)
        if tag_field:
            options = f"kw_only=True, tag_field={code_of(tag_field)}, tag={code_of(tag)}"
            head = [f"class {name}({self.use('msgspec')}.Struct, {options}):"]
        else:
            head = [f"@{self.use('dataclass')}(kw_only=True)", f"class {name}:"]
        lines = [
            f"    {each}: {kind}" + (f" = {defaults[each]}" if each in defaults else "")
            for each, kind in types.items()
        ]
        return "\n".join([*head, *_spaced(docs), *(lines or ["    pass"])])

    def _typed_dict(
        self, name: str, types: Mapping[str, str], required: set[str], docs: list[str]
    ) -> str:
        optional = self.use("NotRequired") if {*types} - required else ""
        shown = {
            each: kind if each in required else f"{optional}[{kind}]"
            for each, kind in types.items()
        }
        base = self.use("TypedDict")
        if all(map(is_name, types)):
            lines = [f"    {each}: {kind}" for each, kind in shown.items()]
            return "\n".join([f"class {name}({base}):", *_spaced(docs), *lines])
        lines = [f"        {code_of(each)}: {code_of(kind)}," for each, kind in shown.items()]
        head = [f"{name} = {base}(", f"    {code_of(name)},"]
        return "\n".join([*head, "    {", *lines, "    },", ")"])

    def _default(self, schema: Schema) -> str | None:
        """Return the default of a field as code; ``None``: there is none that Python can have."""
        if "default" not in schema:
            return None
        value = schema["default"]
        if value in ([], {}):
            kind = _list_or_set(schema) if value == [] else "dict"
            return f"{self.use('field')}(default_factory={self.use(kind)})"
        return literal(value, schema)


def _title_of(key: str, schema: Schema) -> str:
    """Return the name of a class, without modules. In its *key*, msgspec replaces letters by _."""
    title = schema.get("title")
    replaced = re.sub(r"[^a-zA-Z0-9.\-_]", "_", title) if isinstance(title, str) else "."
    numbered = (key, re.sub(r"_\d+$", "", key))  # two classes whose letters are replaced alike
    is_name = any(f".{each}".endswith(f".{replaced}") for each in numbered)
    return re.sub(r"(\w+\.)+", "", str(title) if is_name else key)  # Page[shop.Line]


def _list_or_set(schema: Schema) -> str:
    items = schema.get("items")
    kind = items.get("type") if isinstance(items, dict) else None
    return "set" if schema.get("uniqueItems") and kind in ("string", "integer") else "list"


def code_of(value: Any) -> str:
    """Return a plain *value* as code, with double quotes as formatters write them."""
    if isinstance(value, str) and value.isprintable():
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def literal(value: Any, schema: Schema) -> str | None:
    """Return *value*, a default of *schema*, as code; ``None`` if it is not plain."""
    if value is None or isinstance(value, bool):
        return repr(value)
    kinds = str(schema)
    if isinstance(value, (int, float, str)) and "'format'" not in kinds and "Encoding" not in kinds:
        return code_of(value) if value == value and abs(_number(value)) != float("inf") else None
    return None


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else 0


def docstring(text: Any, level: int, more: Iterable[str] = ()) -> list[str]:
    """Return the lines of a docstring; none for no text."""
    given = text.splitlines() if isinstance(text, str) else []
    lines = [re.sub(r"[\x00-\x1f\x7f]", " ", each.rstrip()) for each in given]
    found = [*lines, *([""] if lines and more else []), *more]
    if not any(found):
        return []
    escaped = [each.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for each in found]
    if escaped[-1].endswith('"'):
        escaped[-1] += " "
    pad = "    " * level
    if len(escaped) == 1:
        return [f'{pad}"""{escaped[0]}"""']
    return [
        f'{pad}"""{escaped[0]}',
        *(f"{pad}{each}".rstrip() for each in escaped[1:]),
        f'{pad}"""',
    ]


def _spaced(docs: list[str]) -> list[str]:
    return [*docs, ""] if docs else []


def _values(schema: Schema) -> list[Any] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def _parts(schema: Schema) -> Iterator[Schema]:
    """Yield *schema* and all schemas inside it."""
    yield schema
    for _, _, each in inside(schema):
        yield from _parts(each)


def _tags_in(
    parts: Iterable[Schema], schemas: Mapping[str, Schema]
) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Yield the classes that a tag tells apart, with the field and the value of the tag."""
    for part in parts:
        field = part.get("discriminator")
        if not isinstance(field, str):
            continue
        for key in _references(part):
            values = _values(schemas.get(key, {}).get("properties", {}).get(field, {}))
            if values and isinstance(values[0], (str, int)):
                yield key, (field, values[0])


def _untagged_in(parts: Iterable[Schema], schemas: Mapping[str, Schema]) -> Iterator[str]:
    """Yield the classes of unions that nothing tells apart: msgspec has no such union."""
    for part in parts:
        if not isinstance(part.get("discriminator"), str):
            objects = [
                each for each in _references(part) if schemas.get(each, {}).get("properties")
            ]
            if len(objects) > 1:
                yield from objects


def references_in(schema: Schema) -> Iterator[str]:
    """Yield the names of the schemas to which *schema* refers."""
    for part in _parts(schema):
        if "$ref" in part:
            yield str(part["$ref"]).removeprefix(PREFIX)


def _references(union: Schema) -> list[str]:
    """Return the names of the schemas that are members of *union*."""
    members = union.get("anyOf") or union.get("oneOf")
    return [
        str(each["$ref"]).removeprefix(PREFIX)
        for each in (members if isinstance(members, list) else ())
        if isinstance(each, dict) and "$ref" in each
    ]

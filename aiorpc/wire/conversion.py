"""
Converts one value to its annotated type, for :mod:`aiorpc.wire.arguments`. Pure functions: nothing
here awaits or does I/O.

msgspec does most of the conversion. This module adds features that msgspec lacks: kombu's old form
of dates, durations in seconds, pydantic models, and errors that name the place without showing the
value.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import inspect
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import inspect as shapes

__all__ = ["Converter", "Unfit", "Unsupported", "converter_of"]


class Unsupported(Exception):
    """msgspec does not support an annotation; the text says why."""


def converter_of(
    name: str, expected: Any, *, strict: bool, base64: bool = False
) -> Converter | None:
    """
    Return the converter for values of the type *expected*; ``None`` if every value passes.

    Args:
        base64: whether bytes are text in base64, as in JSON without kombu's envelopes.

    Raises:
        Unsupported: msgspec does not support *expected*.
    """
    if expected is Any or expected is object:
        return None
    try:
        shape = shapes.type_info(expected)
    except Exception as exc:
        raise Unsupported(f"its annotation {_type_name(expected)} is unsupported: {exc}") from exc
    if isinstance(shape, shapes.AnyType):
        return None
    for part in _parts(shape):
        if (
            isinstance(part, shapes.CustomType)
            and part.cls is not object
            and not hasattr(part.cls, "model_validate")
        ):
            raise Unsupported(
                f"its annotation {_type_name(expected)} is unsupported: {_type_name(part.cls)} is "
                "neither a dataclass, a Struct, a pydantic model nor a type that msgspec knows"
            )
    return Converter(name, expected, shape, strict, () if base64 else _BYTES)


def _parts(shape: shapes.Type) -> Iterator[shapes.Type]:
    """Yield *shape* and all shapes inside it, each once, because a type may contain itself."""
    left: list[Any] = [shape]
    seen: set[int] = set()
    while left:
        part = left.pop(0)
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        inner = ("type", "item_type", "key_type", "value_type")
        left += [getattr(part, attribute, None) for attribute in inner]
        left += getattr(part, "types", ())
        left += getattr(part, "item_types", ())
        left += [field.type for field in getattr(part, "fields", ())]


class Unfit(Exception):
    """A value does not fit its annotation. The text is the end of "argument 'x' ..."."""


class Converter:
    """Converts values to the type of one annotation."""

    __slots__ = (
        *("_dataclasses", "_decoded", "_expected", "_has_wire_forms", "_shape", "_strict"),
        *("exact", "name"),
    )

    def __init__(
        self, name: str, expected: Any, shape: shapes.Type, strict: bool, decoded: tuple[type, ...]
    ) -> None:
        self.name = name
        #: Values of exactly these types need no conversion. Most values have such a type.
        self.exact = frozenset(_exact_types(shape))
        self._expected = expected
        self._shape = shape
        self._strict = strict
        #: The types that the serializer has decoded already, so that text is no such value.
        self._decoded = decoded
        kinds = shapes.DateType | shapes.TimeDeltaType
        self._has_wire_forms = any(isinstance(part, kinds) for part in _parts(shape))
        classes = [part.cls for part in _parts(shape) if isinstance(part, shapes.DataclassType)]
        plain = [get_origin(cls) or cls for cls in classes]  # of a generic class
        self._dataclasses = {cls: dataclasses.fields(cls) for cls in plain}
        if not any(_on_class(field) for each in self._dataclasses.values() for field in each):
            self._dataclasses = {}

    def convert(self, value: Any) -> Any:
        """
        Return *value*, converted to the annotated type.

        Raises:
            Unfit: *value* does not fit the annotation.
        """
        try:
            try:
                return self._convert(value)
            except msgspec.ValidationError:
                if not self._has_wire_forms:
                    raise
                return self._convert(_from_wire_form(value, self._shape))
        except msgspec.ValidationError as exc:
            raise Unfit(_misfit(str(exc), value, self._expected, self._shape)) from None
        except RecursionError:
            raise Unfit("is nested too deep") from None

    def _convert(self, value: Any) -> Any:
        converted = msgspec.convert(
            value,
            self._expected,
            strict=self._strict,
            str_keys=True,
            builtin_types=self._decoded,
            dec_hook=_convert_model,
        )
        if self._dataclasses:
            _complete(converted, self._dataclasses)
        return converted


def _on_class(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING


def _complete(value: Any, classes: Mapping[Any, Sequence[dataclasses.Field[Any]]]) -> None:
    """
    Set the default values of dataclasses on the instances in *value*. msgspec 0.23 leaves them on
    the class, and then omits these fields when it encodes the instance.
    """
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, list | tuple | set | frozenset):
            left += value
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, msgspec.Struct):
            left += [getattr(value, name, None) for name in value.__struct_fields__]
        elif (fields := classes.get(type(value))) is not None:
            values = {field.name: getattr(value, field.name, None) for field in fields}
            left += values.values()
            own = getattr(value, "__dict__", None)  # None: a dataclass with slots
            if own is not None and not own.keys() >= {f.name for f in fields if _on_class(f)}:
                others = {name: item for name, item in own.items() if name not in values}
                own.clear()
                own.update(values, **others)  # in the order of the class


_BYTES = (bytes, bytearray, memoryview)


def _exact_types(shape: shapes.Type) -> Iterator[type]:
    """Yield the types whose values need no conversion."""
    match shape:
        case shapes.Metadata():
            yield from _exact_types(shape.type)
        case shapes.UnionType():
            for member in shape.types:
                yield from _exact_types(member)
        case shapes.DataclassType() | shapes.StructType() | shapes.EnumType() | shapes.CustomType():
            if isinstance(shape.cls, type) and shape.cls is not object:
                yield shape.cls
        case _:
            # A shape with constraints (`Meta(ge=1)`, `list[int]`) does not equal a plain shape.
            yield from (kind for kind, plain in _PLAIN_SHAPES if shape == plain)


_PLAIN_SHAPES = tuple(
    (kind, shapes.type_info(kind))
    for kind in (
        *(str, int, float, bool, type(None), bytes, list, dict),
        *(datetime.datetime, datetime.date, datetime.time, decimal.Decimal, uuid.UUID),
    )
)


def _convert_model(expected: Any, value: Any) -> Any:
    """Convert *value* to a type that msgspec does not know: a pydantic model, or ``object``."""
    if isinstance(value, expected):
        return value
    try:
        return expected.model_validate(value)
    except ValueError as exc:
        # The text of pydantic's own error shows the value.
        raise ValueError(_model_faults(exc)) from None


def _model_faults(exc: ValueError) -> str:
    faults: Any = getattr(exc, "errors", None)
    if faults is None:
        return str(exc)
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
        for fault in faults(include_url=False, include_input=False, include_context=False)
    )


def _from_wire_form(value: Any, shape: shapes.Type) -> Any:
    """
    Return *value* with the dates of kombu < 5.3 (``"2020-01-02T00:00:00"``) cut to the date, and
    numbers of seconds as durations.

    This function changes only values annotated as ``date`` or ``timedelta``, because a ``str`` or a
    number may look the same.
    """
    match shape:
        case shapes.DateType():
            is_midnight = isinstance(value, str) and value[10:] == "T00:00:00"
            return value[:10] if is_midnight else value
        case shapes.TimeDeltaType():
            return _duration(value) if type(value) in (int, float) else value
        case shapes.Metadata():
            return _from_wire_form(value, shape.type)
        case shapes.UnionType():
            for member in shape.types:
                value = _from_wire_form(value, member)
            return value
        case shapes.DictType() if isinstance(value, dict):
            key, item = shape.key_type, shape.value_type
            return {_from_wire_form(k, key): _from_wire_form(v, item) for k, v in value.items()}
    if isinstance(value, dict):
        fields = {field.encode_name: field.type for field in getattr(shape, "fields", ())}
        return {k: _from_wire_form(v, fields[k]) if k in fields else v for k, v in value.items()}
    if isinstance(value, list | tuple):
        first = getattr(shape, "item_types", ()) or [f.type for f in getattr(shape, "fields", ())]
        inner = chain(first, repeat(getattr(shape, "item_type", None)))
        return [
            item if each is None else _from_wire_form(item, each)
            for item, each in zip(value, inner, strict=False)
        ]
    return value


def _duration(seconds: float) -> Any:
    try:
        return datetime.timedelta(seconds=seconds)
    except (OverflowError, ValueError):  # out of range, or NaN
        return seconds


# We do not compile these patterns here: only errors need them, and it would slow `import aiorpc`.
_PATH = r" - at `(?P<place>[^`]*)`(?: in `(?P<container>[^`]*)`)?$"
_MISMATCH = r"Expected `[^`]*`, got `[^`]*`$"
# msgspec's messages use the type names of JSON; our readers expect the names of Python.
_JSON_NAMES = r"`(object|array|null)`"
_PYTHON_NAMES = {"object": "`dict`", "array": "`list`", "null": "`None`"}
_SHOWN_VALUE = r"(?s:(Invalid (?:enum )?value) .*)"
_MODULES = r"(?<!['\"\w.<>])(?:[\w<>]+\.)+(?=\w)"


def _misfit(message: str, value: Any, expected: Any, shape: shapes.Type) -> str:
    """
    Return msgspec's *message* with Python's type names: ``must be Order: items[2].price must be
    float, got str``. The text shows only types, because values may be large or secret.
    """
    path = re.search(_PATH, message)
    if path:
        reason = _reason(message[: path.start()])
        return f"must be {_type_name(expected)}: {_place(path)}{reason}"
    kind = type(value).__name__
    if re.match(_MISMATCH, message):
        return f"must be {_type_name(expected)}, got {kind}"
    if choices := _choices(shape):
        return f"must be one of {choices}, got another {kind}"
    reason = _reason(message)
    if reason.startswith(" must be "):
        return reason.lstrip() if ", got " in reason else f"{reason.lstrip()}, got {kind}"
    return f"must be {_type_name(expected)}, got {kind}{reason}"


def _reason(message: str) -> str:
    """Return the fault in msgspec's *message*, as a text that follows the value's place or type."""
    message = re.sub(_JSON_NAMES, lambda name: _PYTHON_NAMES[name[1]], message)
    message = re.sub(_SHOWN_VALUE, r"\1", message)
    if message.startswith("Expected "):
        return " must be " + message.removeprefix("Expected ").replace("`", "")
    if message.startswith(("Object ", "Invalid ")):
        return ": " + message[0].lower() + message[1:].replace("`", "'")
    return ": " + message  # the text comes from a constructor or a model


def _place(path: re.Match[str]) -> str:
    place = path["place"].removeprefix("$").removeprefix(".")
    if path["container"] is None:
        return place
    container = path["container"].removeprefix("$").removeprefix(".")
    return f"a {place} of {container or 'it'}"


def _choices(shape: shapes.Type) -> str:
    if isinstance(shape, shapes.EnumType):
        members: Any = shape.cls
        return ", ".join(repr(member.value) for member in members)
    if isinstance(shape, shapes.LiteralType):
        return ", ".join(map(repr, shape.values))
    return ""


def _type_name(annotation: Any) -> str:
    """Return *annotation* as the code writes it, without module names."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return re.sub(_MODULES, "", inspect.formatannotation(annotation)).replace("NoneType", "None")

"""
Converts objects to their fields, and explains why a value cannot be encoded. Nothing here awaits or
does I/O, but a value's ``__json__`` method or property may do I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from inspect import isawaitable
from typing import Any

import msgspec

__all__ = ["MAX_DEPTH", "explain", "fields_of", "json_method"]

#: The largest number of nested levels in a value that we send or receive.
MAX_DEPTH = 200


def json_method(value: Any) -> Callable[[], Any] | None:
    """Return the ``__json__`` method of *value*, or ``None``; for a class always ``None``."""
    return None if isinstance(value, type) else getattr(value, "__json__", None)


def fields_of(value: Any) -> Any:
    """
    Return the value of an Enum, or the fields of a dataclass, Struct or pydantic model. The values
    of the fields stay unconverted.

    Raises:
        TypeError: *value* has another type. The text says what to send instead.
    """
    kind = type(value)
    if isinstance(value, Enum):
        return value.value
    # An ORM object may be a dataclass or a model, but reading its fields may query the database.
    if not hasattr(kind, "__mapper__") and not isinstance(value, type):
        if isinstance(value, msgspec.Struct):
            return _struct_fields(value)
        if is_dataclass(value):
            return _present((field.name, getattr(value, field.name)) for field in fields(value))
        if (dump := getattr(kind, "model_dump", None)) is not None:
            return dump(value, by_alias=True)  # the model at the other side expects aliases
    raise TypeError(_remedy(value))


def _struct_fields(struct: msgspec.Struct) -> Any:
    """
    Return the fields of *struct* in msgspec's form (renamed, tagged, or an array). We do not use
    ``msgspec.to_builtins``, because it also converts the values.
    """
    config = struct.__struct_config__
    values = [getattr(struct, name) for name in struct.__struct_fields__]
    if config.array_like:
        return values if config.tag is None else [config.tag, *values]
    present = _present(zip(struct.__struct_encode_fields__, values, strict=True))
    if config.tag is None:
        return present
    return {config.tag_field: config.tag, **present}


def _present(items: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value is not msgspec.UNSET}


def explain(value: Any, reduce: Callable[[Any], Any], error: Exception) -> str:
    """
    Return why *value* cannot be encoded: its first fault, or the text of the encoder's *error* if
    we find no fault. *reduce* is the encoder's hook for objects.
    """
    try:
        fault = _first_fault(value, "", reduce, ())
    except RecursionError:
        fault = None
    if fault is not None:
        return f"cannot encode {fault}"
    if isinstance(error, RecursionError):
        return f"cannot encode a value nested deeper than {MAX_DEPTH} levels: send a flatter value"
    return f"cannot encode a {type(value).__name__}: {error}"


def _first_fault(
    value: Any, path: str, reduce: Callable[[Any], Any], parents: tuple[int, ...]
) -> str | None:
    """Walk *value* as the encoder does, and describe the first part that it cannot write."""
    if value is None or isinstance(value, str | int | float):
        return None
    where = f"{path or 'the value'} ({type(value).__name__})"
    if id(value) in parents:
        return f"{where}: it contains itself; send a copy without the cycle"
    if len(parents) > MAX_DEPTH:
        return f"{path[:80]}...: nested deeper than {MAX_DEPTH} levels; send a flatter value"
    parents = (*parents, id(value))
    if not isinstance(value, dict | list | tuple):
        try:
            reduced = reduce(value)
        except Exception as exc:  # noqa: BLE001 - this error is the explanation
            return f"{where}: {exc}"
        return _first_fault(reduced, path, reduce, parents)
    items: Iterable[tuple[Any, Any]]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if key is not None and not isinstance(key, str | int | float):
            kind = type(key).__name__
            return f"{where}: a key is a {kind}; keys must be str, int, float, bool or None"
        place = _join(path, str(key) if isinstance(value, dict) else key)
        if fault := _first_fault(item, place, reduce, parents):
            return fault
    return None


def _join(path: str, place: Any) -> str:
    if isinstance(place, int):
        return f"{path}[{place}]"
    if not place.isidentifier():
        return f"{path}[{place[:40]!r}]"
    return f"{path}.{place}" if path else place


def _remedy(value: Any) -> str:
    kind = type(value)
    if isinstance(value, type):
        return "the value is a class; send its name, or an instance"
    if hasattr(kind, "__mapper__"):
        return "an ORM object needs a schema: name one with @returns(...) from aiorpc.sqlalchemy"
    if isawaitable(value):
        return "the value was not awaited; await it first"
    if isinstance(value, bytes | bytearray | memoryview):
        return "JSON_TYPES: plain has no bytes; send text, for example base64"
    if callable(getattr(value, "tolist", None)):
        return "send the result of its tolist()"
    if isinstance(value, Iterator | set | frozenset | range) or hasattr(kind, "__iter__"):
        return "JSON has only lists; send list(...) of it (or dict(...), if it is a mapping)"
    return "send plain data, a dataclass or a Struct, or give the class a __json__() method"

"""
JSON as kombu speaks it: values to bytes and back. Pure functions; no I/O, no await.

JSON has no datetime, date, time, Decimal, UUID or bytes. kombu >= 5.3 wraps them in an envelope,
``{"__type__": "decimal", "__value__": "1.10"}``, and opens any object with exactly these two keys;
kombu < 5.3 writes plain strings and opens nothing (``kombu/utils/json.py`` of 5.2.4, 5.3.0, 5.7.0).
:func:`encode` writes the first, :func:`encode_plain` the second (``JSON_TYPES: plain``, for peers
with an old kombu), :func:`decode` reads both.

msgspec does the work wherever its output is what kombu means. It does not ask before it writes a
datetime as a string or NaN as null, so the encoder first walks the value: plain data through and
through goes to msgspec, all else to the standard library, whose ``default`` hook writes envelopes.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal, DecimalException
from enum import Enum
from inspect import isawaitable
from typing import Any
from uuid import UUID

import msgspec

from ..exceptions import MalformedRequest, UnserializableValueError

__all__ = ["MAX_DEPTH", "decode", "encode", "encode_plain", "fields_of"]

#: How deep lists and objects may be nested, in what is written and in what is read.
MAX_DEPTH = 200


def _unreadable(why: str) -> MalformedRequest:
    return MalformedRequest(f"the body is not the JSON that it claims to be: {why}")


# Encoding


def encode(value: Any) -> bytes:
    """
    JSON of *value*, with the envelopes of kombu >= 5.3.

    Beside plain data it takes datetime, date, time, Decimal, UUID, bytes; dataclasses, msgspec
    Structs and pydantic models (their fields), Enums (their value), and objects with a
    ``__json__()`` method, which may return any of these. Tuples become arrays; keys that are
    numbers, booleans or None become strings; NaN and infinities are written as kombu does, though
    strict JSON has none.

    Raises:
        UnserializableValueError: names the place in the value, its type and the remedy.
    """
    try:
        if _is_plain_body(value):
            return _encode_plain_data(value)
    except (ValueError, RecursionError):
        pass  # lone surrogates, ints of thousands of digits: the slow way writes them or explains
    return _encode_any(value, _TYPED)


def encode_plain(value: Any) -> bytes:
    """
    JSON of *value* as kombu < 5.3 writes it: dates, Decimals and UUIDs are strings, bytes refused.

    Raises:
        UnserializableValueError: as for :func:`encode`.
    """
    try:
        if _is_plain_body(value):
            return _encode_plain_data(value)
    except (ValueError, RecursionError):
        pass
    return _encode_any(value, _PLAIN)


_encode_plain_data = msgspec.json.Encoder().encode


#: What needs no look inside. Not float: msgspec writes NaN as null.
_LEAVES = frozenset({str, int, bool, type(None)})
_TEXT = frozenset({str})


def _is_plain_body(value: Any) -> bool:
    """
    :func:`_is_plain` for what bodies are: few keys, under each a leaf, or leaves.

    Every message goes through here. Types are compared by identity, and a container of nothing but
    leaves costs no step in Python for each.
    """
    if type(value) is not dict:
        return _is_plain(value, MAX_DEPTH)
    if not _TEXT.issuperset(map(type, value)):
        return False
    for item in value.values():
        kind = type(item)
        if kind in _LEAVES or (kind is dict and not item):
            continue
        if (kind is tuple or kind is list) and _LEAVES.issuperset(map(type, item)):
            continue
        if not _is_plain(item, MAX_DEPTH - 1):
            return False
    return True


def _is_plain(value: Any, depth: int) -> bool:
    """
    Whether msgspec writes what kombu would: exact plain types, ``str`` keys, finite floats.
    ``x * 0.0`` is 0.0 for finite floats only.
    """
    kind = type(value)
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)):
            return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _LEAVES or (kind is float and value * 0.0 == 0.0)
    if _LEAVES.issuperset(map(type, value)):
        return True
    for item in value:
        kind = type(item)
        if kind in _LEAVES:
            continue
        if kind is float:
            if item * 0.0 != 0.0:
                return False
        elif not depth or not _is_plain(item, depth - 1):
            return False
    return True


def _encode_any(value: Any, encoder: json.JSONEncoder) -> bytes:
    try:
        text = encoder.encode(value).encode("ascii")
    except Exception as exc:  # whatever somebody's __json__ or property raises
        raise UnserializableValueError(_explain(value, encoder.default, exc)) from exc
    if _is_too_deep(text):
        raise UnserializableValueError(_explain(value, encoder.default, RecursionError()))
    return text


# What kombu >= 5.3 writes for the types that JSON has no word for. A datetime is a date too, so it
# comes first.


def _envelope(kind: str, value: Any) -> dict[str, Any]:
    return {"__type__": kind, "__value__": value}


def _bytes_envelope(value: bytes | bytearray | memoryview) -> dict[str, Any]:
    plain = bytes(value)
    try:
        return _envelope("bytes", plain.decode("utf-8"))
    except UnicodeDecodeError:
        return _envelope("base64", b64encode(plain).decode("ascii"))


_Writers = Mapping[type, Callable[[Any], Any]]
_TYPED_WRITERS: _Writers = {
    datetime: lambda value: _envelope("datetime", value.isoformat()),
    date: lambda value: _envelope("date", value.isoformat()),
    time: lambda value: _envelope("time", value.isoformat()),
    Decimal: lambda value: _envelope("decimal", str(value)),
    UUID: lambda value: _envelope("uuid", {"hex": value.hex}),
    bytes: _bytes_envelope,
    bytearray: _bytes_envelope,
    memoryview: _bytes_envelope,
}


# What kombu < 5.3 writes for them.


def _datetime_text(value: datetime) -> str:
    text = value.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


_PLAIN_WRITERS: _Writers = {
    datetime: _datetime_text,
    date: lambda value: f"{value.isoformat()}T00:00:00",
    time: lambda value: value.isoformat(),
    Decimal: str,
    UUID: str,
}


def _encoder(writers: _Writers) -> json.JSONEncoder:
    def default(value: Any) -> Any:
        write = writers.get(type(value))
        if write is None:
            # kombu asks for this before anything else. A class has its instances' method: not it.
            reducer = getattr(value, "__json__", None)
            if reducer is not None and not isinstance(value, type):
                return reducer()
            write = fields_of  # of an Enum its value, also where the members are Decimals
            if not isinstance(value, Enum):
                write = next((writers[kind] for kind in writers if isinstance(value, kind)), write)
        return write(value)

    # Cycles run into the interpreter's recursion limit, and are looked for only then.
    return json.JSONEncoder(default=default, separators=(",", ":"), check_circular=False)


_TYPED = _encoder(_TYPED_WRITERS)
_PLAIN = _encoder(_PLAIN_WRITERS)


# Objects that stand for their fields


def fields_of(value: Any) -> Any:
    """
    The value of an Enum, or the fields of a dataclass, Struct or pydantic model, one level deep.

    Raises:
        TypeError: it is none of these. The text is the remedy.
    """
    kind = type(value)
    if isinstance(value, Enum):
        return value.value
    # ORM objects may be dataclasses or models too, but reading their fields may query the database.
    if not hasattr(kind, "__mapper__") and not isinstance(value, type):
        if isinstance(value, msgspec.Struct):
            return _struct_fields(value)
        if is_dataclass(value):
            return _present((field.name, getattr(value, field.name)) for field in fields(value))
        if (dump := getattr(kind, "model_dump", None)) is not None:
            # By alias, since that is what the model on the other side reads.
            return dump(value, by_alias=True)
    raise TypeError(_remedy(value))


def _struct_fields(struct: msgspec.Struct) -> Any:
    """As msgspec writes it (renamed, tagged, or as an array), but leaving the values alone."""
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


# Explaining


def _explain(value: Any, reduce: Callable[[Any], Any], error: Exception) -> str:
    """Why *value* could not be encoded: the first fault in it, or else the encoder's own words."""
    try:
        fault = _first_fault(value, "", reduce, ())
    except RecursionError:
        fault = None
    if fault is not None:
        return f"cannot encode {fault}"
    if isinstance(error, RecursionError):
        return f"cannot encode a value nested deeper than {MAX_DEPTH} levels: send it flatter"
    return f"cannot encode a {type(value).__name__}: {error}"


def _first_fault(
    value: Any, path: str, reduce: Callable[[Any], Any], parents: tuple[int, ...]
) -> str | None:
    """Walk *value* as the encoder does, and describe the first thing that it cannot write."""
    if value is None or isinstance(value, str | int | float):
        return None
    where = f"{path or 'the value'} ({type(value).__name__})"
    if id(value) in parents:
        return f"{where}: it contains itself; send a copy without the cycle"
    if len(parents) > MAX_DEPTH:
        return f"{path[:80]}...: it is nested deeper than {MAX_DEPTH} levels; send it flatter"
    parents = (*parents, id(value))
    if not isinstance(value, dict | list | tuple):
        try:
            reduced = reduce(value)
        except Exception as exc:  # noqa: BLE001 - it is what we came to report
            return f"{where}: {exc}"
        return _first_fault(reduced, path, reduce, parents)
    for place, item in _places(value):
        if place is None:
            kind = type(item).__name__
            return f"{where}: it has a {kind} for a key; keys are str, int, float, bool or None"
        if fault := _first_fault(item, _join(path, place), reduce, parents):
            return fault
    return None


def _places(
    container: dict[Any, Any] | list[Any] | tuple[Any, ...],
) -> Iterator[tuple[str | int | None, Any]]:
    """Where each item is; ``(None, key)`` for a key that cannot be written."""
    if not isinstance(container, dict):
        yield from enumerate(container)
        return
    for key, item in container.items():
        if key is None or isinstance(key, str | int | float):
            yield str(key), item
        else:
            yield None, key


def _join(path: str, place: str | int) -> str:
    if isinstance(place, int):
        return f"{path}[{place}]"
    if not place.isidentifier():
        return f"{path}[{place[:40]!r}]"
    return f"{path}.{place}" if path else place


def _remedy(value: Any) -> str:
    kind = type(value)
    if isinstance(value, type):
        return "it is a class; send its name, or an instance"
    if hasattr(kind, "__mapper__"):
        return "an ORM object needs a schema: name one with @returns(...) from aiorpc.sqlalchemy"
    if isawaitable(value):
        return "it was not awaited; await it first"
    if isinstance(value, bytes | bytearray | memoryview):
        return "JSON_TYPES: plain has no bytes; send text, for example base64"
    if isinstance(value, timedelta):
        return "JSON has no durations; send its total_seconds()"
    if callable(getattr(value, "tolist", None)):
        return "send its tolist()"
    if isinstance(value, Iterator | set | frozenset | range) or hasattr(kind, "__iter__"):
        return "JSON has only lists; send list(...) of it (or dict(...), if it is a mapping)"
    return "send plain data, a dataclass or a Struct, or give the class a __json__() method"


# Decoding


def decode(data: bytes) -> Any:
    """
    The value of JSON *data* (UTF-8), with envelopes opened: those of every kombu, and plain strings
    left as they are.

    NaN, infinities and lone surrogates are read, as kombu reads them.

    Raises:
        MalformedRequest: no UTF-8, no JSON, an unknown ``__type__``, nested too deep.
    """
    # One byte is looked for much quicker than several.
    if (_UNDERSCORE in data and b'"__type__"' in data) or (
        _BACKSLASH in data and _ESCAPED_LETTER.search(data)
    ):
        return _decode_any(data)
    try:
        value = _decode_plain_data(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_any(data)  # NaN, 1e999, lone surrogates: kombu reads them; or it explains
    except RecursionError:
        raise _unreadable(_TOO_DEEP) from None
    if len(data) > _CAN_BE_DEEP and _is_too_deep(data):
        raise _unreadable(_TOO_DEEP)
    return value


_CAN_BE_DEEP = 2 * MAX_DEPTH
_decode_plain_data = msgspec.json.Decoder().decode
_UNDERSCORE, _BACKSLASH = b"_\\"
# A key spelled "\u005f_type__" is "__type__" too.
_ESCAPED_LETTER = re.compile(rb"\\u00[567]")
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _decode_any(data: bytes) -> Any:
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise _unreadable(_TOO_DEEP) from None
    except UnicodeDecodeError as exc:
        raise _unreadable(f"not UTF-8: {exc.reason} at byte {exc.start}") from None
    except ValueError as exc:
        raise _unreadable(str(exc)) from None
    if _is_too_deep(data):
        raise _unreadable(_TOO_DEEP)
    return value


def _open_envelope(found: dict[str, Any]) -> Any:
    if len(found) != 2 or "__type__" not in found or "__value__" not in found:
        return found
    kind, value = found["__type__"], found["__value__"]
    opener = _OPENERS.get(kind) if isinstance(kind, str) else None
    if opener is None:
        raise _unreadable(
            f"unknown __type__ {str(kind)[:40]!r}: known are {', '.join(sorted(_OPENERS))}"
        )
    try:
        return opener(value)
    except (ValueError, TypeError, AttributeError, LookupError, DecimalException):
        raise _unreadable(f"the __value__ of a {kind} is none: {type(value).__name__}") from None


def _open_uuid(value: Any) -> UUID:
    # kombu 5.3.0 also sends "version", which the hex digits hold already.
    return UUID(value["hex"] if isinstance(value, Mapping) else value)


_OPENERS: Mapping[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": _open_uuid,
    "bytes": lambda text: text.encode("utf-8"),
    "base64": b64decode,
}
_DECODER = json.JSONDecoder(object_hook=_open_envelope)


# Depth


_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _is_too_deep(text: bytes) -> bool:
    """
    Whether JSON *text* is nested deeper than :data:`MAX_DEPTH`; costs next to nothing.

    Brackets inside strings can hide depth from the quick look (then the interpreter's own recursion
    limit is the bound), but an honest text is never called deep because of them.
    """
    if len(text) <= 2 * MAX_DEPTH or not (_has_many(b"[", text) or _has_many(b"{", text)):
        return False
    return _nests_deeper(text) and _nests_deeper(_without_strings(text))


def _has_many(bracket: bytes, text: bytes) -> bool:
    at = -1
    for _ in range(MAX_DEPTH // 2 + 1):
        at = text.find(bracket, at + 1)
        if at < 0:
            return False
    return True


def _nests_deeper(text: bytes) -> bool:
    brackets = text.translate(None, _ALL_BUT_BRACKETS)
    for _ in range(MAX_DEPTH):
        # Each round takes away the innermost level.
        rest = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(rest) == len(brackets):
            break
        brackets = rest
    return bool(brackets)


def _without_strings(text: bytes) -> bytes:
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(unescaped.split(b'"')[::2])

"""
JSON as kombu writes and reads it. Pure functions: nothing here awaits or does I/O.

JSON has no datetime, date, time, Decimal, UUID or bytes. kombu >= 5.3 wraps them in an envelope,
``{"__type__": "decimal", "__value__": "1.10"}``, and unwraps each object with exactly these keys.
kombu < 5.3 writes plain strings and unwraps nothing (``kombu/utils/json.py``, 5.2.4, 5.3.0, 5.7.0).
:func:`encode` writes envelopes. :func:`encode_plain` writes plain strings (``JSON_TYPES: plain``,
for peers with an old kombu). :func:`decode` reads both.

msgspec encodes values where its output is the same as kombu's. msgspec up to 0.23 calls no hook for
a datetime (msgspec issues 336 and 766), and it writes NaN as null. So the encoder walks the value
first. It passes plain data to msgspec, and other values to the standard library, whose ``default``
hook writes envelopes. ADR 6 has the figure for this shortcut.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, DecimalException
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from ..exceptions import MalformedRequest, UnserializableValueError
from .objects import MAX_DEPTH, explain, fields_of, json_method

__all__ = ["decode", "encode", "encode_plain"]


def _envelope(kind: str, value: Any) -> dict[str, Any]:
    return {"__type__": kind, "__value__": value}


def _bytes_envelope(value: bytes | bytearray | memoryview) -> dict[str, Any]:
    plain = bytes(value)
    try:
        return _envelope("bytes", plain.decode("utf-8"))
    except UnicodeDecodeError:
        return _envelope("base64", b64encode(plain).decode("ascii"))


_Writers = Mapping[type, Callable[[Any], Any]]
#: Functions that write the types that JSON lacks, as kombu >= 5.3 does.
_TYPED_WRITERS: _Writers = {
    datetime: lambda value: _envelope("datetime", value.isoformat()),
    date: lambda value: _envelope("date", value.isoformat()),  # after its subclass datetime
    time: lambda value: _envelope("time", value.isoformat()),
    timedelta: timedelta.total_seconds,  # kombu has no form of it
    Decimal: lambda value: _envelope("decimal", str(value)),
    UUID: lambda value: _envelope("uuid", {"hex": value.hex}),
    bytes: _bytes_envelope,
    bytearray: _bytes_envelope,
    memoryview: _bytes_envelope,
}


def _datetime_text(value: datetime) -> str:
    text = value.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


#: Functions that write the types that JSON lacks, as kombu < 5.3 does.
_PLAIN_WRITERS: _Writers = {
    datetime: _datetime_text,
    date: lambda value: f"{value.isoformat()}T00:00:00",
    time: lambda value: value.isoformat(),
    timedelta: timedelta.total_seconds,
    Decimal: str,
    UUID: str,
}


def _encoder(writers: _Writers) -> json.JSONEncoder:
    def default(value: Any) -> Any:
        write = writers.get(type(value))
        if write is None:
            if (reducer := json_method(value)) is not None:  # first, as in kombu
                return reducer()
            write = fields_of  # for an Enum: its value, even if its members are Decimals
            if not isinstance(value, Enum):
                write = next((writers[kind] for kind in writers if isinstance(value, kind)), write)
        return write(value)

    # A cycle raises a RecursionError, and `explain` then finds the cycle.
    return json.JSONEncoder(default=default, separators=(",", ":"), check_circular=False)


_TYPED = _encoder(_TYPED_WRITERS)
_PLAIN = _encoder(_PLAIN_WRITERS)


def encode(value: Any, encoder: json.JSONEncoder = _TYPED) -> bytes:
    """
    Return *value* as JSON, with the envelopes of kombu >= 5.3.

    *value* may hold plain data, datetime, date, time, Decimal, UUID and bytes. A timedelta becomes
    its seconds. Dataclasses, msgspec
    Structs and pydantic models become objects of their fields; an Enum becomes its value. An object
    with a ``__json__()`` method becomes the result of that method. Tuples become arrays. Keys that
    are numbers, booleans or None become strings. NaN and infinities are written as in kombu.

    Raises:
        UnserializableValueError: the text names the place in the value, its type and the remedy.
    """
    try:
        if _is_plain(value, MAX_DEPTH - 2):
            return _encode_by_msgspec(value)
    except (ValueError, RecursionError):
        pass  # a lone surrogate, or an int of thousands of digits: try the standard library
    try:
        text = encoder.encode(value).encode("ascii")
    except Exception as exc:  # a __json__ method or a property may raise anything
        raise UnserializableValueError(explain(value, encoder.default, exc)) from exc
    if _is_too_deep(text):
        raise UnserializableValueError(explain(value, encoder.default, RecursionError()))
    return text


#: Like :func:`encode`, but as kombu < 5.3: dates, Decimals and UUIDs become strings; no bytes.
encode_plain = partial(encode, encoder=_PLAIN)

_encode_by_msgspec = msgspec.json.Encoder().encode

#: Types that msgspec writes as kombu does. Float is not here, because msgspec writes NaN as null.
_LEAVES = frozenset({str, int, bool, type(None)})


def _is_plain(value: Any, depth: int) -> bool:
    """
    Return whether msgspec writes *value* as kombu does: exact types, str keys, finite floats.

    Every body passes this check, so it must be fast: a list of leaves costs one set operation.
    Such a list may be one level deeper than *depth*. ``x * 0.0`` is 0.0 only for finite floats.
    """
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _LEAVES or (kind is float and value * 0.0 == 0.0)
    elif _LEAVES.issuperset(map(type, value)):
        return True
    for item in value:
        kind = type(item)
        if kind in _LEAVES or (kind is dict and not item):
            continue
        if (kind is tuple or kind is list) and _LEAVES.issuperset(map(type, item)):
            continue
        if kind is float:
            if item * 0.0 != 0.0:
                return False
        elif not depth or not _is_plain(item, depth - 1):
            return False
    return True


def decode(data: bytes) -> Any:
    """
    Return the value of JSON *data* (UTF-8). Unwrap the envelopes of all versions of kombu.

    Like kombu, this function accepts NaN, infinities and lone surrogates.

    Raises:
        MalformedRequest: *data* is not UTF-8 or JSON, has an unknown ``__type__``, or is too deep.
    """
    # A search for one byte is much faster than a search for several bytes.
    if (_UNDERSCORE in data and b'"__type__"' in data) or (
        _BACKSLASH in data and _ESCAPED_LETTER.search(data)
    ):
        return _decode_any(data)
    try:
        value = _decode_by_msgspec(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_any(
            data
        )  # accepts NaN, 1e999 and lone surrogates like kombu, or raises a readable error
    except RecursionError:
        raise _unreadable(_TOO_DEEP) from None
    if len(data) > 2 * MAX_DEPTH and _is_too_deep(data):
        raise _unreadable(_TOO_DEEP)
    return value


_decode_by_msgspec = msgspec.json.Decoder().decode
_UNDERSCORE, _BACKSLASH = b"_\\"
# JSON may also write the key "__type__" as "\u005f_type__".
_ESCAPED_LETTER = re.compile(rb"\\u00[567]")
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels; send a flatter value"


def _unreadable(why: str) -> MalformedRequest:
    return MalformedRequest(f"the body cannot be read as JSON: {why}")


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
        raise _unreadable(
            f"the __value__ of a {kind} is a {type(value).__name__} that is not a valid {kind}"
        ) from None


def _open_uuid(value: Any) -> UUID:
    # kombu 5.3.0 also sends "version"; the hex digits already contain the version.
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


_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _is_too_deep(text: bytes) -> bool:
    """
    Return whether JSON *text* is nested deeper than :data:`MAX_DEPTH`. The check is cheap.

    Brackets inside strings can hide depth from this check; the interpreter's recursion limit then
    stops the decoder. Such brackets never make a text look deeper than it is.
    """
    if not (_has_many(b"[", text) or _has_many(b"{", text)):
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
        rest = brackets.replace(b"[]", b"").replace(b"{}", b"")  # without the innermost level
        if len(rest) == len(brackets):
            break
        brackets = rest
    return bool(brackets)


def _without_strings(text: bytes) -> bytes:
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(unescaped.split(b'"')[::2])

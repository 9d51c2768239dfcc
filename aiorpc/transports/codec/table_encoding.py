"""
Writes AMQP field tables. Pure functions: nothing here awaits or does I/O.

aiorpc does not use pamqp for this. pamqp writes each integer in the smallest type, and 128..32767
with the tag ``s``. py-amqp (up to 5.3.1), the library under Nameko, reads ``s`` as a short string,
so such a message ends Nameko's consumer. pamqp also writes floats in 32 bits. This module writes
the same types as py-amqp, integers as ``I`` and floats as ``d``, except for integers of 64 bits.

py-amqp writes those with the tag ``L``, which RabbitMQ and py-amqp read. The clients of Node and
Go know only ``l``, as in RabbitMQ's errata: an ``L`` ends the process or the connection. py-amqp up
to 5.3.1 reads ``l`` as an unsigned integer. So positive integers have ``l``, negative ones ``L``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from struct import Struct
from typing import Any

from ...exceptions import UnserializableValueError
from ...wire.names import PREFIX

__all__ = ["Unwritable", "encode_table", "epoch_seconds"]

_U32 = Struct(">I").pack
_TAG_U32 = Struct(">cI").pack
_TAG_I32 = Struct(">ci").pack
_TAG_I64 = Struct(">cq").pack
_TAG_F64 = Struct(">cd").pack
_TAG_DECIMAL = Struct(">cBi").pack
_TAG_U64 = Struct(">cQ").pack

_INT32 = 1 << 31
_INT64 = 1 << 63

#: The deepest nesting that is written; a deeper value probably contains itself.
_MAX_DEPTH = 32
#: Cached encoded names. A full cache is emptied.
_MAX_NAMES = 1024
_names: dict[str, bytes] = {}

_SURROGATE = "is a str with a lone surrogate, which is not Unicode text. Send bytes"


class Unwritable(Exception):
    """
    AMQP cannot carry a value; the text completes "the header 'x' ...".

    Attributes:
        path: the place of the value. Each container adds its key while the exception passes.
    """

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.path = path


def encode_table(table: Mapping[str, Any]) -> bytes:
    """
    Return *table* as a field table, with its length in the first four bytes.

    Raises:
        UnserializableValueError: a field table cannot hold a name or value, which the text names.
    """
    try:
        return _table(table, 0)
    except Unwritable as error:
        path = error.path.removeprefix(".")[:300]
        place = f"the header {path!r}" if path else "a table of headers"
        raise UnserializableValueError(f"{place} {error}") from None


def _table(table: Mapping[str, Any], depth: int) -> bytes:
    if depth > _MAX_DEPTH:
        raise _too_deep()
    parts = []
    for name, value in table.items():
        parts.append(_names.get(name) or _name(name))
        try:
            if isinstance(value, str):  # without a call: nearly every header is text (ADR 6)
                raw = value.encode()
                parts.append(_TAG_U32(b"S", len(raw)))
                parts.append(raw)
            else:
                parts.append(_WRITERS.get(type(value), _write_other)(value, depth))
        except UnicodeEncodeError:
            raise Unwritable(_SURROGATE, f".{name}") from None
        except Unwritable as error:
            error.path = f".{name}{error.path}"
            raise
    payload = b"".join(parts)
    return _U32(len(payload)) + payload


def _name(name: str) -> bytes:
    if not isinstance(name, str):
        raise Unwritable(f"has the name {name!r}, a {type(name).__name__}; names are strings")
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise Unwritable(
            f"has the name {name[:40]!r}, with a lone surrogate; names are text"
        ) from None
    if len(raw) > 255 and name.startswith(PREFIX):
        # A key of context data that came without the prefix. All readers ignore the prefix.
        raw = raw[len(PREFIX) :]
    if len(raw) > 255:
        raise Unwritable(
            f"has the name {name[:40]!r}... of {len(raw)} bytes; AMQP allows 255 bytes"
        )
    if len(_names) >= _MAX_NAMES:
        _names.clear()
    encoded = _names[name] = bytes((len(raw),)) + raw
    return encoded


def _write_other(value: Any, depth: int) -> bytes:
    """Write an instance of a subclass."""
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value, depth)
    raise Unwritable(
        f"has the type {type(value).__name__}, which AMQP headers cannot hold: send str, bytes, "
        "bool, int, float, Decimal, datetime, None, or lists and dicts of these"
    )


def _write_bool(value: bool, depth: int) -> bytes:
    return b"t\x01" if value else b"t\x00"


def _write_int(value: int, depth: int) -> bytes:
    if -_INT32 < value < _INT32:
        return _TAG_I32(b"I", value)
    if -_INT64 <= value < _INT64:
        return _TAG_I64(b"l" if value > 0 else b"L", value)
    raise Unwritable(f"is the int {_short(value)}; AMQP's integers have 64 bits. Send it as a str")


def _write_float(value: float, depth: int) -> bytes:
    if not isfinite(value):
        raise Unwritable(f"is {value}, for which RabbitMQ closes the connection; send a str")
    return _TAG_F64(b"d", value)


def _write_bytes(value: bytes | bytearray, depth: int) -> bytes:
    # py-amqp writes bytes as ``S``, and the receiver reads valid UTF-8 as a str. All versions of
    # py-amqp also read ``x`` as bytes.
    return _TAG_U32(b"x", len(value)) + bytes(value)


def _write_none(value: None, depth: int) -> bytes:
    return b"V"


def _write_decimal(value: Decimal, depth: int) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, int):
        mantissa = int("".join(map(str, digits)) or "0") * (10 ** min(max(exponent, 0), 10))
        scale = max(-exponent, 0)
        if mantissa <= 0x7FFFFFFF and scale <= 255 and exponent <= 10:
            return _TAG_DECIMAL(b"D", scale, -mantissa if sign else mantissa)
    raise Unwritable(
        f"is the Decimal {_short(value)}; AMQP's decimals have 31 bits and at most 255 places. "
        "Send it as a str"
    )


def _write_datetime(value: datetime, depth: int) -> bytes:
    return _TAG_U64(b"T", epoch_seconds(value))


def epoch_seconds(moment: datetime) -> int:
    """
    Return the whole seconds from 1970 to *moment*. A *moment* without a zone is UTC, as in py-amqp.

    Raises:
        Unwritable: *moment* is before 1970.
    """
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if seconds < 0:
        raise Unwritable(f"is {moment.isoformat()}; AMQP's times begin in 1970. Send it as a str")
    return seconds


def _write_table(value: Mapping[str, Any], depth: int) -> bytes:
    return b"F" + _table(value, depth + 1)


def _write_array(value: list[Any] | tuple[Any, ...], depth: int) -> bytes:
    if depth >= _MAX_DEPTH:
        raise _too_deep()
    parts = []
    for number, item in enumerate(value):
        try:
            if isinstance(item, str):
                raw = item.encode()
                parts.append(_TAG_U32(b"S", len(raw)))
                parts.append(raw)
            else:
                parts.append(_WRITERS.get(type(item), _write_other)(item, depth + 1))
        except UnicodeEncodeError:
            raise Unwritable(_SURROGATE, f"[{number}]") from None
        except Unwritable as error:
            error.path = f"[{number}]{error.path}"
            raise
    payload = b"".join(parts)
    return _TAG_U32(b"A", len(payload)) + payload


# The order matters for subclasses: a bool is an int.
_WRITERS: dict[type, Callable[[Any, int], bytes]] = {
    bool: _write_bool,
    int: _write_int,
    float: _write_float,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    type(None): _write_none,
    Decimal: _write_decimal,
    datetime: _write_datetime,
    dict: _write_table,
    list: _write_array,
    tuple: _write_array,
    Mapping: _write_table,
}


def _too_deep() -> Unwritable:
    return Unwritable(f"is nested more than {_MAX_DEPTH} deep, or contains itself")


def _short(value: object) -> str:
    text = str(value) if not isinstance(value, int) or abs(value) < 1 << 200 else hex(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

"""
AMQP field tables, to bytes and back. No I/O and no AMQP library: only ``struct``.

Why not pamqp's: it writes each integer in the smallest type that holds it, and the tag ``s`` that
it picks for 128..32767 is a *short string* to the py-amqp (up to 5.3.1) under Nameko, which dies of
it, message after message. It also writes floats in 32 bits. Here integers go as ``I`` or ``L`` and
floats as ``d``, which is what py-amqp itself writes and every version of it reads. Reading takes
all types of RabbitMQ's errata (https://www.rabbitmq.com/amqp-0-9-1-errata.html) and py-amqp's
``U``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct, error as struct_error
from typing import Any

from ...exceptions import UnserializableValueError

__all__ = [
    "GARBLED",
    "LONG",
    "MalformedTable",
    "decode_table",
    "encode_table",
    "epoch_seconds",
    "from_epoch",
    "long_at",
    "read_entries",
    "size_at",
]

_U32 = Struct(">I")
size_at = _U32.unpack_from
long_at = Struct(">q").unpack_from
_TAG_U32 = Struct(">cI").pack
_TAG_I32 = Struct(">ci").pack
_TAG_I64 = Struct(">cq").pack
_TAG_F64 = Struct(">cd").pack
_TAG_DECIMAL = Struct(">cBi").pack
_TAG_U64 = Struct(">cQ").pack

# Type tags of what nearly all headers are.
_STRING = 0x53
_ARRAY = 0x41
LONG = 0x4C

#: What a table may nest; deeper is taken for a value that contains itself.
_MAX_DEPTH = 32
#: Encoded names are remembered up to so many, and then forgotten all at once.
_MAX_NAMES = 1024

_INT32 = 1 << 31
_INT64 = 1 << 63
_names: dict[str, bytes] = {}
_known_names: dict[bytes, str] = {}


class MalformedTable(ValueError):
    """The bytes are no field table."""


#: What reading a table that is none raises: our own word, or whatever it ran into.
GARBLED = (MalformedTable, IndexError, struct_error, UnicodeDecodeError, OverflowError)


# --- writing


def encode_table(table: Mapping[str, Any], where: str = "", depth: int = 0) -> bytes:
    """
    *table* with its four bytes of length in front; *where* and *depth* say what it stands in.

    Raises:
        UnserializableValueError: a name or a value that a field table cannot hold; it is named.
    """
    # Every request goes through here, so the types that nearly every header has are written in
    # place: a call for each costs more than the writing.
    parts = []
    for name, value in table.items():
        parts.append(_names.get(name) or _name(name, where))
        kind = type(value)
        if kind is str:
            try:
                raw = value.encode()
            except UnicodeEncodeError:
                raise _no_text(where, name) from None
            parts.append(_TAG_U32(b"S", len(raw)))
            parts.append(raw)
        elif kind is int and -_INT64 <= value < _INT64:
            small = -_INT32 < value < _INT32
            parts.append(_TAG_I32(b"I", value) if small else _TAG_I64(b"L", value))
        elif kind is tuple or kind is list:
            parts.append(_write_array(value, f"{where}.{name}" if where else name, depth))
        else:
            parts.append(_value(value, f"{where}.{name}" if where else name, depth))
    payload = b"".join(parts)
    return _U32.pack(len(payload)) + payload


def _name(name: str, where: str) -> bytes:
    if not isinstance(name, str):
        raise UnserializableValueError(
            f"the names of AMQP headers are strings; {_place(where)} has {name!r}, "
            f"a {type(name).__name__}"
        )
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise UnserializableValueError(
            f"the name of an AMQP header is Unicode text; {name[:40]!r} has a lone surrogate"
        ) from None
    if len(raw) > 255:
        raise UnserializableValueError(
            f"the name of an AMQP header has at most 255 bytes; {name[:40]!r}... has {len(raw)}"
        )
    if len(_names) >= _MAX_NAMES:
        _names.clear()
    encoded = _names[name] = bytes((len(raw),)) + raw
    return encoded


def _no_text(where: str, name: str = "") -> UnserializableValueError:
    place = f"{where}.{name}" if where and name else where or name
    return UnserializableValueError(
        f"{_place(place)} is a str with a lone surrogate, which is no Unicode text; "
        "send bytes instead"
    )


def _value(value: Any, where: str, depth: int) -> bytes:
    encode = _WRITERS.get(type(value))
    if encode is None:
        encode = next((w for t, w in _WRITERS.items() if isinstance(value, t)), None)
    if encode is None:
        raise UnserializableValueError(
            f"{_place(where)} is a {type(value).__name__}, which AMQP headers cannot hold; they "
            "take str, bytes, bool, int, float, Decimal, datetime, None, and lists and dicts of "
            "these"
        )
    return encode(value, where, depth)


def _write_bool(value: bool, where: str, depth: int) -> bytes:
    return b"t\x01" if value else b"t\x00"


def _write_int(value: int, where: str, depth: int) -> bytes:
    if -_INT32 < value < _INT32:
        return _TAG_I32(b"I", value)
    if -_INT64 <= value < _INT64:
        return _TAG_I64(b"L", value)
    raise UnserializableValueError(
        f"{_place(where)} is the int {_short(value)}, and AMQP's have 64 bits; send it as a str"
    )


def _write_float(value: float, where: str, depth: int) -> bytes:
    return _TAG_F64(b"d", value)


def _write_str(value: str, where: str, depth: int) -> bytes:
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise _no_text(where) from None
    return _TAG_U32(b"S", len(raw)) + raw


def _write_bytes(value: bytes | bytearray, where: str, depth: int) -> bytes:
    # py-amqp writes these as ``S``, and they come back as str if they happen to be UTF-8. All its
    # versions read ``x``, and there bytes stay bytes.
    return _TAG_U32(b"x", len(value)) + bytes(value)


def _write_none(value: None, where: str, depth: int) -> bytes:
    return b"V"


def _write_decimal(value: Decimal, where: str, depth: int) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, int):
        mantissa = int("".join(map(str, digits)) or "0") * (10 ** min(max(exponent, 0), 10))
        scale = max(-exponent, 0)
        if mantissa <= 0x7FFFFFFF and scale <= 255 and exponent <= 10:
            return _TAG_DECIMAL(b"D", scale, -mantissa if sign else mantissa)
    raise UnserializableValueError(
        f"{_place(where)} is the Decimal {_short(value)}, and AMQP's have 31 bits and at most 255 "
        "places; send it as a str"
    )


def _write_datetime(value: datetime, where: str, depth: int) -> bytes:
    return _TAG_U64(b"T", epoch_seconds(value, _place(where)))


def epoch_seconds(moment: datetime, what: str) -> int:
    """Whole seconds since 1970; a datetime without a zone is taken for UTC, as py-amqp does."""
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if seconds < 0:
        raise UnserializableValueError(
            f"{what} is {moment.isoformat()}, and AMQP's times begin in 1970; send it as a str"
        )
    return seconds


def _write_table(value: Mapping[str, Any], where: str, depth: int) -> bytes:
    if depth >= _MAX_DEPTH:
        raise _too_deep(where)
    return b"F" + encode_table(value, where, depth + 1)


def _write_array(value: list[Any] | tuple[Any, ...], where: str, depth: int) -> bytes:
    if depth >= _MAX_DEPTH:
        raise _too_deep(where)
    parts = []
    for number, item in enumerate(value):
        if type(item) is str:
            try:
                raw = item.encode()
            except UnicodeEncodeError:
                raise _no_text(where) from None
            parts.append(_TAG_U32(b"S", len(raw)))
            parts.append(raw)
        else:
            parts.append(_value(item, f"{where}[{number}]", depth + 1))
    payload = b"".join(parts)
    return _TAG_U32(b"A", len(payload)) + payload


# In the order of isinstance for subclasses: a bool is an int.
_WRITERS: dict[type, Callable[[Any, str, int], bytes]] = {
    bool: _write_bool,
    int: _write_int,
    float: _write_float,
    str: _write_str,
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


def _too_deep(where: str) -> UnserializableValueError:
    return UnserializableValueError(
        f"{_place(where[:80])} is nested more than {_MAX_DEPTH} deep, or contains itself"
    )


def _place(where: str) -> str:
    return f"the header {where!r}" if where else "a table of headers"


def _short(value: object) -> str:
    text = str(value) if not isinstance(value, int) or abs(value) < 1 << 200 else hex(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


# --- reading


def decode_table(data: bytes, at: int, depth: int = 0) -> tuple[dict[str, Any], int]:
    """
    The table that begins at *at*, and the place after it.

    ``S`` gives a str, or bytes where it is not UTF-8; ``T`` a datetime in UTC.

    Raises:
        GARBLED: it is no table; one of these.
    """
    end = at + 4 + size_at(data, at)[0]
    if depth > 2 * _MAX_DEPTH or end > len(data):
        raise _out_of_bounds(depth)
    return read_entries(data, at + 4, end, depth)[0], end


def read_entries(data: bytes, at: int, end: int, depth: int = 0) -> tuple[dict[str, Any], str, int]:
    """
    The entries in ``data[at:end]``; the name of the last, and where the tag of its type is.

    Raises:
        GARBLED: they are none; one of these.
    """
    # As with writing: what nearly every header is, is read in place.
    table: dict[str, Any] = {}
    name, value_at = "", at
    while at < end:
        value_at = at + 1 + data[at]
        raw = data[at:value_at]
        name = _known_names.get(raw) or _read_name(raw)
        kind = data[value_at]
        if kind == _STRING:
            at = value_at + 5
            start, at = at, at + size_at(data, value_at + 1)[0]
            if at > end:
                raise MalformedTable("a header reaches over the end of its table")
            raw = data[start:at]
            try:
                table[name] = raw.decode()
            except UnicodeDecodeError:
                table[name] = raw
        elif kind == _ARRAY:
            table[name], at = _read_array(data, value_at + 1, depth)
        elif kind == LONG:
            at = value_at + 9
            (table[name],) = long_at(data, value_at + 1)
        else:
            table[name], at = _read(data, value_at, depth)
    if at != end:
        raise MalformedTable("a header reaches over the end of its table")
    return table, name, value_at


def _read_name(raw: bytes) -> str:
    name = raw[1:].decode()
    if len(_known_names) >= _MAX_NAMES:
        _known_names.clear()
    _known_names[raw] = name
    return name


def _out_of_bounds(depth: int) -> MalformedTable:
    if depth > 2 * _MAX_DEPTH:
        return MalformedTable("the table of headers is nested too deep")
    return MalformedTable("the table of headers reaches over the end of its frame")


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    reader = _READERS.get(data[at])
    if reader is None:
        raise MalformedTable(f"unknown type of header {data[at : at + 1]!r}")
    return reader(data, at + 1, depth)


def _read_text(data: bytes, at: int) -> tuple[str | bytes, int]:
    raw, end = _read_bytes(data, at, 0)
    try:
        return raw.decode(), end
    except UnicodeDecodeError:
        return raw, end


def _read_bytes(data: bytes, at: int, depth: int) -> tuple[bytes, int]:
    (size,) = _U32.unpack_from(data, at)
    at += 4
    end = at + size
    if end > len(data):
        raise MalformedTable("a header reaches over the end of its frame")
    return data[at:end], end


def _read_array(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    end = at + 4 + size_at(data, at)[0]
    if depth > 2 * _MAX_DEPTH or end > len(data):
        raise _out_of_bounds(depth)
    at += 4
    array: list[Any] = []
    while at < end:
        if data[at] == _STRING:
            start = at + 5
            at = start + size_at(data, at + 1)[0]
            if at > end:
                raise MalformedTable("a text reaches over the end of its array")
            try:
                array.append(data[start:at].decode())
            except UnicodeDecodeError:
                array.append(data[start:at])
        else:
            value, at = _read(data, at, depth + 1)
            array.append(value)
    if at != end:
        raise MalformedTable("an array reaches over its end")
    return array, end


def _read_time(data: bytes, at: int, depth: int) -> tuple[datetime | int, int]:
    (stamp,) = _U64.unpack_from(data, at)
    moment = from_epoch(stamp)
    return stamp if moment is None else moment, at + 8


def from_epoch(stamp: int) -> datetime | None:
    """The time of an AMQP timestamp, in UTC; ``None`` where Python's datetime ends before it."""
    # Past the year 2106 it is rather milliseconds, which some clients send (pamqp reads it so too).
    seconds = stamp / 1000 if stamp > 0xFFFFFFFF else stamp
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _read_decimal(data: bytes, at: int, depth: int) -> tuple[Decimal, int]:
    scale, mantissa = _SCALED.unpack_from(data, at)
    return Decimal(mantissa).scaleb(-scale), at + 5


def _fixed(shape: str) -> Callable[[bytes, int, int], tuple[Any, int]]:
    struct = Struct(shape)
    unpack, size = struct.unpack_from, struct.size

    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return unpack(data, at)[0], at + size

    return read


_U64 = Struct(">Q")
_SCALED = Struct(">Bi")
_READERS: dict[int, Callable[[bytes, int, int], tuple[Any, int]]] = {
    ord("t"): _fixed(">?"),
    ord("b"): _fixed(">b"),
    ord("B"): _fixed(">B"),
    ord("s"): _fixed(">h"),
    ord("U"): _fixed(">h"),
    ord("u"): _fixed(">H"),
    ord("I"): _fixed(">i"),
    ord("i"): _fixed(">I"),
    ord("l"): _fixed(">q"),
    ord("L"): _fixed(">q"),
    ord("f"): _fixed(">f"),
    ord("d"): _fixed(">d"),
    ord("D"): _read_decimal,
    ord("S"): lambda data, at, depth: _read_text(data, at),
    ord("x"): _read_bytes,
    ord("A"): _read_array,
    ord("F"): lambda data, at, depth: decode_table(data, at, depth + 1),
    ord("T"): _read_time,
    ord("V"): lambda data, at, depth: (None, at),
    0: lambda data, at, depth: (None, at),
}

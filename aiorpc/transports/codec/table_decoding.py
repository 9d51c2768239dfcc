"""
Reads AMQP field tables. Pure functions: nothing here awaits or does I/O.

This module reads all types of RabbitMQ's errata
(https://www.rabbitmq.com/amqp-0-9-1-errata), and py-amqp's type ``U``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct, error as struct_error
from typing import Any

__all__ = [
    "GARBLED",
    "MalformedTable",
    "decode_table",
    "from_epoch",
    "read_entries",
    "size_at",
]

size_at = Struct(">I").unpack_from
_time_at = Struct(">Q").unpack_from
_decimal_at = Struct(">Bi").unpack_from

_TEXT = ord("S")

#: The deepest nesting that is read. It is deeper than clients write.
_MAX_DEPTH = 64
#: Cached decoded names. A full cache is emptied.
_MAX_NAMES = 1024
_names: dict[bytes, str] = {}


class MalformedTable(ValueError):
    """The bytes are not a field table."""


#: The errors of these functions for bytes that are not a field table.
GARBLED = (MalformedTable, IndexError, struct_error, UnicodeDecodeError, OverflowError)


def decode_table(data: bytes, at: int, depth: int = 0) -> tuple[dict[str, Any], int]:
    """
    Return the field table that begins at *at*, and its end.

    A text (``S``) is a str, or bytes if it is not UTF-8; a time (``T``) is a datetime in UTC.

    Raises:
        GARBLED: any of these errors, if the bytes are not a field table.
    """
    end = _end_of(data, at, depth)
    return read_entries(data, at + 4, end, depth)[0], end


def read_entries(data: bytes, at: int, end: int, depth: int = 0) -> tuple[dict[str, Any], str, int]:
    """
    Return the entries in ``data[at:end]``, the last entry's name, and the index of its type tag.

    Raises:
        GARBLED: any of these errors, if the bytes are not entries of a field table.
    """
    table: dict[str, Any] = {}
    name, tag_at = "", at
    while at < end:
        tag_at = at + 1 + data[at]
        raw = data[at:tag_at]
        name = _names.get(raw) or _read_name(raw)
        if data[tag_at] == _TEXT:  # without a call: nearly every header is text (ADR 6)
            start = tag_at + 5
            at = start + size_at(data, tag_at + 1)[0]
            raw = data[start:at]
            try:
                table[name] = raw.decode()
            except UnicodeDecodeError:
                table[name] = raw
        else:
            read = _READERS.get(data[tag_at], _read_unknown)
            table[name], at = read(data, tag_at + 1, depth)
    if at != end:
        raise MalformedTable("a header is longer than its table")
    return table, name, tag_at


def _end_of(data: bytes, at: int, depth: int) -> int:
    """Return the end of the table or array whose length is at *at*."""
    if depth > _MAX_DEPTH:
        raise MalformedTable("the table of headers is nested too deep")
    end: int = at + 4 + size_at(data, at)[0]
    if end > len(data):
        raise MalformedTable("the table of headers is longer than its frame")
    return end


def _read_name(raw: bytes) -> str:
    name = raw[1:].decode()
    if len(_names) >= _MAX_NAMES:
        _names.clear()
    _names[raw] = name
    return name


def _read_unknown(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    raise MalformedTable(f"a header has the unknown type {data[at - 1 : at]!r}")


def _read_bytes(data: bytes, at: int, depth: int) -> tuple[bytes, int]:
    end = at + 4 + size_at(data, at)[0]
    if end > len(data):
        raise MalformedTable("a header is longer than its frame")
    return data[at + 4 : end], end


def _read_array(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    end = _end_of(data, at, depth)
    at += 4
    array: list[Any] = []
    while at < end:
        if data[at] == _TEXT:
            start = at + 5
            at = start + size_at(data, at + 1)[0]
            raw = data[start:at]
            try:
                array.append(raw.decode())
            except UnicodeDecodeError:
                array.append(raw)
        else:
            item, at = _READERS.get(data[at], _read_unknown)(data, at + 1, depth + 1)
            array.append(item)
    if at != end:
        raise MalformedTable("an item is longer than its array")
    return array, end


def _read_table(data: bytes, at: int, depth: int) -> tuple[dict[str, Any], int]:
    return decode_table(data, at, depth + 1)


def _read_none(data: bytes, at: int, depth: int) -> tuple[None, int]:
    return None, at


def _read_time(data: bytes, at: int, depth: int) -> tuple[datetime | int, int]:
    (stamp,) = _time_at(data, at)
    moment = from_epoch(stamp)
    return stamp if moment is None else moment, at + 8


#: The end of the year 9999 in seconds, where datetimes end.
_LAST_SECOND = 253_402_300_799


def from_epoch(stamp: int) -> datetime | None:
    """Return the time of an AMQP timestamp in UTC; ``None`` if a datetime cannot hold it."""
    # Some clients send milliseconds. In milliseconds, a larger number is a time after 1978.
    seconds = stamp / 1000 if stamp > _LAST_SECOND else stamp
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _read_decimal(data: bytes, at: int, depth: int) -> tuple[Decimal, int]:
    scale, mantissa = _decimal_at(data, at)
    return Decimal(mantissa).scaleb(-scale), at + 5


def _fixed(shape: str) -> Callable[[bytes, int, int], tuple[Any, int]]:
    """Return a reader for values of a fixed size; *shape* is a :mod:`struct` format."""
    struct = Struct(shape)
    unpack, size = struct.unpack_from, struct.size

    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return unpack(data, at)[0], at + size

    return read


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
    ord("x"): _read_bytes,
    ord("A"): _read_array,
    ord("F"): _read_table,
    ord("T"): _read_time,
    ord("V"): _read_none,
    0: _read_none,
}

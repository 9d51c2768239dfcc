"""
The headers of a message, to bytes and back. Sans I/O.

They are a field table like any other. But what a caller sends differs from request to request in
the deadline alone, a long integer that stands last: all before it is written, and read, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any

from ...wire.message import FilledHeaders, HeaderTemplate
from .table import LONG, MalformedTable, decode_table, encode_table, long_at, read_entries, size_at

__all__ = ["decode_headers", "encode_headers"]

_pack_long = Struct(">q").pack
_TEXT = frozenset({str})

#: At most so many templates are remembered, and then forgotten all at once. Few send often: a call
#: out of a worker has a stack of ids of its own.
_MAX_TEMPLATES = 64
#: The longest that is remembered, in bytes.
_MAX_LENGTH = 512
#: Tables without the eight bytes of their last entry.
_written: dict[HeaderTemplate, bytes] = {}
_read: dict[bytes, HeaderTemplate] = {}


def encode_headers(headers: Mapping[str, Any]) -> bytes:
    """
    *headers* as a field table.

    Raises:
        UnserializableValueError: a name or a value that a field table cannot hold; it is named.
    """
    if type(headers) is FilledHeaders:
        written = _written.get(headers.template) or _write(headers.template)
        return written + _pack_long(headers.value)
    return encode_table(headers)


def _write(template: HeaderTemplate) -> bytes:
    table = encode_table({**template.fields, template.blank: 1 << 62})  # too large for 32 bits
    if len(_written) >= _MAX_TEMPLATES:
        _written.clear()
    written = _written[template] = table[:-8]
    return written


def decode_headers(data: bytes, at: int) -> tuple[Mapping[str, Any], int]:
    """
    The table that begins at *at*, and the place after it. It is to be read, and not changed: what
    is in it may be in others as well.

    Raises:
        GARBLED: it is no table; one of these.
    """
    end = at + 4 + size_at(data, at)[0]
    if end > len(data):
        raise MalformedTable("the table of headers reaches over the end of its frame")
    if end - at <= 13 or data[end - 9] != LONG:
        return decode_table(data, at)
    before = data[at + 4 : end - 8]
    template = _read.get(before)
    if template is not None:
        return FilledHeaders(template, long_at(data, end - 8)[0]), end
    table, last, last_at = read_entries(data, at + 4, end)
    if last_at == end - 9 and len(before) <= _MAX_LENGTH and _is_simple(table):
        fields = {name: value for name, value in table.items() if name != last}
        if len(_read) >= _MAX_TEMPLATES:
            _read.clear()
        _read[before] = HeaderTemplate(fields, last)
    return table, end


def _is_simple(table: dict[str, Any]) -> bool:
    """Whether there is nothing in it that holds more than text."""
    return all(
        type(value) in (str, int) or (type(value) is list and _TEXT.issuperset(map(type, value)))
        for value in table.values()
    )

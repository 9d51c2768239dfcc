"""
Encodes and decodes the headers of messages. Pure functions; no I/O, no await.

Headers are a field table. Tables of one :class:`.HeaderTemplate` differ only in their last eight
bytes, the deadline. So the bytes before the deadline are encoded and decoded once (ADR 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any

from ...wire.headers import FilledHeaders, HeaderTemplate, template_of
from ...wire.names import DEADLINE
from .table_decoding import (
    LONG,
    MalformedTable,
    decode_table,
    long_at,
    read_entries,
    size_at,
)
from .table_encoding import encode_table

__all__ = ["NO_HEADERS", "decode_headers", "encode_headers"]

_pack_long = Struct(">q").pack
NO_HEADERS = encode_table({})

#: Cached templates; a full cache is emptied. Few clients repeat a template: each call from a worker
#: has a different call id stack.
_MAX_TEMPLATES = 64
#: Bytes of the largest table that becomes a template.
_MAX_LENGTH = 512
#: Templates by the bytes of their table, without length and deadline.
_known: dict[bytes, HeaderTemplate] = {}


def encode_headers(headers: Mapping[str, Any]) -> bytes:
    """
    Return *headers* as a field table.

    Raises:
        UnserializableValueError: a field table cannot hold a name or value, which the text names.
    """
    if type(headers) is FilledHeaders:  # the type first: `len` of it runs Python code
        template = headers.template
        return (template.encoded or _encode(template)) + _pack_long(headers.deadline)
    return encode_table(headers) if headers else NO_HEADERS


def _encode(template: HeaderTemplate) -> bytes:
    table = encode_table({**template.fields, DEADLINE: 1 << 62})  # a value of eight bytes
    template.encoded = table[:-8]
    return template.encoded


def decode_headers(data: bytes, at: int) -> tuple[Mapping[str, Any], int]:
    """
    Return the field table that begins at *at*, and its end.

    Do not change the headers: other messages may share them.

    Raises:
        GARBLED: any of these errors, if the bytes are not a field table.
    """
    end = at + 4 + size_at(data, at)[0]
    if end > len(data):
        raise MalformedTable("the table of headers is longer than its frame")
    if end - at <= 13 or data[end - 9] != LONG:
        return decode_table(data, at)
    before = data[at + 4 : end - 8]
    template = _known.get(before)
    if template is not None:
        return FilledHeaders(template, long_at(data, end - 8)[0]), end
    table, last, last_at = read_entries(data, at + 4, end)
    if last == DEADLINE and last_at == end - 9 and len(before) <= _MAX_LENGTH:
        template = template_of({name: value for name, value in table.items() if name != DEADLINE})
        if template is not None:
            if len(_known) >= _MAX_TEMPLATES:
                _known.clear()
            _known[before] = template
    return table, end

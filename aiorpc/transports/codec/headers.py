"""
Encodes and decodes the headers of messages. Pure functions; no I/O, no await.

Headers are a field table. Tables of one :class:`.HeaderTemplate` differ only in their last 13
bytes, the digits of the deadline. So the bytes before them are encoded and decoded once (ADR 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...wire.headers import FilledHeaders, HeaderTemplate, template_of
from ...wire.names import DEADLINE
from .table_decoding import MalformedTable, decode_table, read_entries
from .table_encoding import encode_table

__all__ = ["NO_HEADERS", "decode_headers", "encode_headers"]

NO_HEADERS = encode_table({})

#: Digits of a deadline in epoch milliseconds, from 2001 to 2286.
_DIGITS = 13
#: What stands between the name of a deadline and its digits: the tag and the length of the text.
_TEXT = b"S" + _DIGITS.to_bytes(4, "big")

#: Cached templates; a full cache is emptied. Few clients repeat a template: each call from a worker
#: has a different call id stack.
_MAX_TEMPLATES = 64
#: Bytes of the largest table that becomes a template.
_MAX_LENGTH = 512
#: Templates by the bytes of their table, without length and digits.
_known: dict[bytes, HeaderTemplate] = {}


def encode_headers(headers: Mapping[str, Any]) -> bytes:
    """
    Return *headers* as a field table.

    Raises:
        UnserializableValueError: a field table cannot hold a name or value, which the text names.
    """
    if type(headers) is FilledHeaders:  # the type first: `len` of it runs Python code
        digits = headers.digits
        if len(digits) == _DIGITS:
            template = headers.template
            return (template.encoded or _encode(template)) + digits
    return encode_table(headers) if headers else NO_HEADERS


def _encode(template: HeaderTemplate) -> bytes:
    table = encode_table({**template.fields, DEADLINE: "0" * _DIGITS})
    template.encoded = table[:-_DIGITS]
    return template.encoded


def decode_headers(data: bytes, at: int, size: int) -> tuple[Mapping[str, Any], int]:
    """
    Return the field table of *size* bytes whose length begins at *at*, and its end.

    Do not change the headers: other messages may share them.

    Raises:
        GARBLED: any of these errors, if the bytes are not a field table.
    """
    end = at + 4 + size
    if end > len(data):
        raise MalformedTable("the table of headers is longer than its frame")
    if size > _MAX_LENGTH:
        return decode_table(data, at)
    digits_at = end - _DIGITS
    before = data[at + 4 : digits_at]
    template = _known.get(before)
    if template is not None:
        digits = data[digits_at:end]
        if digits.isdigit() and digits >= b"1":
            return FilledHeaders(template, digits), end
    table, last, last_at = read_entries(data, at + 4, end)
    if last == DEADLINE and data[last_at:digits_at] == _TEXT:
        template = template_of({name: value for name, value in table.items() if name != DEADLINE})
        if template is not None:
            if len(_known) >= _MAX_TEMPLATES:
                _known.clear()
            _known[before] = template
    return table, end

"""
Encodes and decodes the headers of messages. Pure functions; no I/O, no await.

Headers are a field table. Tables of one :class:`.HeaderTemplate` differ only in their last 13
bytes, the digits of the deadline. So the bytes before them are encoded and decoded once (ADR 6). In
a traced request, the ``traceparent`` stands before the deadline, and differs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...wire.headers import FilledHeaders, HeaderTemplate, template_of
from ...wire.names import DEADLINE, TRACEPARENT, TRACEPARENT_LENGTH
from .table_decoding import MalformedTable, decode_table, read_entries
from .table_encoding import encode_table

__all__ = ["NO_HEADERS", "decode_headers", "encode_headers"]

NO_HEADERS = encode_table({})

#: Digits of a deadline in epoch milliseconds, from 2001 to 2286.
_DIGITS = 13
#: What stands between the name of a deadline and its digits: the tag and the length of the text.
_TEXT = b"S" + _DIGITS.to_bytes(4, "big")

#: What stands before the text of a ``traceparent``.
_TRACE = encode_table({TRACEPARENT: "0" * TRACEPARENT_LENGTH})[4:-TRACEPARENT_LENGTH]
#: What stands between the text of a ``traceparent`` and the digits of the deadline behind it.
_BETWEEN = encode_table({DEADLINE: "0" * _DIGITS})[4:-_DIGITS]
#: The bytes from the text of a ``traceparent`` to the end of its table.
_TRACED = TRACEPARENT_LENGTH + len(_BETWEEN) + _DIGITS

#: Cached templates; a full cache is emptied. Few clients repeat a template: each call from a worker
#: has a different call id stack.
_MAX_TEMPLATES = 64
#: Bytes of the largest table that becomes a template.
_MAX_LENGTH = 512
#: Templates by the bytes of their table, without its length and what differs at its end.
_known: dict[bytes, HeaderTemplate] = {}
_known_traced: dict[bytes, HeaderTemplate] = {}


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
    base = template.base
    if base is None:
        table = encode_table({**template.fields, DEADLINE: "0" * _DIGITS})
        template.encoded = table[:-_DIGITS]
    else:
        if not base.before_trace:
            trace = {TRACEPARENT: "0" * TRACEPARENT_LENGTH, DEADLINE: "0" * _DIGITS}
            base.before_trace = encode_table({**base.fields, **trace})[:-_TRACED]
        text = template.traceparent.encode()
        template.encoded = b"".join((base.before_trace, text, _BETWEEN))
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
    if _known_traced and data.startswith(_BETWEEN, digits_at - len(_BETWEEN)):
        trace_at = end - _TRACED
        template = _known_traced.get(data[at + 4 : trace_at])
        if template is not None:
            digits, trace = data[digits_at:end], data[trace_at : trace_at + TRACEPARENT_LENGTH]
            if digits.isdigit() and digits >= b"1" and trace.isascii():
                return FilledHeaders(template.with_trace(trace.decode()), digits), end
    table, last, last_at = read_entries(data, at + 4, end)
    if last == DEADLINE and data[last_at:digits_at] == _TEXT:
        if TRACEPARENT in table:
            if data.startswith(_TRACE, max(at, end - _TRACED - len(_TRACE))):
                _learn_traced(table, data[at:end])
        else:
            _learn({name: table[name] for name in table if name != DEADLINE}, before, _known)
    return table, end


def _learn_traced(table: dict[str, Any], data: bytes) -> None:
    """Cache the template of *table*, whose bytes are *data*, if its trace stands at the end."""
    fields = dict(table)
    digits, trace = fields.pop(DEADLINE).encode(), fields.pop(TRACEPARENT)
    if type(trace) is not str or len(trace) != TRACEPARENT_LENGTH or not trace.isascii():
        return
    template = template_of(fields)
    # A peer may repeat names, or write a value in another way: then the places differ.
    if template is None:
        return
    if encode_headers(FilledHeaders(template.with_trace(trace), digits)) == data:
        _learn(fields, data[4:-_TRACED], _known_traced)


def _learn(fields: dict[str, Any], before: bytes, known: dict[bytes, HeaderTemplate]) -> None:
    template = template_of(fields)
    if template is not None:
        if len(known) >= _MAX_TEMPLATES:
            known.clear()
        known[before] = template

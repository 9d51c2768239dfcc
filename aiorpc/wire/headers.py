"""
Converts a call's context to message headers, and back. Pure functions and values; no I/O.

The requests of one client differ in one header only: the deadline. The other headers form a
:class:`HeaderTemplate`, which we encode and decode only once (ADR 6 has the figures).
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..context import EMPTY, Context
from ..exceptions import UnserializableValueError
from .names import (
    ADDED_PREFIXES,
    CALL_ID_STACK,
    COMPRESSION,
    DEADLINE,
    IDEMPOTENCY_KEY,
    MESSAGE_HEADERS,
    PREFIX,
    RESENT,
    STREAM,
    TRACE_HEADERS,
    TRACEPARENT,
    TRACEPARENT_LENGTH,
)

__all__ = [
    "FilledHeaders",
    "HeaderTemplate",
    "Meaning",
    "context_headers",
    "context_of",
    "read_headers",
    "template_of",
    "traced_template",
]


def context_headers(context: Context) -> dict[str, Any]:
    """
    Return the headers that carry the context data and the call id stack of *context*.

    Raises:
        UnserializableValueError: a key of the context data is not a str.
    """
    try:
        headers = {
            (key if key.startswith(PREFIX) or key in TRACE_HEADERS else PREFIX + key): value
            for key, value in context.data.items()
            if value is not None
        }
    except AttributeError:
        kinds = sorted({type(key).__name__ for key in context.data if not isinstance(key, str)})
        raise UnserializableValueError(
            f"the context data has a key of type {', '.join(kinds)}: keys become names of headers, "
            "so write them as str"
        ) from None
    headers.pop(DEADLINE, None)  # context data with this name must not look like a deadline
    if context.call_id_stack:
        headers[CALL_ID_STACK] = context.call_id_stack
    return headers


def context_of(headers: Mapping[str, Any]) -> Context:
    """
    Return the call id stack and the context data in *headers*, without the deadline.

    As in Nameko (trap 22), every header is context data, except the headers of the broker and of
    aiorpc. aiorpc ignores a call id stack that is not an array; Nameko raises an error.
    """
    stack: tuple[str, ...] = ()
    data: dict[str, Any] | None = None
    for key, value in headers.items():
        if key == CALL_ID_STACK:
            if type(value) is list or type(value) is tuple:
                stack = tuple([item for item in value if type(item) is str])
        elif key == DEADLINE:
            pass
        elif key not in MESSAGE_HEADERS:
            name = key.removeprefix(PREFIX)  # a Nameko hop adds the prefix to any header
            if name.startswith(ADDED_PREFIXES):
                continue
            if name != key and name in TRACE_HEADERS and name in headers:
                continue  # a Nameko hop copied an older value beside the sender's own
            if data is None:
                data = {}
            # A handler may change this list, and the service may send the message again.
            data[name] = value[:] if type(value) is list else value
    return Context(stack, EMPTY if data is None else data)


class Meaning(msgspec.Struct, frozen=True, gc=False):
    """
    The decoded headers of a request, without the deadline.

    Attributes:
        stack, data: see :class:`aiorpc.context.Context`; several requests may share *data*.
        resent: whether the request was sent before.
        compressed: whether the body is compressed.
        window: the number of items that the caller of a stream buffers; 0 if it wants one result.
        keyed: whether the call has an idempotency key (:mod:`.keys`).
    """

    stack: tuple[str, ...] = ()
    data: Mapping[str, Any] = EMPTY
    resent: bool = False
    compressed: bool = False
    window: int = 0
    keyed: bool = False


_NO_MEANING = Meaning()


def read_headers(headers: Mapping[str, Any] | None) -> tuple[Meaning, int | None]:
    """Decode the *headers* of a request. Return also the deadline in epoch milliseconds, if any."""
    if not headers:
        return _NO_MEANING, None
    deadline = headers.get(DEADLINE)
    if type(deadline) is str and len(deadline) <= _MAX_DIGITS:
        try:
            return _meaning_of(headers), int(deadline)
        except ValueError:
            pass
    # Older versions send an integer (ADR 15); another type is no deadline.
    return _meaning_of(headers), deadline if type(deadline) is int else None


def _meaning_of(headers: Mapping[str, Any]) -> Meaning:
    context = context_of(headers)
    window = headers.get(STREAM, 0)
    return Meaning(
        context.call_id_stack,
        context.data,
        RESENT in headers,
        COMPRESSION in headers,
        max(1, window) if type(window) is int and STREAM in headers else 0,
        IDEMPOTENCY_KEY in headers,
    )


class HeaderTemplate(msgspec.Struct, eq=False):
    """
    The headers that many requests share: all headers except the deadline.

    Attributes:
        fields: the shared headers, as AMQP delivers them. Nobody may change them.
        meaning: the decoded headers.
        encoded: the field table without the digits of the deadline, which are its end. The codec
            sets this field when it first writes the template.
        traceparent: one more header, which stands before the deadline: the trace of one request, of
            ``TRACEPARENT_LENGTH`` characters. Empty: there is none.
        base: the template without the trace; ``None`` if there is none.
        before_trace: as *encoded*, but the part before the text of the trace.
    """

    fields: Mapping[str, Any]
    meaning: Meaning
    encoded: bytes = b""
    traceparent: str = ""
    base: HeaderTemplate | None = None
    before_trace: bytes = b""

    def with_trace(self, traceparent: str) -> HeaderTemplate:
        """Return this template with a trace."""
        return HeaderTemplate(self.fields, self.meaning, b"", traceparent, self)


class _AbstractStruct(msgspec.StructMeta, ABCMeta):
    """The metaclass of a Struct that is also an abstract collection."""


class FilledHeaders(
    Mapping[str, Any], msgspec.Struct, frozen=True, eq=False, gc=False, metaclass=_AbstractStruct
):
    """
    The headers of one request: the headers of a template and a deadline. Read-only.

    Attributes:
        digits: the deadline in epoch milliseconds, as text: 13 digits from 2001 to 2286.
    """

    template: HeaderTemplate
    digits: bytes

    def __getitem__(self, name: str) -> Any:
        if name == DEADLINE:
            return self.digits.decode()
        if name == TRACEPARENT and self.template.traceparent:
            return self.template.traceparent
        return self.template.fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.template.fields) + (2 if self.template.traceparent else 1)

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the headers that the caller may change."""
        template = self.template
        trace = {TRACEPARENT: template.traceparent} if template.traceparent else {}
        return {**template.fields, **trace, DEADLINE: self.digits.decode()}

    #: The serializers encode the dict that this method returns.
    __json__ = to_dict

    def __repr__(self) -> str:
        return repr(self.to_dict())


#: Digits of the latest deadline that we read: enough for an integer of 64 bits.
_MAX_DIGITS = 19
#: Values of these types cannot change, and AMQP delivers them unchanged.
_CONSTANT = frozenset({str, int, float, bool, bytes})
_TEXT = frozenset({str})


def template_of(headers: Mapping[str, Any]) -> HeaderTemplate | None:
    """
    Return the template for requests with these *headers*, which contain no deadline.

    Return ``None`` if a value can change, for example a list: then each request needs a copy.
    """
    fields = {k: list(v) if type(v) is tuple else v for k, v in headers.items()}
    if all(type(v) in _CONSTANT or _is_stack(k, v) for k, v in fields.items()):
        return HeaderTemplate(fields, _meaning_of(fields))
    return None


def traced_template(
    template: HeaderTemplate | None, own: Context, context: Context
) -> HeaderTemplate | None:
    """
    Return *template*, of the context *own* without context data, with the trace of *context*.
    Return ``None`` if *context* differs from *own* in anything else.
    """
    data = context.data
    if (
        template is not None
        and len(data) == 1
        and not own.data
        and context.call_id_stack is own.call_id_stack
        and type(trace := data.get(TRACEPARENT)) is str
        and len(trace) == TRACEPARENT_LENGTH
        and trace.isascii()
    ):
        return template.with_trace(trace)
    return None


def _is_stack(name: str, value: Any) -> bool:
    # The code that reads the call id stack makes a tuple of the list, so nobody changes the list.
    return name == CALL_ID_STACK and type(value) is list and _TEXT.issuperset(map(type, value))

"""
The headers of a message: to the context that it came with, and back. Pure; nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..context import EMPTY, Context
from ..exceptions import UnserializableValueError
from .message import HeaderTemplate
from .names import BROKER_HEADERS, CALL_ID_STACK, COMPRESSION, DEADLINE, OWN_PREFIX, PREFIX, RESENT

__all__ = ["Meaning", "context_headers", "context_of", "header_template", "meaning_of"]


def context_headers(context: Context) -> dict[str, Any]:
    """
    The headers that carry the context data and the stack of *context*.

    Raises:
        UnserializableValueError: a key of the context data is no text.
    """
    try:
        headers = {
            (key if key.startswith(PREFIX) else PREFIX + key): value
            for key, value in context.data.items()
            if value is not None
        }
    except AttributeError:
        kinds = sorted({type(key).__name__ for key in context.data if not isinstance(key, str)})
        raise UnserializableValueError(
            f"the context data has a key of type {', '.join(kinds)}: keys are names of headers, "
            "so write them as str"
        ) from None
    headers.pop(DEADLINE, None)  # whatever somebody calls so, it is none
    if context.call_id_stack:
        headers[CALL_ID_STACK] = context.call_id_stack
    return headers


#: Of values that stay as they are; the stack is a tuple of str.
_LASTING = frozenset({str, int, float, bool, bytes})


def header_template(context: Context) -> HeaderTemplate | None:
    """
    The headers of the requests that are sent in *context*, under whatever deadline. ``None`` if
    they can change from one to the next: its context data has a list, say.
    """
    headers = context_headers(context)
    lasting = all(
        type(value) in _LASTING for name, value in headers.items() if name != CALL_ID_STACK
    )
    return HeaderTemplate(headers, DEADLINE) if lasting else None


class Meaning(msgspec.Struct, frozen=True, gc=False):
    """
    What the headers of a request say, but for the moment of its deadline.

    Attributes:
        stack, data: see :class:`aiorpc.context.Context`.
        dated: whether there is a deadline.
    """

    stack: tuple[str, ...]
    data: Mapping[str, Any]
    dated: bool
    resent: bool
    compressed: bool

    def copy_data(self) -> Mapping[str, Any]:
        """The context data of a template, for one of its requests to do with as it likes."""
        if not self.data:
            return EMPTY
        return {
            name: value[:] if type(value) is list else value for name, value in self.data.items()
        }


def meaning_of(headers: Mapping[str, Any]) -> Meaning:
    """Read the *headers* of a request."""
    context = context_of(headers)
    return Meaning(
        stack=context.call_id_stack,
        data=context.data,
        dated=type(headers.get(DEADLINE)) is int,
        resent=RESENT in headers,
        compressed=COMPRESSION in headers,
    )


def context_of(headers: Mapping[str, Any]) -> Context:
    """
    The stack and the context data. Nameko takes foreign headers for context data too (trap 22), and
    so do we, but for the broker's and ours. A stack that is none is dropped: Nameko dies of it.
    """
    stack: tuple[str, ...] = ()
    data: dict[str, Any] | None = None
    for key, value in headers.items():
        if key == CALL_ID_STACK:
            if type(value) is list or type(value) is tuple:
                stack = tuple([item for item in value if type(item) is str])
        elif key == DEADLINE:
            pass
        elif key not in BROKER_HEADERS:
            name = key.removeprefix(PREFIX)  # a Nameko hop puts it before ours, too
            if name.startswith(OWN_PREFIX):
                continue
            if data is None:
                data = {}
            # Headers may be shared among messages; what is in them then is text, or lists of it.
            data[name] = value[:] if type(value) is list else value
    return Context(stack, EMPTY if data is None else data)

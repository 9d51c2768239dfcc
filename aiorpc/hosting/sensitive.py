"""
Finds the values of sensitive arguments, for logs and replies that must not show them. Only failed
calls of entrypoints with ``sensitive_arguments`` come here. Pure functions.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..call import Call
from ..extensions import Entrypoint
from ..wire.errors import text_of
from ..wire.objects import fields_of

__all__ = ["secrets_of"]

#: The most levels of a sensitive value, and the most values of all sensitive arguments.
_DEPTH = 10
_MOST = 1000


def secrets_of(entrypoint: Entrypoint, call: Call, service_cls: type) -> tuple[str, ...]:
    """
    Return the texts of the sensitive arguments of *call*, as an error may show them.

    A name is ``argument``, or as in Nameko a part of one: ``argument.key`` or ``argument[0]``.
    """
    arguments: Mapping[str, Any] = call.kwargs
    try:
        signature = inspect.signature(getattr(service_cls, entrypoint.method_name))
        arguments = signature.bind(None, *call.args, **call.kwargs).arguments
    except (TypeError, ValueError, NameError):  # a decorator changed the signature
        pass
    found: dict[str, None] = {}
    for name in entrypoint.sensitive_arguments:
        for text in _texts(_part(arguments, re.findall(r"[^.\[\]]+", name)), _DEPTH):
            found.update(dict.fromkeys((text, repr(text)[1:-1])))
            if len(found) >= _MOST:
                break
    found.pop("", None)
    return tuple(found)


def _part(value: Any, path: list[str]) -> Any:
    for key in path:
        try:
            if isinstance(value, Mapping):
                value = value[key]
            elif isinstance(value, (list, tuple)):
                value = value[int(key)]
            else:
                value = getattr(value, key)
        except (KeyError, IndexError, ValueError, AttributeError):
            return None
    return value


def _texts(value: Any, depth: int) -> Iterator[str]:
    if value is None or isinstance(value, bool) or not depth:
        return
    if isinstance(value, bytes | bytearray):
        yield bytes(value).decode(errors="replace")
        yield repr(bytes(value))[2:-1]
        return
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    else:
        yield text_of(value)
        try:
            fields = fields_of(value)
        except TypeError:
            return
        parts = fields.values() if isinstance(fields, Mapping) else (fields,)
    for part in parts:
        yield from _texts(part, depth - 1)

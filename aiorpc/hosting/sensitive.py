"""
Finds the values of sensitive arguments, for logs and replies that must not show them. Pure
functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..call import Call
from ..declarations import argument_path, layers
from ..extensions import Entrypoint
from ..wire.errors import text_of
from ..wire.objects import fields_of
from ..wire.signatures import signature_of

__all__ = ["secrets_of"]

#: The most levels of a sensitive value, and the most values of all sensitive arguments.
_DEPTH = 10
_MOST = 1000


def secrets_of(entrypoint: Entrypoint, call: Call, service_cls: type) -> tuple[str, ...]:
    """
    Return the texts of the sensitive arguments of *call*, as an error may show them.

    A name is ``argument``, or as in Nameko a part of one: ``argument.key`` or ``argument[0]``. If a
    decorator changes the arguments so that we cannot find one, all arguments are sensitive.
    """
    bound, complete = _bound(entrypoint.method_name, call, service_cls)
    found: dict[str, None] = {}
    for name in entrypoint.sensitive_arguments:
        path = argument_path(name)
        values = [_part(each, path) for each in bound if path[0] in each]
        if not values and not complete:
            values = [call.args, call.kwargs]
        for text in _texts(values, _DEPTH + 1):
            found.update(dict.fromkeys((text, repr(text)[1:-1])))
            if len(found) >= _MOST:
                break
    found.pop("", None)
    return tuple(found)


def _bound(name: str, call: Call, service_cls: type) -> tuple[list[dict[str, Any]], bool]:
    """
    Return the arguments of *call* by their names, for the method and for each function that its
    decorators wrap; and whether all these functions take them.
    """
    static = isinstance(inspect.getattr_static(service_cls, name), staticmethod)
    args = call.args if static else (None, *call.args)
    bound, complete = [], True
    for function in layers(getattr(service_cls, name)):
        try:
            signature = signature_of(function, follow_wrapped=False)
            arguments = signature.bind(*args, **call.kwargs).arguments
        except (TypeError, ValueError, NameError):
            complete = False
            continue
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments = {**arguments.get(parameter.name, {}), **arguments}
        bound.append(arguments)
    return bound, complete


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

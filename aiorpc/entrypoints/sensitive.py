"""
Finds the sensitive arguments in the body of a message, so that who looks at a parked message does
not see them. Pure functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from ..declarations import argument_path, layers
from ..extensions import Entrypoint, Host
from ..wire.signatures import signature_of

__all__ = ["paths_in_call", "paths_in_payload"]


def paths_in_payload(entrypoint: Entrypoint, host: Host) -> tuple[tuple[str, ...], ...]:
    """
    Return the paths of the sensitive arguments in a body that is the only argument of the method.
    The path ``()`` is the whole body.
    """
    found: list[tuple[str, ...]] = []
    for name in entrypoint.sensitive_arguments:
        first, *rest = argument_path(name)
        positions = set(_positions(entrypoint, host, first))
        if not positions or 0 in positions:
            found.append(tuple(rest) if positions else ())
    return tuple(found)


def paths_in_call(entrypoint: Entrypoint, host: Host) -> tuple[tuple[str, ...], ...]:
    """
    Return the paths of the sensitive arguments in a body ``{"args": [...], "kwargs": {...}}``. If
    the signature does not have such an argument, because of a decorator, all are sensitive.
    """
    found: list[tuple[str, ...]] = []
    for name in entrypoint.sensitive_arguments:
        first, *rest = argument_path(name)
        positions = sorted(set(_positions(entrypoint, host, first)))
        if not positions:
            return (("args",), ("kwargs",))
        found.append(("kwargs", first, *rest))
        found += [("args", str(position), *rest) for position in positions if position >= 0]
    return tuple(found)


def _positions(entrypoint: Entrypoint, host: Host, argument: str) -> Iterator[int]:
    """
    Yield the positions of *argument* in the method and the functions that its decorators wrap; -1
    for an argument that is passed by its name only.
    """
    name = entrypoint.method_name
    static = isinstance(inspect.getattr_static(host.service_cls, name), staticmethod)
    for function in layers(getattr(host.service_cls, name)):
        try:
            parameters = signature_of(function, follow_wrapped=False).parameters.values()
        except (TypeError, ValueError, NameError):
            continue
        for position, parameter in enumerate(parameters, 0 if static else -1):
            if parameter.name == argument:
                positional = parameter.kind in _POSITIONAL
                yield position if positional else -1


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

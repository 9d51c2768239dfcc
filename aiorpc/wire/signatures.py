"""
Reads the signature of a method and the types in it, for :mod:`aiorpc.wire.arguments` and for
documents that describe methods. Pure functions: nothing here awaits or does I/O.
"""

from __future__ import annotations

import collections.abc
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Optional, get_args, get_origin, get_type_hints

from .conversion import Unsupported

__all__ = [
    "expected_type",
    "is_stream",
    "resolved",
    "result_type",
    "signature_of",
    "takes_self",
    "unwrapped",
]

if sys.version_info >= (3, 14):
    from annotationlib import Format

    # Python must read the signature even if a module imports a name only under TYPE_CHECKING.
    signature_of = partial(inspect.signature, annotation_format=Format.FORWARDREF)
else:
    signature_of = inspect.signature

_STREAMS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside decorators that use ``functools.wraps``."""
    inner: Callable[..., Any] = inspect.unwrap(function, stop=lambda f: hasattr(f, "__signature__"))
    return inner


def takes_self(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> bool:
    """
    Return whether the first of *parameters* is ``self``, if *function* belongs to a class.

    A bound method has no ``self`` in its signature, and ``(*args)`` takes ``self`` as an item.
    """
    first = parameters[0].kind if parameters else None
    return first in _POSITIONAL and not inspect.ismethod(function)


def expected_type(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """
    Return the type that *parameter* of *function* expects; ``Any`` if it has no annotation.

    Raises:
        Unsupported: the annotation cannot be resolved.
    """
    expected = resolved(function, parameter.annotation)
    if parameter.default is None:
        return Optional[expected]  # noqa: UP045 - `x: str = None` is old but common
    return expected


def result_type(function: Callable[..., Any]) -> Any:
    """
    Return the type of the results of *function*, without ``Awaitable`` and ``Coroutine`` around it;
    for a stream, the type of its items. ``Any`` if it has no annotation.

    Raises:
        Unsupported: the annotation cannot be resolved.
    """
    return _awaited(resolved(function, signature_of(function).return_annotation))


def is_stream(function: Callable[..., Any]) -> bool:
    """
    Return whether *function* is an async generator, or a function of a Protocol whose result is
    annotated as the iterator of one.
    """
    function = unwrapped(function)
    if inspect.isasyncgenfunction(function):
        return True
    if inspect.iscoroutinefunction(function):
        return False
    try:
        annotation = resolved(function, signature_of(function).return_annotation)
    except (Unsupported, ValueError, TypeError, NameError):
        return False
    return annotation in _STREAMS or get_origin(annotation) in _STREAMS


def resolved(function: Callable[..., Any], annotation: Any) -> Any:
    """
    Return the type that *annotation* of *function* names; ``Any`` for no annotation. Unresolvable
    other annotations do not matter.

    Raises:
        Unsupported: *annotation* cannot be resolved.
    """
    if annotation is inspect.Parameter.empty:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return get_type_hints(
            holder, globalns=getattr(function, "__globals__", {}), include_extras=True
        )["it"]
    except Exception as exc:
        raise Unsupported(
            f"its annotation {annotation!r} cannot be resolved at run time ({exc}); import its "
            "names outside of TYPE_CHECKING"
        ) from exc


def _awaited(annotation: Any) -> Any:
    """
    Return ``T`` for ``Awaitable[T]``, ``Coroutine[Any, Any, T]`` and ``AsyncIterator[T]``, else the
    annotation.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _STREAMS or origin in _STREAMS:
        return arguments[0] if arguments else Any
    if origin in (collections.abc.Awaitable, collections.abc.Coroutine) and arguments:
        return arguments[-1]
    return annotation

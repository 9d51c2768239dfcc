"""
Finds the type that a ``DependencyProvider`` provides, and makes a mock of that type. Pure
functions. From aiorpc, this file imports only the base class of providers.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar, Union, Unpack, get_args, get_origin
from unittest.mock import DEFAULT, AsyncMock, MagicMock, create_autospec
from uuid import UUID

from ..extensions import DependencyProvider

__all__ = ["mock_of_type", "provided_type"]

_VALUES = (str, bytes, bool, int, float, Decimal, UUID, date, datetime, time, timedelta)


def provided_type(provider: Any) -> Any:
    """
    Return the ``T`` of the base class ``DependencyProvider[T]`` of *provider*, also through generic
    classes; ``Any`` if no class declares ``T``.

    Args:
        provider: a class, or a generic class with its arguments.
    """
    cls = get_origin(provider) or provider
    if cls is DependencyProvider:
        return next(iter(get_args(provider)), Any)
    given = dict(zip(getattr(cls, "__parameters__", ()), get_args(provider), strict=False))
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if not (isinstance(origin, type) and issubclass(origin, DependencyProvider)):
            continue
        if get_args(base) and base.__parameters__:
            # A type variable without an argument stays a variable.
            base = base[tuple(given.get(each, each) for each in base.__parameters__)]
        provided = provided_type(base)
        if provided is not Any and not isinstance(provided, TypeVar):
            return provided
    return Any


def mock_of_type(provided: Any, name: str, *, inside: bool = True) -> Any:
    """
    Make an ``AsyncMock`` for an async callable, an empty dict for a mapping, an autospec for a
    class, and a ``MagicMock`` for other types. ``X | None`` counts as ``X``; if ``X`` is a plain
    value, such as a text, return ``None``.

    Args:
        inside: whether to mock by type also the class's properties, and the values of its
            asynchronous context managers.
    """
    given, provided = provided, _not_none(provided)
    if inside and (provided is types.NoneType or (given is not provided and provided in _VALUES)):
        return None
    cls = get_origin(provided) or provided
    if cls is Callable:
        returned = get_origin(get_args(provided)[-1])
        return (AsyncMock if returned in (Awaitable, Coroutine) else MagicMock)(name=name)
    if not isinstance(cls, type) or cls in (Any, object, types.UnionType):
        return MagicMock(name=name)
    if inspect.iscoroutinefunction(getattr(cls, "__call__", None)):  # noqa: B004 - is it async?
        return _callable_mock(cls, name)
    if issubclass(cls, Mapping):
        return {}
    mock = create_autospec(cls, instance=True)
    for attribute, given in _given_inside(cls) if inside else ():
        value = mock_of_type(given, f"{name}.{attribute}", inside=False)
        if isinstance(inspect.getattr_static(cls, attribute), property):
            setattr(mock, attribute, value)
        else:
            getattr(mock, attribute).return_value.__aenter__.return_value = value
    return mock


def _callable_mock(cls: type, name: str) -> AsyncMock:
    """Make a mock that is awaited itself, with an autospec of each method of *cls*."""
    called = inspect.getattr_static(cls, "__call__")
    mock = AsyncMock(name=name, side_effect=_check_options(called))
    methods = create_autospec(cls, instance=True)
    for attribute in dir(cls):
        member = getattr(cls, attribute)
        if not attribute.startswith("_") and callable(member):
            method = getattr(methods, attribute)
            if check := _check_options(member):
                method.side_effect = check
            setattr(mock, attribute, method)
    return mock


def _check_options(method: Any) -> Callable[..., Any] | None:
    """
    Return a side effect that refuses a keyword which the TypedDict in ``**options: Unpack[...]`` of
    *method* does not have. An autospec accepts it. ``None`` if *method* has no such options.
    """
    if not inspect.isfunction(method):
        return None
    parameters = inspect.signature(method).parameters
    options = [each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD]
    annotation = _annotation(method, options[0]) if options else None
    if get_origin(annotation) is not Unpack:
        return None
    known = {*parameters, *get_args(annotation)[0].__annotations__} - {"self", *options}

    def check(*_: Any, **given: Any) -> Any:
        for name in given.keys() - known:
            raise TypeError(
                f"{method.__name__}() has no option {name!r}. Its options: "
                f"{', '.join(sorted(known))}"
            )
        return DEFAULT

    return check


def _not_none(provided: Any) -> Any:
    """Return ``X`` for ``X | None``, and anything else unchanged."""
    if get_origin(provided) in (Union, types.UnionType):
        members = [member for member in get_args(provided) if member is not types.NoneType]
        if len(members) == 1:
            return members[0]
    return provided


def _given_inside(cls: type) -> Iterator[tuple[str, Any]]:
    """
    Yield each property of *cls* with its type, and each method for ``async with`` with the type of
    its value. An autospec does not know these types.
    """
    for name in dir(cls):
        member = inspect.getattr_static(cls, name, None)
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            given = _returned_by(member.fget)
        elif isinstance(member, types.FunctionType):
            given = _yielded_by(member)
        else:
            continue
        cls_given = get_origin(given) or given
        if isinstance(cls_given, type) and cls_given.__module__ != "builtins":
            yield name, given


def _yielded_by(method: types.FunctionType) -> Any:
    returned = _returned_by(method)
    kinds: tuple[Any, ...] = (AbstractAsyncContextManager,)
    if hasattr(method, "__wrapped__"):  # made by @asynccontextmanager
        kinds += (AsyncGenerator, AsyncIterator)
    return next(iter(get_args(returned)), None) if get_origin(returned) in kinds else None


def _returned_by(function: Any) -> Any:
    return _annotation(function, "return")


def _annotation(function: Any, name: str) -> Any:
    """Return the annotation of *name*; ``None`` if only a type checker can read it."""
    function = inspect.unwrap(function) if callable(function) else function
    annotation = getattr(function, "__annotations__", {}).get(name)
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, function.__globals__)
    except Exception:  # noqa: BLE001 - probably a name that only type checkers import
        return None

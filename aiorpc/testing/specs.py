"""
Mocks by type: which type a ``DependencyProvider`` provides, and what stands in for a value of it.

Knows ``typing`` and ``unittest.mock``, and of aiorpc the base class of providers alone.
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
from typing import Any, TypeVar, Union, get_args, get_origin
from unittest.mock import AsyncMock, MagicMock, create_autospec

from ..extensions import DependencyProvider

__all__ = ["mock_of_type", "provided_type"]


def provided_type(provider: Any) -> Any:
    """
    ``T`` of the ``DependencyProvider[T]`` that *provider* (a class, or a generic one with its
    arguments) derives from, over generic classes in between; ``Any`` where nobody says.
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
            # What nobody gives stays the variable it is.
            base = base[tuple(given.get(each, each) for each in base.__parameters__)]
        provided = provided_type(base)
        if provided is not Any and not isinstance(provided, TypeVar):
            return provided
    return Any


def mock_of_type(provided: Any, name: str, *, inside: bool = True) -> Any:
    """
    An ``AsyncMock`` for what is called and awaited, an empty dict for a mapping, an autospec of a
    class (of the one class in ``X | None``), else a ``MagicMock``.

    Args:
        inside: whether the class's properties, and what its asynchronous context managers yield,
            are mocks by type as well.
    """
    provided = _not_none(provided)
    cls = get_origin(provided) or provided
    if cls is Callable:
        returned = get_origin(get_args(provided)[-1])
        return (AsyncMock if returned in (Awaitable, Coroutine) else MagicMock)(name=name)
    if not isinstance(cls, type) or cls in (Any, object, types.UnionType):
        return MagicMock(name=name)
    if inspect.iscoroutinefunction(getattr(cls, "__call__", None)):  # noqa: B004 - is it async?
        return AsyncMock(name=name)
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


def _not_none(provided: Any) -> Any:
    """``X`` of ``X | None``; anything else as it is."""
    if get_origin(provided) in (Union, types.UnionType):
        members = [member for member in get_args(provided) if member is not types.NoneType]
        if len(members) == 1:
            return members[0]
    return provided


def _given_inside(cls: type) -> Iterator[tuple[str, Any]]:
    """
    The properties of *cls* with the class that each gives, and the methods to be entered by ``async
    with``, with the class that each yields. An autospec sees neither.
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
    if hasattr(method, "__wrapped__"):  # as @asynccontextmanager leaves it
        kinds += (AsyncGenerator, AsyncIterator)
    return next(iter(get_args(returned)), None) if get_origin(returned) in kinds else None


def _returned_by(function: Any) -> Any:
    """What its annotation says; ``None`` where that cannot be read outside a type checker."""
    function = inspect.unwrap(function) if callable(function) else function
    annotation = getattr(function, "__annotations__", {}).get("return")
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, function.__globals__)
    except Exception:  # noqa: BLE001 - a name that only type checkers import, most likely
        return None

"""
Loads the middleware that a configuration installs (``MIDDLEWARE``). Imports the user's modules; no
other I/O.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, cast

from .call import Middleware
from .config import MiddlewareEntry, Settings, read_entry
from .exceptions import ConfigurationError, likely

__all__ = ["middleware_of"]


def middleware_of(settings: Settings) -> tuple[Middleware, ...]:
    """
    Return the middleware of *settings*; the first one is the outermost. All services and clients
    that have the same *settings* share it.

    Raises:
        ConfigurationError: a middleware cannot be imported or made, or is none.
    """
    loaded = settings._middleware
    if len(loaded) != len(settings.middleware):
        loaded[:] = [
            _loaded(read_entry(given, path := f"MIDDLEWARE[{index}]"), f"{settings.source}: {path}")
            for index, given in enumerate(settings.middleware)
        ]
    return tuple(loaded)


def _loaded(entry: MiddlewareEntry, where: str) -> Middleware:
    found = _found(entry, where)
    if isinstance(found, type) or entry.options is not None:
        found = _made(found, entry, where)
    if not callable(found):
        raise ConfigurationError(
            f"{where}: {entry} is no middleware but a value of type {type(found).__name__}: a "
            "middleware is `async def name(call, handler)`"
        )
    try:
        inspect.signature(found).bind(None, None)
    except TypeError as error:
        raise ConfigurationError(
            f"{where}: {entry} cannot be called as a middleware ({error}): a middleware is "
            "`async def name(call, handler)`. If it makes one from options, write them below it, "
            "or {} for none"
        ) from None
    except ValueError:  # a function in C may have no signature
        pass
    return cast("Middleware", found)


def _found(entry: MiddlewareEntry, where: str) -> Any:
    """Import the module of *entry*, and return its attribute."""
    try:
        module = found = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{entry.module}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"{where}: {entry} cannot be imported: no module named {error.name}. Check the "
                "spelling, and Python's path"
            ) from None
        raise ConfigurationError(f"{where}: {entry} cannot be imported: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{where}: importing {entry.module} failed: {reason}") from error
    for part in entry.name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [each for each in vars(module) if not each.startswith("_")]
            raise ConfigurationError(
                f"{where}: {entry.module} has no {entry.name}{likely(entry.name, names)}"
            ) from None
    return found


def _made(maker: Any, entry: MiddlewareEntry, where: str) -> Any:
    """Call *maker*, a class or a function, with the options of *entry*."""
    options: Mapping[str, Any] = entry.options or {}
    if not callable(maker) or inspect.iscoroutinefunction(maker):
        kind = type(maker).__name__
        raise ConfigurationError(f"{where}: {entry}, of type {kind}, takes no options: remove them")
    try:
        inspect.signature(maker).bind(**options)
    except ValueError:  # a class in C may have no signature
        pass
    except TypeError as error:
        known = ", ".join(inspect.signature(maker).parameters) or "none"
        raise ConfigurationError(
            f"{where}: {entry} does not take these options: {error}. Its options: {known}"
        ) from None
    try:
        return maker(**options)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error.__cause__
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{where}: {entry} cannot be made: {reason}") from error

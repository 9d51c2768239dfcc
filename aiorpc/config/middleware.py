"""
``MIDDLEWARE``: reads its entries, and imports nothing of what they name. Pure functions and values.

Imports ``exceptions`` and msgspec only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..exceptions import ConfigurationError

__all__ = ["MiddlewareEntry", "read_entry"]

_EXAMPLE = "aiorpc.middleware.logging:json_lines"


class MiddlewareEntry(msgspec.Struct, frozen=True):
    """One entry of ``MIDDLEWARE``: the middleware *name* of *module*, or what makes it."""

    module: str
    name: str
    #: What makes the middleware is called with these options. None: it gets none.
    options: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def read_entry(given: Any, path: str) -> MiddlewareEntry:
    """
    Read ``module:name``, or a mapping of it to options.

    Args:
        path: the place of the entry, for errors: ``MIDDLEWARE[0]``.

    Raises:
        ConfigurationError: the entry has another form.
    """
    options: Any = None
    if isinstance(given, Mapping):
        if len(given) != 1:
            raise ConfigurationError(
                f"{path} must be module:name, or a mapping of one module:name to its options, got "
                f"a mapping with {len(given)} keys: indent the options below {_EXAMPLE}:"
            )
        ((given, options),) = given.items()
        if options is not None and not isinstance(options, Mapping):
            raise ConfigurationError(
                f"{path}: the options of {given} must be a mapping, got {type(options).__name__}"
            )
    text = given if isinstance(given, str) else ""
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        got = repr(text[:60]) if text else type(given).__name__
        raise ConfigurationError(f"{path} must be module:name, such as {_EXAMPLE}, got {got}")
    return MiddlewareEntry(module, name, options)

"""
Finds the database of a service and a declarative base, and the options of that database.

Reads the configuration. Awaits nothing, and opens no connection.

::

    DB_URIS:
      "library:Catalogue": postgresql://user:password@localhost/catalogue
      "library:Lending": mysql://user:password@localhost/lending?charset=utf8
    DB_ENGINE_OPTIONS:
      pool_size: 20                    # of every database
      "library:Lending":               # of this one
        pool_recycle: 3600
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...config import Settings, resolve
from ...config.decoding import closest
from ...exceptions import ConfigurationError
from .options import checked, merged
from .urls import DatabaseUrl, parse_database_url

__all__ = ["DatabaseConfig", "configured"]

#: The placeholders in a URL, also in nameko-sqlalchemy's form, ``{0[service_name]}``. Doubled
#: braces in a URL become single braces.
_TEMPLATE = re.compile(r"\{\{|\}\}|\{(?:0\[)?(service_name|declarative_base_name)\]?\}")


@dataclass(frozen=True)
class DatabaseConfig:
    """One database of one service, as configured."""

    #: ``service:Base``, the key of the database in ``DB_URIS``.
    key: str
    url: DatabaseUrl
    engine_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    session_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Seconds to close sessions and connections: ``CLEANUP_TIMEOUT``.
    cleanup_timeout: float = 5.0


def configured(
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None,
    service_name: str,
    base: type[Any],
    engine_options: Mapping[str, Any] | None = None,
    session_options: Mapping[str, Any] | None = None,
) -> DatabaseConfig:
    """
    Find the database of *base* in the service *service_name*. Scripts and migrations use this too::

        async with open_engine(configured("config.yaml", "library", Catalogue)) as engine:
            ...

    ``url.url`` has no arguments for the driver, such as TLS and ``search_path``; these arguments
    are in ``url.connect_args``.

    Args:
        config: the path of a file, a mapping, or ``Settings``.
        base: the declarative base, which the configuration names by its class name, or by the
            name that its ``declarative_base`` got.
        engine_options, session_options: options from code. The configuration replaces single
            options, and single keys inside mappings such as ``connect_args``.

    Raises:
        ConfigurationError: *base* is not a declarative base or has no database in the
            configuration, the URL is wrong, or an option has the wrong type. The text has the
            configured keys.
    """
    settings = resolve(config)
    _require_declarative(base)
    key = f"{service_name}:{base.__name__}"
    url = _url(settings, key)
    return DatabaseConfig(
        key,
        url,
        _options(settings, "DB_ENGINE_OPTIONS", key, engine_options, url.driver),
        _options(settings, "DB_SESSION_OPTIONS", key, session_options),
        settings.cleanup_timeout,
    )


def _require_declarative(base: Any) -> None:
    if not isinstance(base, type) or not hasattr(base, "metadata"):
        shown = base.__qualname__ if isinstance(base, type) else f"a {type(base).__name__}"
        raise ConfigurationError(
            f"{shown} is not a declarative base: write `class Base(DeclarativeBase): pass`, or "
            '`Base = declarative_base(name="Base")`'
        )


def _url(settings: Settings, key: str) -> DatabaseUrl:
    """The database URL of *key*, with values in place of the placeholders."""
    text, where = _find_url(settings, key)
    service_name, _, base_name = key.rpartition(":")
    words = {"service_name": service_name, "declarative_base_name": base_name}
    filled = _TEMPLATE.sub(lambda match: words[match[1]] if match[1] else match[0][0], text)
    return parse_database_url(filled, where)


def _find_url(settings: Settings, key: str) -> tuple[str, str]:
    """The URL of *key*, and the place of this URL in the configuration, for error texts."""
    fallback = settings.db_uri
    by_key = fallback if isinstance(fallback, dict) else {}
    mappings = {"DB_URIS": settings.db_uris, "DB_URI": by_key}
    for name, urls in mappings.items():
        if key in urls:
            return urls[key], f'{settings.source}: {name}["{key}"]'
    if isinstance(fallback, str):
        return fallback, f"{settings.source}: DB_URI"
    known = sorted({known for urls in mappings.values() for known in urls})
    if not known:
        raise ConfigurationError(
            f'{settings.source} has no database for "{key}"; add  DB_URIS: '
            f'{{"{key}": "postgresql://user:password@localhost/database"}}'
        )
    likely = closest(key, known)
    raise ConfigurationError(
        f'{settings.source}: DB_URIS has no "{key}" (service name, colon, name of the declarative '
        f"base); it has {', '.join(known)}" + (f". Did you mean {likely}?" if likely else "")
    )


def _options(
    settings: Settings, name: str, key: str, in_code: Mapping[str, Any] | None, driver: str = ""
) -> Mapping[str, Any]:
    """The options in code. Options for all databases, then options under *key*, override them."""
    given: Mapping[str, Any] = getattr(settings, name.lower())
    own = given.get(key) or {}
    if not isinstance(own, Mapping):
        raise ConfigurationError(
            f'{settings.source}: {name}["{key}"] must be a mapping of options, got '
            f"{type(own).__name__}"
        )
    common = {option: value for option, value in given.items() if ":" not in option}
    return checked(merged(in_code or {}, common, own), name, key, driver)

"""
Merges the options of an engine or a session, and checks their types.

Awaits nothing, and does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from ...config.decoding import Decoder

__all__ = ["checked", "merged"]

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
_Bound: TypeAlias = _Seconds | None  # None: unlimited
_Echo: TypeAlias = bool | Literal["debug"]

#: The types of options. SQLAlchemy and the drivers check few types, and only when they connect.
_TYPES: Mapping[str, Mapping[str, Any]] = {
    "DB_ENGINE_OPTIONS": {
        "connect_args": dict[str, Any],
        "echo": _Echo,
        "echo_pool": _Echo,
        "execution_options": dict[str, Any],
        "hide_parameters": bool,
        "isolation_level": str,
        "max_overflow": Annotated[int, msgspec.Meta(ge=-1)],
        "pool_pre_ping": bool,
        "pool_pre_ping_timeout": _Seconds,
        "pool_recycle": Annotated[int, msgspec.Meta(ge=-1)],
        "pool_size": _Count,
        "pool_timeout": Annotated[float, msgspec.Meta(ge=0)],
        "pool_use_lifo": bool,
        "query_cache_size": _Count,
    },
    "DB_SESSION_OPTIONS": {
        "autobegin": bool,
        "autoflush": bool,
        "close_resets_only": bool,
        "expire_on_commit": bool,
        "info": dict[str, Any],
        "twophase": bool,
    },
    "asyncpg": {
        "command_timeout": _Bound,
        "server_settings": dict[str, str | bool | int | float],
        "statement_cache_size": _Count,
        "timeout": _Bound,
    },
    "aiomysql": {
        "charset": str,
        "connect_timeout": _Bound,
        "init_command": str | None,
        "local_infile": bool,
        "sql_mode": str | None,
    },
    "aiosqlite": {"timeout": Annotated[float, msgspec.Meta(ge=0)]},
}


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, and the mappings inside them. A value of a later layer wins."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if isinstance(value, Mapping):
                earlier = result.get(name)
                value = merged(earlier if isinstance(earlier, Mapping) else {}, value)
            result[name] = value
    return result


def checked(
    options: Mapping[str, Any], name: str, source: str, driver: str = ""
) -> Mapping[str, Any]:
    """
    Check the known options, and return them. Numbers and booleans in ``server_settings`` become
    texts, as asyncpg requires.

    Args:
        name: ``DB_ENGINE_OPTIONS`` or ``DB_SESSION_OPTIONS``.
        source: the key of the database in ``DB_URIS``, for error texts. driver: the driver whose
        ``connect_args`` are checked.

    Raises:
        ConfigurationError: an option has the wrong type.
    """
    # connect_args may have a password.
    decoder = Decoder(source, confidential=(f"{name}.connect_args",))
    _check(decoder, options, name, name)
    arguments = options.get("connect_args")
    if name != "DB_ENGINE_OPTIONS" or not arguments:
        return options
    _check(decoder, arguments, driver, f"{name}.connect_args")
    if not (driver == "asyncpg" and "server_settings" in arguments):
        return options
    settings = {key: _text(value) for key, value in arguments["server_settings"].items()}
    return {**options, "connect_args": {**arguments, "server_settings": settings}}


def _check(decoder: Decoder, options: Mapping[str, Any], kind: str, path: str) -> None:
    for name, expected in _TYPES.get(kind, {}).items():
        if name in options:
            decoder.convert(options[name], expected, f"{path}.{name}")


def _text(value: object) -> str:
    if isinstance(value, bool):  # YAML reads `off` as false
        return "on" if value else "off"
    return str(value)

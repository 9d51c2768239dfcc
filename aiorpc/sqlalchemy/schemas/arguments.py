"""
The query arguments of a database URL: from what libpq, psycopg2, PyMySQL and mysqlclient know to
what asyncpg, aiomysql and aiosqlite take. Pure functions; certificates are read from files.

Each function returns what stays in the URL's query, for SQLAlchemy itself, and what goes straight
to the driver. What cannot be said to the driver is refused by name: an argument that silently does
nothing is found at night.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import urlencode

from ...config.decoding import closest
from ...exceptions import ConfigurationError
from ..engine.drivers import connect_aiomysql

__all__ = ["aiomysql_arguments", "asyncpg_arguments", "sqlite_arguments"]

Query: TypeAlias = Mapping[str, str | Sequence[str]]
Arguments: TypeAlias = tuple[dict[str, str | Sequence[str]], dict[str, Any]]


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("true or false")


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number of seconds") from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("an integer") from None


class _Reader:
    """One URL's query, read by name."""

    def __init__(self, query: Query, driver: str, where: str) -> None:
        self.query = query
        self.driver = driver
        self.where = where

    def text(self, name: str) -> str:
        value = self.query[name]
        return value if isinstance(value, str) else value[-1]

    def convert(self, name: str, kind: Callable[[str], Any]) -> Any:
        try:
            return kind(self.text(name))
        except ValueError as exc:
            raise ConfigurationError(
                f"{self.where}: its argument {name} must be {exc}, got {self.text(name)!r}"
            ) from None

    def refused(self, name: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{self.where}: {self.driver} has no argument {name}: {remedy}")

    def unknown(self, name: str, known: Sequence[str]) -> ConfigurationError:
        likely = closest(name, known)
        remedy = f"did you mean {likely}?" if likely else f"it knows {', '.join(sorted(known))}"
        return self.refused(name, remedy)


# PostgreSQL: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS,
# asyncpg.connect, and the asyncpg dialect of SQLAlchemy.

# SQLAlchemy reads these itself: several hosts, and its cache of statements.
_PG_KEPT = ("host", "port", "prepared_statement_cache_size")
# asyncpg reads these as libpq does, but from its own kind of URL only.
_PG_LIBPQ = (
    "gsslib",
    "krbsrvname",
    "passfile",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "target_session_attrs",
)
_PG_OWN: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "command_timeout": ("command_timeout", _seconds),
    "connect_timeout": ("timeout", _seconds),
    "database": ("database", str),
    "dbname": ("database", str),
    "direct_tls": ("direct_tls", _boolean),
    "max_cacheable_statement_size": ("max_cacheable_statement_size", _integer),
    "max_cached_statement_lifetime": ("max_cached_statement_lifetime", _integer),
    "password": ("password", str),
    "ssl": ("ssl", str),
    "statement_cache_size": ("statement_cache_size", _integer),
    "timeout": ("timeout", _seconds),
    "user": ("user", str),
}
_PG_SERVER_SETTINGS = (
    "application_name",
    "options",
    "search_path",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "timezone",
)
# Other words for what asyncpg does anyway.
_PG_HARMLESS = {
    "channel_binding": {"disable", "prefer"},
    "client_encoding": {"utf8", "utf-8", "unicode"},
    "fallback_application_name": None,
    "gssencmode": {"disable", "prefer"},
}
_PG_KEEPALIVE = (
    "take it out; connections that died are found by pool_pre_ping, which is on, and calls end at "
    "their deadline. Or use psycopg: postgresql+psycopg://"
)
_PG_REFUSED = {
    "channel_binding": "take it out (sslmode=verify-full protects as well), or use psycopg: "
    "postgresql+psycopg://",
    "client_encoding": "it always speaks UTF-8; take it out",
    "gssencmode": "take it out, or use psycopg: postgresql+psycopg://",
    "keepalives": _PG_KEEPALIVE,
    "keepalives_count": _PG_KEEPALIVE,
    "keepalives_idle": _PG_KEEPALIVE,
    "keepalives_interval": _PG_KEEPALIVE,
    "tcp_user_timeout": _PG_KEEPALIVE,
    "connection_factory": "give it in code, as connect_args in the engine options",
    "async_fallback": "it is awaited here always; take it out",
}


def asyncpg_arguments(query: Query, where: str) -> Arguments:
    """For asyncpg. Raises ``ConfigurationError`` naming *where* and the argument."""
    reader = _Reader(query, "asyncpg", where)
    kept: dict[str, str | Sequence[str]] = {}
    connect_args: dict[str, Any] = {}
    libpq: dict[str, str] = {}
    server_settings: dict[str, str] = {}
    for name in query:
        if name in _PG_KEPT:
            kept[name] = query[name]
        elif name in _PG_LIBPQ:
            libpq[name] = reader.text(name)
        elif name in _PG_OWN:
            own_name, kind = _PG_OWN[name]
            connect_args[own_name] = reader.convert(name, kind)
        elif name in _PG_SERVER_SETTINGS:
            server_settings[name] = reader.text(name)
        elif _is_harmless(_PG_HARMLESS, name, reader.text(name)):
            continue
        elif name in _PG_REFUSED:
            raise reader.refused(name, _PG_REFUSED[name])
        else:
            raise reader.unknown(name, (*_PG_KEPT, *_PG_LIBPQ, *_PG_OWN, *_PG_SERVER_SETTINGS))
    if libpq:
        connect_args["dsn"] = f"postgresql://?{urlencode(libpq)}"
    if server_settings:
        connect_args["server_settings"] = server_settings
    return kept, connect_args


# MySQL and MariaDB: aiomysql.connect, PyMySQL, mysqlclient, and MySQL's own names of TLS options.

_MYSQL_OWN: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "auth_plugin": ("auth_plugin", str),
    "charset": ("charset", str),
    "client_flag": ("client_flag", _integer),
    "connect_timeout": ("connect_timeout", _seconds),
    "db": ("db", str),
    "host": ("host", str),
    "init_command": ("init_command", str),
    "local_infile": ("local_infile", _boolean),
    "passwd": ("password", str),
    "password": ("password", str),
    "port": ("port", _integer),
    "program_name": ("program_name", str),
    "read_default_file": ("read_default_file", str),
    "read_default_group": ("read_default_group", str),
    "sql_mode": ("sql_mode", str),
    "unix_socket": ("unix_socket", str),
    "use_unicode": ("use_unicode", _boolean),
    "user": ("user", str),
}
_MYSQL_TLS = (
    "ssl",
    "ssl_ca",
    "ssl_capath",
    "ssl_cert",
    "ssl_check_hostname",
    "ssl_cipher",
    "ssl_disabled",
    "ssl_key",
    "ssl_mode",
    "ssl_verify_cert",
    "ssl_verify_identity",
    "sslmode",
)
_MYSQL_HARMLESS = {"binary_prefix": None, "compress": {"0", "false"}}
_MYSQL_REFUSED = {
    "autocommit": "set isolation_level: AUTOCOMMIT in DB_ENGINE_OPTIONS",
    "collation": "use init_command=SET NAMES utf8mb4 COLLATE ...",
    "compress": "take it out",
    "read_timeout": "take it out; a call, and what it waits for, ends at its deadline",
    "write_timeout": "take it out; a call, and what it waits for, ends at its deadline",
}


def aiomysql_arguments(query: Query, where: str) -> Arguments:
    """For aiomysql. Raises ``ConfigurationError`` naming *where* and the argument."""
    reader = _Reader(query, "aiomysql", where)
    kept: dict[str, str | Sequence[str]] = {}
    connect_args: dict[str, Any] = {}
    for name in query:
        if name in _MYSQL_OWN:
            own_name, kind = _MYSQL_OWN[name]
            connect_args[own_name] = reader.convert(name, kind)
        elif name in _MYSQL_TLS or _is_harmless(_MYSQL_HARMLESS, name, reader.text(name)):
            continue
        elif name in _MYSQL_REFUSED:
            raise reader.refused(name, _MYSQL_REFUSED[name])
        else:
            raise reader.unknown(name, (*_MYSQL_OWN, *_MYSQL_TLS))
    if connect_args.get("charset", "").lower() in {"utf8", "utf-8"}:
        # MySQL's utf8 has no room for what takes four bytes, and is going away.
        connect_args["charset"] = "utf8mb4"
    if "client_flag" in connect_args:  # SQLAlchemy adds a flag of its own to it
        kept["client_flag"] = str(connect_args.pop("client_flag"))
    if (context := _mysql_tls(reader)) is not None:
        connect_args["ssl"] = context
        if not _tls_mode(reader).startswith("prefer"):
            connect_args["async_creator_fn"] = partial(connect_aiomysql, tls_for=where)
    return kept, connect_args


def _mysql_tls(reader: _Reader) -> ssl.SSLContext | None:
    """aiomysql takes a context where PyMySQL takes names of files and switches."""
    given = {name: reader.text(name) for name in _MYSQL_TLS if name in reader.query}

    def flag(name: str, default: bool) -> bool:
        return bool(reader.convert(name, _boolean)) if name in given else default

    mode = _tls_mode(reader)
    modes = {"", "disabled", "disable", "preferred", "prefer", "required", "require"}
    verifying = {"verify_ca", "verify_identity", "verify_full"}
    if mode not in modes | verifying:
        raise ConfigurationError(
            f"{reader.where}: ssl_mode must be disabled, required, verify_ca or verify_identity, "
            f"got {mode!r}"
        )
    if not given or not flag("ssl", True) or flag("ssl_disabled", False) or mode[:7] == "disable":
        return None
    try:
        context = ssl.create_default_context(
            cafile=given.get("ssl_ca"), capath=given.get("ssl_capath")
        )
        if "ssl_cert" in given:
            context.load_cert_chain(given["ssl_cert"], given.get("ssl_key"))
        if "ssl_cipher" in given:
            context.set_ciphers(given["ssl_cipher"])
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(f"{reader.where}: its TLS files cannot be read: {exc}") from None
    has_authority = "ssl_ca" in given or "ssl_capath" in given
    identity = flag("ssl_verify_identity", flag("ssl_check_hostname", has_authority))
    context.check_hostname = mode in verifying - {"verify_ca"} or (mode != "verify_ca" and identity)
    verify = context.check_hostname or mode in verifying or flag("ssl_verify_cert", has_authority)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    return context


def _tls_mode(reader: _Reader) -> str:
    name = "ssl_mode" if "ssl_mode" in reader.query else "sslmode"
    return reader.text(name).lower().replace("-", "_") if name in reader.query else ""


# SQLite: the dialect of SQLAlchemy.

_SQLITE_KEPT = (
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "isolation_level",
    "timeout",
    "uri",
)


def sqlite_arguments(query: Query, where: str) -> Arguments:
    """For aiosqlite. Raises ``ConfigurationError`` naming *where* and the argument."""
    reader = _Reader(query, "aiosqlite", where)
    is_uri = "uri" in query and reader.convert("uri", _boolean)
    for name in query:
        if name not in _SQLITE_KEPT and not is_uri:
            raise reader.unknown(name, _SQLITE_KEPT)
    return dict(query), {}


def _is_harmless(harmless: Mapping[str, set[str] | None], name: str, value: str) -> bool:
    """Whether the argument, with this value, asks for what happens anyway."""
    if name not in harmless:
        return False
    values = harmless[name]
    return values is None or value.lower() in values

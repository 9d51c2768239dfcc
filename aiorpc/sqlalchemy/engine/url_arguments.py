"""
Translates the query arguments of a database URL: from those of libpq, psycopg2, PyMySQL and
mysqlclient to those of asyncpg, aiomysql and aiosqlite.

Awaits nothing. Reads certificates from files, and does no other I/O. Each public function returns
what stays in the URL's query, for SQLAlchemy itself, and what goes straight to the driver. It
refuses an argument that the driver does not have, so that none is ignored silently.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import urlencode

from sqlalchemy.util import asbool

from ...config.decoding import closest
from ...config.tls import refuse_old_tls
from ...exceptions import ConfigurationError
from .drivers import connect_aiomysql

__all__ = ["aiomysql_arguments", "asyncpg_arguments", "sqlite_arguments"]

Query: TypeAlias = Mapping[str, str | Sequence[str]]
Arguments: TypeAlias = tuple[dict[str, str | Sequence[str]], dict[str, Any]]


#: The modes of libpq.
_PG_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def _pg_tls(text: str) -> str:
    """The mode in *text*, or for the truth value in it, as libpq reads ``ssl=true`` for JDBC."""
    if (mode := text.lower()) in _PG_MODES:
        return mode
    return "require" if asbool(text) else "disable"


#: What an argument of each type must be, for the error.
_EXPECTED: Mapping[Callable[[str], Any], str] = {
    asbool: "true or false",
    float: "a number of seconds",
    int: "an integer",
    _pg_tls: f"true, false, or one of {', '.join(_PG_MODES)}",
}


@dataclass(frozen=True)
class _Driver:
    """The arguments that a driver, or SQLAlchemy for it, has."""

    name: str
    #: Stay in the query: SQLAlchemy reads them.
    kept: Collection[str] = ()
    #: Go to the driver, as values of this type.
    own: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    #: The driver's names, where they differ from those in the URL.
    renamed: Mapping[str, str] = field(default_factory=dict)
    #: Go to the driver in one value, such as a TLS context.
    gathered: Collection[str] = ()
    #: Ignored, with values that ask for what the driver does anyway; None: with any value.
    harmless: Mapping[str, set[str] | None] = field(default_factory=dict)
    #: Known from other drivers, and what to do instead.
    refused: Mapping[str, str] = field(default_factory=dict)


class _Reader:
    """The query of one URL, read by the names of arguments."""

    def __init__(self, driver: _Driver, query: Query, where: str) -> None:
        self.driver = driver
        self.query = query
        self.where = where

    def text(self, name: str) -> str:
        value = self.query[name]
        return value if isinstance(value, str) else value[-1]

    def texts(self, names: Collection[str]) -> dict[str, str]:
        """Those of the arguments *names* that the query has, in its order."""
        return {name: self.text(name) for name in self.query if name in names}

    def convert(self, name: str, kind: Callable[[str], Any]) -> Any:
        try:
            return kind(self.text(name))
        except ValueError:
            raise ConfigurationError(
                f"{self.where}: its argument {name} must be {_EXPECTED[kind]}, got "
                f"{self.text(name)!r}"
            ) from None

    def own(self) -> dict[str, Any]:
        """The arguments of the driver itself. Raises for one that the driver does not have."""
        self._refuse_others()
        driver = self.driver
        return {
            driver.renamed.get(name, name): self.convert(name, driver.own[name])
            for name in self.query
            if name in driver.own
        }

    def _refuse_others(self) -> None:
        driver = self.driver
        known = sorted({*driver.kept, *driver.own, *driver.gathered})
        for name in self.query:
            harmless = driver.harmless.get(name, ())
            if name in known or harmless is None or self.text(name).lower() in harmless:
                continue
            likely = closest(name, known)
            guess = f"did you mean {likely}?" if likely else f"it knows {', '.join(known)}"
            raise ConfigurationError(
                f"{self.where}: {driver.name} has no argument {name}: "
                f"{driver.refused.get(name, guess)}"
            )


# PostgreSQL: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS,
# asyncpg.connect, and the asyncpg dialect of SQLAlchemy.

#: asyncpg reads these as libpq does, but only from a URL of its own.
_PG_LIBPQ = frozenset(
    {"sslmode", "sslnegotiation", "ssl_max_protocol_version", "ssl_min_protocol_version"}
    | {"sslcert", "sslcrl", "sslkey", "sslpassword", "sslrootcert"}
    | {"gsslib", "krbsrvname", "passfile", "service", "target_session_attrs"}
)
_PG_SERVER_SETTINGS = frozenset(
    {"application_name", "options", "search_path", "timezone"}
    | {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}
)
_PG_KEEPALIVES = ("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval")

_ASYNCPG = _Driver(
    "asyncpg",
    # Several hosts, and the dialect's cache of statements.
    kept=("host", "port", "prepared_statement_cache_size"),
    own={
        **dict.fromkeys(("database", "dbname", "password", "user"), str),
        **dict.fromkeys(("command_timeout", "connect_timeout", "timeout"), float),
        **dict.fromkeys(("max_cacheable_statement_size", "max_cached_statement_lifetime"), int),
        "statement_cache_size": int,
        "direct_tls": asbool,
        "ssl": _pg_tls,
    },
    renamed={"connect_timeout": "timeout", "dbname": "database"},
    gathered=_PG_LIBPQ | _PG_SERVER_SETTINGS,
    harmless={
        "channel_binding": {"disable", "prefer"},
        "client_encoding": {"utf8", "utf-8", "unicode"},
        "fallback_application_name": None,
        "gssencmode": {"disable", "prefer"},
    },
    refused={
        "channel_binding": "take it out (sslmode=verify-full protects as well), or use psycopg: "
        "postgresql+psycopg://",
        "client_encoding": "it always speaks UTF-8; take it out",
        "gssencmode": "take it out, or use psycopg: postgresql+psycopg://",
        **dict.fromkeys(
            (*_PG_KEEPALIVES, "tcp_user_timeout"),
            "take it out; pool_pre_ping, which is on, finds connections that died, and calls end "
            "at their deadline. Or use psycopg: postgresql+psycopg://",
        ),
        "connection_factory": "give it in code, as connect_args in the engine options",
        "async_fallback": "aiorpc always awaits it; take it out",
    },
)


def asyncpg_arguments(query: Query, where: str) -> Arguments:
    """For asyncpg. Raises ``ConfigurationError`` naming *where* and the argument."""
    reader = _Reader(_ASYNCPG, query, where)
    connect_args = reader.own()
    if libpq := reader.texts(_PG_LIBPQ):
        if "sslmode" in libpq:
            libpq["sslmode"] = reader.convert("sslmode", _pg_tls)
        connect_args["dsn"] = f"postgresql://?{urlencode(libpq)}"
    if server_settings := reader.texts(_PG_SERVER_SETTINGS):
        connect_args["server_settings"] = server_settings
    return {name: query[name] for name in query if name in _ASYNCPG.kept}, connect_args


# MySQL and MariaDB: aiomysql.connect, PyMySQL, mysqlclient, and MySQL's own names of TLS options.

_MYSQL_TLS = frozenset(
    {"ssl", "ssl_cipher", "ssl_disabled", "ssl_mode", "sslmode"}
    | {"ssl_ca", "ssl_capath", "ssl_cert", "ssl_key"}
    | {"ssl_check_hostname", "ssl_verify_cert", "ssl_verify_identity"}
)
#: Modes that decide themselves whether to check the host name of a certificate.
_MYSQL_VERIFYING = {"verify_ca": False, "verify_identity": True, "verify_full": True}
_MYSQL_MODES = {"", "disabled", "disable", "preferred", "prefer", "required", "require"}

_AIOMYSQL = _Driver(
    "aiomysql",
    own={
        **dict.fromkeys(("db", "host", "passwd", "password", "unix_socket", "user"), str),
        **dict.fromkeys(("auth_plugin", "charset", "init_command", "sql_mode"), str),
        **dict.fromkeys(("program_name", "read_default_file", "read_default_group"), str),
        **dict.fromkeys(("client_flag", "port"), int),
        **dict.fromkeys(("local_infile", "use_unicode"), asbool),
        "connect_timeout": float,
    },
    renamed={"passwd": "password"},
    gathered=_MYSQL_TLS,
    harmless={"binary_prefix": None, "compress": {"0", "false"}},
    refused={
        "autocommit": "set isolation_level: AUTOCOMMIT in DB_ENGINE_OPTIONS",
        "collation": "use init_command=SET NAMES utf8mb4 COLLATE ...",
        "compress": "take it out",
        **dict.fromkeys(
            ("read_timeout", "write_timeout"),
            "take it out; a call ends at its deadline, wherever it waits",
        ),
    },
)


def aiomysql_arguments(query: Query, where: str) -> Arguments:
    """For aiomysql. Raises ``ConfigurationError`` naming *where* and the argument."""
    reader = _Reader(_AIOMYSQL, query, where)
    kept: dict[str, str | Sequence[str]] = {}
    connect_args = reader.own()
    if connect_args.get("charset", "").lower() in {"utf8", "utf-8"}:
        # MySQL's utf8 has no characters of four bytes, and is deprecated.
        connect_args["charset"] = "utf8mb4"
    if "client_flag" in connect_args:  # SQLAlchemy adds a flag of its own to it
        kept["client_flag"] = str(connect_args.pop("client_flag"))
    given = reader.texts(_MYSQL_TLS)
    if (context := _mysql_tls(reader, given)) is not None:
        connect_args["ssl"] = context
        if not _tls_mode(given).startswith("prefer"):
            connect_args["async_creator_fn"] = partial(connect_aiomysql, tls_for=where)
    return kept, connect_args


def _mysql_tls(reader: _Reader, given: Mapping[str, str]) -> ssl.SSLContext | None:
    """Make the TLS context that aiomysql takes in place of PyMySQL's arguments. None: no TLS."""

    def flag(name: str, default: bool) -> bool:
        return bool(reader.convert(name, asbool)) if name in given else default

    mode = _tls_mode(given)
    if mode not in _MYSQL_MODES | _MYSQL_VERIFYING.keys():
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
        refuse_old_tls(context)
        if "ssl_cert" in given:
            context.load_cert_chain(given["ssl_cert"], given.get("ssl_key"))
        if "ssl_cipher" in given:
            context.set_ciphers(given["ssl_cipher"])
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(f"{reader.where}: its TLS files cannot be read: {exc}") from None
    has_authority = "ssl_ca" in given or "ssl_capath" in given
    identity = flag("ssl_verify_identity", flag("ssl_check_hostname", has_authority))
    context.check_hostname = _MYSQL_VERIFYING.get(mode, identity)
    verify = context.check_hostname or mode == "verify_ca" or flag("ssl_verify_cert", has_authority)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    return context


def _tls_mode(given: Mapping[str, str]) -> str:
    return given.get("ssl_mode", given.get("sslmode", "")).lower().replace("-", "_")


# SQLite: the dialect of SQLAlchemy.

_AIOSQLITE = _Driver(
    "aiosqlite",
    kept=(
        "cached_statements",
        "check_same_thread",
        "detect_types",
        "isolation_level",
        "timeout",
        "uri",
    ),
)


def sqlite_arguments(query: Query, where: str) -> Arguments:
    """For aiosqlite. Raises ``ConfigurationError`` naming *where* and the argument."""
    reader = _Reader(_AIOSQLITE, query, where)
    if not ("uri" in query and reader.convert("uri", asbool)):
        reader.own()  # a URI of SQLite may have arguments of its own
    return dict(query), {}

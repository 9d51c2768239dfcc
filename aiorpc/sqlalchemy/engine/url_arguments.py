"""
Translates the query arguments of a database URL: from the names of libpq, psycopg2, PyMySQL and
mysqlclient to the names of asyncpg, aiomysql and aiosqlite.

Awaits nothing. Reads certificates from files, and does no other I/O. Each public function returns
the arguments for SQLAlchemy, which stay in the URL, and the arguments for the driver. It refuses an
argument that the driver does not have, instead of ignoring it.
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
    """Return the mode in *text*. A boolean stands for a mode, as in JDBC's ``ssl=true``."""
    if (mode := text.lower()) in _PG_MODES:
        return mode
    return "require" if asbool(text) else "disable"


#: The description of each type, for error texts.
_EXPECTED: Mapping[Callable[[str], Any], str] = {
    asbool: "true or false",
    float: "a number of seconds",
    int: "an integer",
    _pg_tls: f"true, false, or one of {', '.join(_PG_MODES)}",
}


@dataclass(frozen=True)
class _Driver:
    """The arguments that a driver accepts, or that SQLAlchemy accepts for this driver."""

    name: str
    #: Arguments for SQLAlchemy. They stay in the query.
    kept: Collection[str] = ()
    #: Arguments for the driver, with their types.
    own: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    #: The driver's names of arguments that have another name in the URL.
    renamed: Mapping[str, str] = field(default_factory=dict)
    #: Arguments that become one value for the driver, such as a TLS context.
    gathered: Collection[str] = ()
    #: Ignored arguments, with the values that match the driver's behaviour. None: any value.
    harmless: Mapping[str, set[str] | None] = field(default_factory=dict)
    #: Arguments of other drivers, with advice for the error.
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
        """The arguments of the query whose name is in *names*, in the order of the query."""
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
        """The arguments for the driver. Raises ``ConfigurationError`` for an unknown argument."""
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

#: asyncpg reads these arguments like libpq, but only from its ``dsn``.
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
        "channel_binding": "remove it (sslmode=verify-full protects as well), or use psycopg: "
        "postgresql+psycopg://",
        "client_encoding": "asyncpg always uses UTF-8; remove the argument",
        "gssencmode": "remove it, or use psycopg: postgresql+psycopg://",
        **dict.fromkeys(
            (*_PG_KEEPALIVES, "tcp_user_timeout"),
            "remove it; pool_pre_ping, which is on, finds lost connections, and calls end "
            "at their deadline. Or use psycopg: postgresql+psycopg://",
        ),
        "connection_factory": "pass it in code, as connect_args in the engine options",
        "async_fallback": "aiorpc always awaits asyncpg; remove the argument",
    },
)


def asyncpg_arguments(query: Query, where: str) -> Arguments:
    """Translate for asyncpg. A ``ConfigurationError`` names *where* and the argument."""
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
#: Modes that verify the certificate. The value: whether its host name is checked.
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
        "compress": "remove it",
        **dict.fromkeys(
            ("read_timeout", "write_timeout"),
            "remove it; a call ends at its deadline",
        ),
    },
)


def aiomysql_arguments(query: Query, where: str) -> Arguments:
    """Translate for aiomysql. A ``ConfigurationError`` names *where* and the argument."""
    reader = _Reader(_AIOMYSQL, query, where)
    kept: dict[str, str | Sequence[str]] = {}
    connect_args = reader.own()
    if connect_args.get("charset", "").lower() in {"utf8", "utf-8"}:
        # MySQL's utf8 is deprecated, and cannot store characters of four bytes.
        connect_args["charset"] = "utf8mb4"
    if "client_flag" in connect_args:  # SQLAlchemy adds another flag
        kept["client_flag"] = str(connect_args.pop("client_flag"))
    given = reader.texts(_MYSQL_TLS)
    if (context := _mysql_tls(reader, given)) is not None:
        connect_args["ssl"] = context
        if not _tls_mode(given).startswith("prefer"):
            connect_args["async_creator_fn"] = partial(connect_aiomysql, tls_for=where)
    return kept, connect_args


def _mysql_tls(reader: _Reader, given: Mapping[str, str]) -> ssl.SSLContext | None:
    """Make aiomysql's TLS context from PyMySQL's arguments. None: no TLS."""

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
        raise ConfigurationError(f"{reader.where}: cannot read its TLS files: {exc}") from None
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
    """Translate for aiosqlite. A ``ConfigurationError`` names *where* and the argument."""
    reader = _Reader(_AIOSQLITE, query, where)
    if not ("uri" in query and reader.convert("uri", asbool)):
        reader.own()  # a URI of SQLite may have other arguments
    return dict(query), {}

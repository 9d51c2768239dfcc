"""Checks of the services' databases. Imports SQLAlchemy only if there is a database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...exceptions import ConfigurationError
from ..case import Case
from ..findings import Finding, FindingKind, Severity, ok
from ..registry import check
from .clocks import skew

if TYPE_CHECKING:
    from ...sqlalchemy.engine.configuration import DatabaseConfig
    from ...sqlalchemy.facts import Facts

__all__: list[str] = []

#: A service with a database imports it. The import of SQLAlchemy takes a second.
_PROVIDERS = "aiorpc.sqlalchemy.providers"
#: Seconds to connect to one database and to ask it.
ASKING = 10.0

WRONG = FindingKind(
    "database-misconfigured",
    Severity.ERROR,
    why="The service does not start.",
    remedy="Correct DB_URIS or DB_ENGINE_OPTIONS as the error says.",
)
UNREACHABLE = FindingKind(
    "database-unreachable",
    Severity.ERROR,
    why="The service starts, and each of its calls that needs the database fails.",
    remedy="Start the server, correct host and port in DB_URIS, or open the firewall.",
)
REFUSED = FindingKind(
    "database-credentials-refused",
    Severity.ERROR,
    why="The service starts, and each of its calls that needs the database fails.",
    remedy="Correct user and password in DB_URIS, or the user's rights at the server.",
)
MISSING = FindingKind(
    "database-missing",
    Severity.ERROR,
    why="The server is there, and has no database of that name.",
    remedy="Create the database and its tables, or correct its name in DB_URIS.",
)
FULL = FindingKind(
    "database-full",
    Severity.ERROR,
    why="The server accepts no further connection, so calls fail.",
    remedy="Lower pool_size and max_overflow in DB_ENGINE_OPTIONS, or raise max_connections.",
)
FAILED = FindingKind(
    "database-failed",
    Severity.ERROR,
    why="Calls that need the database fail likewise.",
    remedy="Read the error, and the log of the server.",
)
TABLES = FindingKind(
    "tables-missing",
    Severity.ERROR,
    why="Queries of these tables fail.",
    remedy="Run the migrations (alembic upgrade head), or correct the database in DB_URIS.",
)
MIGRATIONS = FindingKind(
    "migrations-not-recorded",
    Severity.NOTE,
    why="Nothing tells which migrations the database has: its tables were made by other means.",
    remedy="If you use Alembic: alembic stamp head. Otherwise nothing.",
)
EMPTY = FindingKind(
    "migrations-none",
    Severity.WARNING,
    why="The table of Alembic is empty: its last migration failed, or was undone.",
    remedy="alembic current, then alembic upgrade head.",
)
POOL = FindingKind(
    "pool-too-large",
    Severity.ERROR,
    why="Under load, processes ask for more connections than the server permits, and calls fail.",
    remedy="Lower pool_size and max_overflow in DB_ENGINE_OPTIONS, or raise max_connections of the "
    "server.",
)


@check
async def databases(case: Case) -> AsyncGenerator[Finding]:
    settings = case.settings
    by_key = settings.db_uri if isinstance(settings.db_uri, dict) else {}
    keys = {*settings.db_uris, *by_key}
    if isinstance(settings.db_uri, str) and not case.needs and "{" not in settings.db_uri:
        keys.add("DB_URI")
    if not keys and _PROVIDERS not in sys.modules:  # no service has a database
        return
    try:
        from ...sqlalchemy import facts
        from ...sqlalchemy.engine.configuration import configured
    except ModuleNotFoundError as error:
        if keys:
            yield WRONG.found("DB_URIS", str(error))
        return
    known: dict[str, tuple[DatabaseConfig, Mapping[str, Any]]] = {}
    seen = set()
    for name, base, provider in _declared(case, facts):
        key = f"{name}:{base.__name__}"
        seen.add(key)
        try:
            options = provider.engine_options, provider.session_options
            known[key] = configured(settings, name, base, *options), base.metadata.tables
        except ConfigurationError as error:
            yield WRONG.found(key, str(error))
    for key in sorted(keys - seen):
        try:
            known[key] = facts.database_of(settings, key), {}
        except ConfigurationError as error:
            yield WRONG.found(key, str(error))
    # At the same time: a server that does not answer must not use up the time of the others.
    for found in await asyncio.gather(*(_of_database(case, *each) for each in known.values())):
        for each in found:
            yield each


def _declared(case: Case, facts: Any) -> Iterator[tuple[str, Any, Any]]:
    for needs in case.needs:
        for provider in needs.container.providers:
            if (base := facts.base_of(provider)) is not None:
                yield needs.service, base, provider


async def _of_database(
    case: Case, database: DatabaseConfig, tables: Mapping[str, Any]
) -> Sequence[Finding]:
    from ...sqlalchemy.facts import code_of, facts_of

    key = database.key
    try:
        async with asyncio.timeout(ASKING):
            found = await facts_of(database, tables)
    except FileNotFoundError as error:
        return [MISSING.found(key, str(error))]
    except ConfigurationError as error:
        return [WRONG.found(key, str(error))]
    except Exception as error:  # noqa: BLE001 - each driver has its own errors
        return [_of_error(key, error, code_of(error))]
    clock = [] if found.ahead is None else [skew(case, key, found.ahead, found.exact_to)]
    return [*_of_facts(key, found), *clock]


#: SQLSTATE of PostgreSQL, and error numbers of MySQL and MariaDB.
_KINDS = {
    **dict.fromkeys(("28P01", "28000", "42501", "1045", "1044", "1698"), REFUSED),
    **dict.fromkeys(("3D000", "1049"), MISSING),
    **dict.fromkeys(("53300", "1040", "1203", "1226"), FULL),
    **dict.fromkeys(("2003", "2005", "2002", "2013"), UNREACHABLE),
}


def _of_error(key: str, error: Exception, code: str) -> Finding:
    kind = _KINDS.get(code)
    if kind is None:
        kind = UNREACHABLE if isinstance(error, OSError) else FAILED
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        text = f"no answer within {ASKING:g} s"
    return kind.found(key, " ".join(text.split()))


def _of_facts(key: str, facts: Facts) -> Iterator[Finding]:
    fine = True
    if facts.missing:
        fine = False
        yield TABLES.found(key, f"there is no table {', '.join(facts.missing)}")
    if facts.revisions is None and not facts.missing:
        yield MIGRATIONS.found(key, "there is no table alembic_version")
    elif facts.revisions == []:
        yield EMPTY.found(key, "the table alembic_version has no row")
    if facts.most is not None and facts.pool is not None:
        fitting = max(0, facts.most - (facts.used or 0)) // max(1, facts.pool)
        text = (
            f"one process opens up to {facts.pool} connections, and the server permits "
            f"{facts.most}, of which {facts.used} are in use"
        )
        if fitting < 2:
            fine = False
            severity = Severity.WARNING if fitting else Severity.ERROR
            more = "a second process, as in a rolling deploy, does not fit"
            yield POOL.found(key, f"{text}; {more}" if fitting else text, severity=severity)
    if fine:
        pool = "" if facts.pool is None else f"; pool of {facts.pool}"
        limit = "" if facts.most is None else f" of {facts.most} connections"
        yield ok(key, f"{facts.server} answers{pool}{limit}")

"""
What the commands of ``aiorpc outbox`` share: their options, the databases of the configuration, and
the search for messages. Connects to the databases; imports SQLAlchemy only then.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from ..config import Settings
from ..exceptions import ConfigurationError
from ..logs import counted, one_line
from .output import ExitCode, print_json, print_note
from .parked_queues import agreed
from .parser import Parser, add_settings, settings_of

if TYPE_CHECKING:
    from ..sqlalchemy.outbox.looking import LookedAt, OneRow, WantedRows

__all__ = ["add_databases", "add_messages", "change", "found_messages", "opened", "quiet_settings"]

#: Seconds to connect to one database and to find its table.
LOOKING = 10.0
#: Rows of one command, at most.
MOST = 10_000


def add_databases(parser: Parser) -> None:
    """Add the options that :func:`opened` reads."""
    database = "A key of DB_URIS, service:Base. Without it, all databases are looked at."
    parser.option("--database KEY", database)
    parser.option("--service NAME", "Only messages of this service.")
    table = "The name of the table, or schema.name. (default: aiorpc_outbox)"
    parser.option("--table NAME", table, default="aiorpc_outbox")
    parser.option("--json", "Print JSON, for programs.")
    add_settings(parser)


def add_messages(parser: Parser, verb: str) -> None:
    """Add the arguments that :func:`change` reads."""
    parser.add_argument("messages", metavar="MESSAGE", nargs="*", help=f"Messages to {verb}.")
    parser.option("--all", f"{verb.capitalize()} all messages that are set aside.")
    parser.option("--yes -y", "Do not ask.")


def _require_choice(arguments: argparse.Namespace) -> None:
    """
    Raises:
        ConfigurationError: the arguments do not say which messages, or say two things.
    """
    if bool(arguments.messages) == arguments.all:
        raise ConfigurationError(
            "say which messages: MESSAGE, an id as `aiorpc outbox ls --messages` shows it, or --all"
        )


@asynccontextmanager
async def opened(
    arguments: argparse.Namespace, settings: Settings
) -> AsyncGenerator[dict[str, LookedAt]]:
    """
    Open the outboxes, by the key of their database.

    Raises:
        ConfigurationError: there is none, or a database is wrong or cannot be reached.
    """
    try:
        from ..sqlalchemy.engine.opening import open_engine
        from ..sqlalchemy.facts import database_of, require_file
        from ..sqlalchemy.outbox.looking import LookedAt, table_in
    except ModuleNotFoundError as error:
        raise ConfigurationError(str(error)) from None
    found: dict[str, LookedAt] = {}
    keys = _keys(arguments.database, settings)
    async with AsyncExitStack() as stack:
        for key in keys:
            database = database_of(settings, key)
            try:
                require_file(database)  # a connection would create it
                engine = await stack.enter_async_context(open_engine(database))
                async with asyncio.timeout(LOOKING), engine.connect() as connection:
                    table = await table_in(connection, arguments.table)
            except ConfigurationError:
                raise
            except Exception as error:
                reason = one_line(str(getattr(error, "orig", None) or error) or repr(error))
                raise ConfigurationError(f"{key}: cannot look at the database: {reason}") from error
            if table is not None:
                found[key] = LookedAt(engine, table)
        if not found:
            raise ConfigurationError(
                f"no database of {settings.source} has a table {arguments.table} "
                f"({', '.join(keys)}): name it with --table, or create it with a migration"
            )
        yield found


def _keys(wanted: str | None, settings: Settings) -> list[str]:
    by_key = settings.db_uri if isinstance(settings.db_uri, dict) else {}
    known = sorted({*settings.db_uris, *by_key})
    if isinstance(settings.db_uri, str):
        known.append("DB_URI")
    if not known:
        raise ConfigurationError(
            f"{settings.source} has no database: name the configuration of the service with "
            "--config, which has DB_URIS"
        )
    if wanted is None:
        return known
    if wanted not in known:
        raise ConfigurationError(f"there is no database {wanted!r}: there is {', '.join(known)}")
    return [wanted]


def quiet_settings(arguments: argparse.Namespace) -> Settings:
    """Read the settings; the command's errors say what the log would."""
    settings = settings_of(arguments)
    logging.getLogger("aiorpc").setLevel(logging.CRITICAL)
    return settings


async def found_messages(
    outboxes: dict[str, LookedAt], wanted: WantedRows, limit: int = MOST
) -> list[tuple[str, OneRow]]:
    """Return the messages that are *wanted*, with the key of their database."""
    found = [
        (key, row) for key, outbox in outboxes.items() for row in await outbox.rows(wanted, limit)
    ]
    seen = {str(row.id) for _, row in found} | {row.message_id for _, row in found}
    for name in wanted.names:
        if name not in seen:
            print_note(f"no message {name}: `aiorpc outbox ls --messages` lists them")
    return found


def change(
    arguments: argparse.Namespace,
    verb: str,
    action: Callable[[LookedAt, list[int]], Awaitable[int]],
    *,
    ask: bool = False,
) -> ExitCode:
    """
    Do *action* with the messages that *arguments* name and that are set aside. Report it, and
    return the exit status.

    Args:
        verb: what happens to a message: ``retried``.
        ask: whether to ask first.
    """
    _require_choice(arguments)
    settings = quiet_settings(arguments)
    found = asyncio.run(_aside(arguments, settings))
    count = counted(len(found), "message")
    if found and ask and not agreed(arguments, f"{count} will be {verb}. Go on?"):
        print_note(f"nothing is {verb}")
        return ExitCode.OK

    async def changed() -> int:
        async with opened(arguments, settings) as outboxes:
            return sum(
                [
                    await action(outbox, [row.id for key, row in found if key == own])
                    for own, outbox in outboxes.items()
                ]
            )

    done = asyncio.run(changed()) if found else 0
    if arguments.json:
        print_json({verb: done})
    else:
        print(f"{counted(done, 'message')} {verb}")
    missing = len(arguments.messages) > done
    return ExitCode.FAILED if missing else ExitCode.OK


async def _aside(arguments: argparse.Namespace, settings: Settings) -> list[tuple[str, OneRow]]:
    """Return the messages that *arguments* name, and note those that are not set aside."""
    async with opened(arguments, settings) as outboxes:
        from ..sqlalchemy.outbox.looking import RowState, WantedRows

        state = RowState.ASIDE if arguments.all else None
        wanted = WantedRows(tuple(arguments.messages), arguments.service, state)
        found = await found_messages(outboxes, wanted)
    for _, row in found:
        if row.state is not RowState.ASIDE:
            print_note(f"message {row.id} is {row.state}, and not set aside: it is left alone")
    return [each for each in found if each[1].state is RowState.ASIDE]

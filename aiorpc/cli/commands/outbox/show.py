"""
``aiorpc outbox show``: shows one message in an outbox whole. Connects to the databases of a
configuration, and changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import datetime
from typing import TYPE_CHECKING

from ....config import Settings
from ....exceptions import ConfigurationError
from ....logs import one_line
from ....parked.showing import ShownMessage, contents_of
from ...outboxes import add_databases, found_messages, opened, quiet_settings
from ...output import ExitCode, print_json
from ...parser import Parser
from ...shown_messages import print_contents

if TYPE_CHECKING:
    from ....sqlalchemy.outbox.looking import OneRow
    from ....sqlalchemy.outbox.tables import OutboxRow

__all__ = ["configure", "execute"]

ARGUMENTS = "MESSAGE"

DESCRIPTION = """\
MESSAGE is an id, as `aiorpc outbox ls --messages` shows it, or a message id.

Values whose names look like those of secrets are masked. --body writes the
bytes of the body as they are."""

EXAMPLES = """\
  $ aiorpc outbox show 4711 -c config.yaml
  $ aiorpc outbox show 4711 -c config.yaml --body > body.json
"""


class ShownRow(ShownMessage, kw_only=True):
    """The output for programs."""

    database: str
    id: int
    service: str
    exchange: str
    routing_key: str
    key: str | None
    mandatory: bool
    state: str
    attempts: int
    written_at: datetime
    due_at: datetime | None
    reason: str | None


def configure(parser: Parser) -> None:
    parser.add_argument("message", metavar="MESSAGE", help="The message to show.")
    parser.option("--body", "Write the body's bytes to stdout, and nothing else.")
    add_databases(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Show the message, and return the exit status."""
    settings = quiet_settings(arguments)
    database, row, whole = asyncio.run(_found(arguments, settings))
    if arguments.body:
        sys.stdout.flush()
        sys.stdout.buffer.write(whole.body)
        sys.stdout.buffer.flush()
        return ExitCode.OK
    shown = ShownRow(
        database=database,
        id=row.id,
        service=row.service,
        exchange=row.exchange,
        routing_key=row.routing_key,
        key=row.key,
        mandatory=whole.mandatory,
        state=row.state.value,
        attempts=row.attempts,
        written_at=row.written_at,
        due_at=row.due_at,
        reason=row.reason,
        **contents_of(whole.message, settings),
    )
    if arguments.json:
        print_json(shown)
    else:
        _print(shown)
    return ExitCode.OK


async def _found(
    arguments: argparse.Namespace, settings: Settings
) -> tuple[str, OneRow, OutboxRow]:
    """
    Return the database, and the message.

    Raises:
        ConfigurationError: there is no such message, or there are several.
    """
    async with opened(arguments, settings) as outboxes:
        from ....sqlalchemy.outbox.looking import WantedRows

        wanted = WantedRows((arguments.message,), arguments.service)
        found = await found_messages(outboxes, wanted)
        if len(found) > 1:
            places = ", ".join(f"{row.id} in {key}" for key, row in found)
            raise ConfigurationError(f"{arguments.message} is {places}: say --database, or the id")
        for key, row in found:
            whole = await outboxes[key].loaded(row.id)
            if whole is not None:
                return key, row, whole
    raise ConfigurationError(f"there is no message {arguments.message}; perhaps it is sent now")


def _print(shown: ShownRow) -> None:
    print(f"{one_line(shown.database)}: message {shown.id} of {one_line(shown.service)}")
    lines = {
        "state": shown.state,
        "reason": shown.reason,
        "attempts": str(shown.attempts),
        "key": shown.key,
        "to": f"exchange {shown.exchange!r}, key {shown.routing_key!r}",
        "written": f"{shown.written_at:%Y-%m-%d %H:%M:%S} UTC",
        "due": None if shown.due_at is None else f"{shown.due_at:%Y-%m-%d %H:%M:%S} UTC",
    }
    for name, value in lines.items():
        if value:
            print(f"{name:9} {one_line(value, 2000)}")
    print_contents(shown)

"""
``aiorpc outbox ls``: counts the messages in outboxes by destination and state. Connects to the
databases of a configuration, and changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ...outboxes import MOST, add_databases, opened, quiet_settings
from ...output import ExitCode, print_json
from ...parser import Parser, at_least_one
from ...tables import Column, print_rows

if TYPE_CHECKING:
    from ....sqlalchemy.outbox.looking import OneRow, RowGroup

__all__ = ["configure", "execute"]

ARGUMENTS = ""

DESCRIPTION = """\
The databases are those in DB_URIS of the configuration. A message is

  waiting    until the broker has confirmed it
  retrying   because the broker has refused it
  held       by an older message of its key that is not sent
  set aside  until you retry or discard it"""

EXAMPLES = """\
  $ aiorpc outbox ls -c config.yaml
  $ aiorpc outbox ls -c config.yaml --messages --service shop
  $ aiorpc outbox ls -c config.yaml --json | jq '.[].groups[] | select(.state == "set aside")'
"""

_OF_GROUPS = (
    *(Column("COUNT", right=True), Column("SERVICE"), Column("EXCHANGE"), Column("ROUTING KEY")),
    *(Column("STATE"), Column("OLDEST"), Column("REASON", wraps=True)),
)
_OF_ROWS = (
    *(Column("ID", right=True), Column("SERVICE"), Column("ROUTING KEY"), Column("KEY")),
    *(Column("STATE"), Column("WRITTEN"), Column("ATTEMPTS", right=True)),
    *(Column("BYTES", right=True), Column("REASON", wraps=True)),
)


class ListedOutbox(msgspec.Struct):
    """The output for programs."""

    database: str
    groups: Sequence[RowGroup]
    messages: Sequence[OneRow] | None = None


def configure(parser: Parser) -> None:
    parser.option("--messages -m", "Also list each message, the oldest first.")
    limit = f"Messages to list of each database at most. (default: {MOST:,})"
    parser.option("--limit N", limit, type=at_least_one, default=MOST)
    add_databases(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the list, and return the exit status."""
    listed = asyncio.run(_listed(arguments))
    if arguments.json:
        print_json(listed)
        return ExitCode.OK
    for number, each in enumerate(listed):
        if number:
            print()
        _print(each)
    return ExitCode.OK


async def _listed(arguments: argparse.Namespace) -> list[ListedOutbox]:
    settings = quiet_settings(arguments)
    async with opened(arguments, settings) as outboxes:
        from ....sqlalchemy.outbox.looking import WantedRows

        wanted = WantedRows(service=arguments.service)
        return [
            ListedOutbox(
                key,
                await outbox.groups(wanted),
                await outbox.rows(wanted, arguments.limit) if arguments.messages else None,
            )
            for key, outbox in outboxes.items()
        ]


def _print(listed: ListedOutbox) -> None:
    count = sum(group.count for group in listed.groups)
    print(f"{listed.database}: {count:,} message{'' if count == 1 else 's'}")
    if listed.groups:
        print_rows(
            _OF_GROUPS,
            [
                (
                    *(f"{each.count:,}", each.service, each.exchange, each.routing_key),
                    *(each.state.value, f"{each.oldest:%Y-%m-%d %H:%M:%S}", each.reason),
                )
                for each in listed.groups
            ],
        )
    if listed.messages:
        print()
        print_rows(
            _OF_ROWS,
            [
                (
                    *(each.id, each.service, each.routing_key, each.key, each.state.value),
                    *(f"{each.written_at:%Y-%m-%d %H:%M:%S}", each.attempts, each.bytes),
                    each.reason,
                )
                for each in listed.messages
            ],
        )

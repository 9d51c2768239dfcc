"""
``aiorpc parked ls``: counts parked messages by queue, method and error. Connects to the broker,
and gives back each message that it reads.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Collection, Sequence

import msgspec

from ....exceptions import ConfigurationError, ConnectionLost
from ....logs import counted, one_line
from ....parked.messages import Group, OneMessage, Selection
from ....parked.queues import ParkedQueue
from ....parked.reading import Look, look
from ....transports.base import State
from ...output import ExitCode, print_json, print_note
from ...parked_queues import (
    add_connection,
    add_selection,
    agreed,
    connected,
    find,
)
from ...parser import Parser, at_least_one
from ...tables import Column, print_rows

__all__ = ["configure", "execute"]

ARGUMENTS = "[QUEUE ...]"

DESCRIPTION = """\
QUEUE is a queue, with or without .parked at its end; * stands for anything.
Without QUEUE, the queues of all services that answer are looked at.

The command takes each message from its queue, reads it and gives it back, so
RabbitMQ marks it as redelivered. With --count, it reads no message."""

EXAMPLES = """\
  $ aiorpc parked ls
  $ aiorpc parked ls 'rpc-*' --management http://guest:guest@localhost:15672
  $ aiorpc parked ls --json | jq '.queues[] | select(.messages > 100)'
"""


class ListedParked(msgspec.Struct):
    """The output for programs. ``incomplete`` says why there may be other queues."""

    queues: Sequence[Look]
    incomplete: str


def configure(parser: Parser) -> None:
    queues = "Queues whose parked messages to count."
    parser.add_argument("queues", metavar="QUEUE", nargs="*", help=queues)
    add_selection(parser)
    limit = "Messages to read of each queue at most. (default: 10,000)"
    parser.option("--limit N", limit, type=at_least_one, default=10_000)
    parser.option("--messages -m", "Also list each message.")
    parser.option("--count", "Only count the messages of each queue.")
    add_connection(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the list, and return the exit status."""
    found = find(arguments, "ls", arguments.queues)
    costly = [queue for queue in found.queues if queue.cost and queue.messages]
    unread = set()
    if costly and not arguments.count:
        costs = " ".join(queue.cost for queue in costly)
        if not agreed(arguments, f"{costs} Read them? Otherwise they are only counted."):
            unread = {queue.name for queue in costly}
    looks = asyncio.run(_look_at_all(arguments, found.queues, unread))
    if arguments.json:
        print_json(ListedParked(looks, found.incomplete))
    else:
        _print(looks)
        sys.stdout.flush()  # before the notes, if both go to one file
        if found.incomplete:
            print_note(f"this may be incomplete: {found.incomplete}")
    for name in found.missing:
        print_note(f"no queue {name}: nothing was parked there")
    troubles = [each.trouble for each in looks if each.trouble]
    for trouble in troubles:
        print_note(f"not read: {trouble}")
    return ExitCode.FAILED if troubles else ExitCode.OK


async def _look_at_all(
    arguments: argparse.Namespace, queues: Sequence[ParkedQueue], unread: Collection[str]
) -> list[Look]:
    looks = []
    async with connected(arguments, "ls") as transport:
        for queue in queues:
            limit = 0 if arguments.count or queue.name in unread else arguments.limit
            wanted = Selection(method=arguments.method, error=arguments.error)
            try:
                seen = await look(transport, queue.name, limit, wanted, each=arguments.messages)
            except (ConfigurationError, ConnectionLost) as error:
                if transport.state is not State.CONNECTED:
                    raise
                seen = Look(queue.name, queue.messages, 0, [], trouble=str(error))
            if seen is not None:
                looks.append(seen)
    return looks


#: Characters of a cell that are shown at most.
MOST_CELL = 200
_OF_GROUPS = (
    *(Column("COUNT", right=True), Column("ERROR"), Column("METHOD"), Column("PARKED")),
    *(Column("FIRST ID"), Column("REASON", wraps=True)),
)
_OF_MESSAGES = (
    *(Column("POSITION", right=True), Column("ID"), Column("PARKED")),
    *(Column("BYTES", right=True), Column("METHOD"), Column("REASON", wraps=True)),
)


def _print(looks: Sequence[Look]) -> None:
    looks = [each for each in looks if each.messages]
    if not looks:
        print("no parked messages")
    for number, seen in enumerate(looks):
        if number:
            print()
        print(f"{one_line(seen.queue)}: {counted(seen.messages, 'message')}")
        if seen.groups:
            print_rows(_OF_GROUPS, [_cells(group) for group in seen.groups], most=MOST_CELL)
        if seen.rows:
            print()
            print_rows(_OF_MESSAGES, [_cells_of(row) for row in seen.rows], most=MOST_CELL)
        if seen.groups and seen.read < seen.messages:
            print_note(f"the first {seen.read:,} of {seen.messages:,} messages are read")


def _cells(group: Group) -> tuple[object, ...]:
    first, last = _minutes(group.oldest), _minutes(group.newest)
    if first != last:
        first = f"{first} to {last[11:] if first[:10] == last[:10] else last}"
    return f"{group.count:,}", group.error, group.method, first, group.id, group.reason


def _cells_of(row: OneMessage) -> tuple[object, ...]:
    return row.position, row.id, _minutes(row.at), row.bytes, row.method, row.reason


def _minutes(at: str | None) -> str:
    return "" if at is None else at[:16].replace("T", " ")

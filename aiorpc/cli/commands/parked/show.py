"""
``aiorpc parked show``: shows one parked message whole. Connects to the broker, and gives back each
message that it reads.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from ....logs import one_line
from ....parked.messages import ParkedMessage
from ....parked.reading import find
from ....parked.showing import Shown, shown_of
from ....wire.names import PARKED_MESSAGE, PARKED_STACKTRACE
from ...output import ExitCode, print_json
from ...parked_queues import (
    add_connection,
    add_selection,
    agreed,
    connected,
    find_some,
    selection_of,
)
from ...parser import Parser
from ...shown_messages import print_contents

__all__ = ["configure", "execute"]

ARGUMENTS = "QUEUE [MESSAGE]"

DESCRIPTION = """\
MESSAGE is an id or a position, as `aiorpc parked ls --messages` shows them.
Without MESSAGE, the first one is shown.

Sensitive arguments of the method, and values whose names look like those of
secrets, are masked. --body writes the bytes of the body as they are."""

EXAMPLES = """\
  $ aiorpc parked show evt-notices-posted--mailer.send
  $ aiorpc parked show evt-notices-posted--mailer.send 5f0c2a91d3 --json
  $ aiorpc parked show rpc-shop 3 --body > body.json
"""


def configure(parser: Parser) -> None:
    parser.add_argument("queue", metavar="QUEUE", help="The queue of the message.")
    parser.add_argument("message", metavar="MESSAGE", nargs="?", help="The message to show.")
    add_selection(parser)
    parser.option("--body", "Write the body's bytes to stdout, and nothing else.")
    add_connection(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Show the message, and return the exit status."""
    arguments.messages = [] if arguments.message is None else [arguments.message]
    wanted = selection_of(arguments)
    (queue,) = find_some(arguments, "show", one=True)
    if queue.cost and not agreed(arguments, f"{queue.cost} Go on?"):
        return ExitCode.OK

    async def found() -> ParkedMessage:
        async with (
            connected(arguments, "show") as transport,
            transport.reader(queue.name) as reader,
        ):
            return await find(reader, queue.messages, wanted)

    parked = asyncio.run(found())
    if arguments.body:
        sys.stdout.flush()
        sys.stdout.buffer.write(parked.message.body)
        sys.stdout.buffer.flush()
        return ExitCode.OK
    shown = shown_of(parked, queue.messages, arguments.settings)
    if arguments.json:
        print_json(shown)
    else:
        _print(shown)
    return ExitCode.OK


def _print(shown: Shown) -> None:
    print(
        f"{one_line(shown.queue)}: message {shown.position:,} of {shown.messages:,}, id {shown.id}"
    )
    origin = "" if shown.routing_key is None else f"key {shown.routing_key!r}"
    if shown.exchange is not None:
        origin = f"exchange {shown.exchange!r}, {origin}"
    lines = {
        "method": shown.method,
        "error": shown.reason,
        "parked": "" if shown.parked_at is None else f"{shown.parked_at:%Y-%m-%d %H:%M:%S} UTC",
        "queue": shown.from_queue,
        "sent to": origin,
    }
    for name, value in lines.items():
        if value:
            print(f"{name:9} {one_line(value)}")
    print_contents(shown, hidden={PARKED_STACKTRACE, PARKED_MESSAGE})
    if shown.stack:
        print("\nstack")
        for line in shown.stack.rstrip().splitlines():
            print(f"  {one_line(line)}")

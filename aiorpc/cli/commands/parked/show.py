"""
``aiorpc parked show``: shows one parked message whole. Connects to the broker, and gives back each
message that it reads.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ....logs import counted, one_line
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

#: Characters of a body, and of a header, that are shown.
MOST_BODY, MOST_HEADER = 20_000, 2_000
#: Bytes of a binary body that are shown.
MOST_BINARY = 256


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
    hidden = {PARKED_STACKTRACE, PARKED_MESSAGE}
    _print_mapping("properties", shown.properties)
    _print_mapping("headers", {k: v for k, v in shown.headers.items() if k not in hidden})
    trouble = f"; {one_line(shown.body_trouble)}" if shown.body_trouble else ""
    print(f"\nbody ({counted(shown.bytes, 'byte')}{trouble})")
    for line in _body_lines(shown):
        print(f"  {line}")
    if shown.stack:
        print("\nstack")
        for line in shown.stack.rstrip().splitlines():
            print(f"  {one_line(line)}")


def _print_mapping(heading: str, values: Mapping[str, Any]) -> None:
    if values:
        print(f"\n{heading}")
    width = min(max(map(len, values), default=0), 30)
    for name, value in values.items():
        text = _as_json(value) if isinstance(value, list | dict) else str(value)
        print(f"  {one_line(name):{width}}  {one_line(text, MOST_HEADER)}")


def _body_lines(shown: Shown) -> Iterator[str]:
    if shown.body_base64 is not None:
        data = base64.b64decode(shown.body_base64[: 4 * MOST_BINARY])
        text = data[:MOST_BINARY].hex(" ")
        yield from (text[at : at + 48].rstrip() for at in range(0, len(text), 48))
    else:
        is_decoded = shown.body_text is None
        text = shown.body_text or (_as_json(shown.body, indent=2) if is_decoded else "")
        for line in text[:MOST_BODY].split("\n"):
            yield one_line(line.rstrip("\r"), MOST_BODY)
    if len(text) > MOST_BODY or (shown.body_base64 is not None and shown.bytes > MOST_BINARY):
        yield "... (--body writes the whole body)"


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)

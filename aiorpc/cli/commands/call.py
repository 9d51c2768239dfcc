"""``aiorpc call``: makes one call, and prints its result as JSON."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from ...config import Settings
from ...exceptions import IncorrectSignature, MethodNotFound, RemoteError
from ..calls import Wanted, add_call, explain, wanted_of
from ..output import ExitCode, print_json
from ..parser import Parser, settings_for_server

__all__ = ["call_once", "configure", "execute"]

ARGUMENTS = "SERVICE.METHOD [ARGS] [KWARGS]"

DESCRIPTION = """\
In a pipe, the result is one line. With --stream, each item of a stream is one
line, as soon as it arrives. An error is one line on stderr, and the exit
code shows the kind of the error."""

EXAMPLES = """\
  $ aiorpc call service_x.remote_method '["hello"]'
  $ aiorpc call orders.place '{"product": "tea", "pieces": 2}' --timeout 3
  $ aiorpc call users.get '[42]' --context language=fi --broker amqp://host/
"""


def configure(parser: Parser) -> None:
    """Add the arguments and options of the command."""
    add_call(parser)
    text = "Print the items of a method that is an async generator. The timeout limits all of it."
    parser.option("--stream", text, action="store_true")


def execute(arguments: argparse.Namespace) -> int:
    """Make the call, print its result or its error, and return the exit status."""
    wanted = wanted_of(arguments)
    settings = settings_for_server(arguments, "call")
    try:
        if arguments.stream:
            asyncio.run(_print_stream(settings, wanted))
            return ExitCode.OK
        result = asyncio.run(call_once(settings, wanted))
    except (RemoteError, MethodNotFound, IncorrectSignature) as error:
        return explain(wanted, error, debug=arguments.debug)
    print_json(result)
    return ExitCode.OK


async def call_once(settings: Settings, wanted: Wanted) -> Any:
    """Connect, call, disconnect, and return the result."""
    async with wanted.connected(settings) as call:
        return await call()


async def _print_stream(settings: Settings, wanted: Wanted) -> None:
    async with wanted.method(settings) as method:
        async for item in method.stream(*wanted.args, **wanted.kwargs):
            print_json(item)

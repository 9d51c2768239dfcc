"""``aiorpc call``: makes one call, and prints its result as JSON."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

from ...config import Settings
from ...exceptions import IncorrectSignature, MethodNotFound, RemoteError
from ..calls import Wanted, add_call, in_words, wanted_of
from ..exit_codes import ExitCode, exit_code_of
from ..output import print_error, print_json
from ..parser import Parser, require_server, settings_of

__all__ = ["call_once", "configure", "execute"]

DESCRIPTION = """\
Call a method, and print its result as JSON.

In a pipe the result is one line. An error is one line on stderr, and the exit
code says what kind of error it is."""

EXAMPLES = """\
  $ aiorpc call service_x.remote_method '["hello"]'
  $ aiorpc call orders.place '{"product": "tea", "pieces": 2}' --timeout 3
  $ aiorpc call users.get '[42]' --context language=fi --broker amqp://host/
"""


def configure(parser: Parser) -> None:
    """Add the arguments and the help of ``aiorpc call``."""
    parser.describe("SERVICE.METHOD [ARGS] [KWARGS]", DESCRIPTION, EXAMPLES)
    add_call(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Make the call, print its result or why it failed, and return the exit status."""
    wanted = wanted_of(arguments)
    settings = settings_of(arguments)
    require_server(settings, "call")
    # The error says that the broker is not there; other lines would only hide the result.
    logging.getLogger("aiorpc").setLevel(logging.CRITICAL)
    try:
        result = asyncio.run(call_once(settings, wanted))
    except (RemoteError, MethodNotFound, IncorrectSignature) as error:
        if arguments.debug:
            raise
        print_error(in_words(wanted, error))
        return exit_code_of(error)
    print_json(result)
    return ExitCode.OK


async def call_once(settings: Settings, wanted: Wanted) -> Any:
    """Connect, call, disconnect, and return the result."""
    async with wanted.connected(settings) as call:
        return await call()

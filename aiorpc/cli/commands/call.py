"""``aiorpc call``: makes one call, and prints its result as JSON."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from ...config import Settings
from ...exceptions import IncorrectSignature, MethodNotFound, RemoteError
from ..calls import Wanted, add_call, explain, wanted_of
from ..output import ExitCode, print_json
from ..parser import settings_for_server

__all__ = ["call_once", "configure", "execute"]

ARGUMENTS = "SERVICE.METHOD [ARGS] [KWARGS]"

DESCRIPTION = """\
In a pipe, the result is one line. An error is one line on stderr, and the exit
code shows the kind of the error."""

EXAMPLES = """\
  $ aiorpc call service_x.remote_method '["hello"]'
  $ aiorpc call orders.place '{"product": "tea", "pieces": 2}' --timeout 3
  $ aiorpc call users.get '[42]' --context language=fi --broker amqp://host/
"""


configure = add_call


def execute(arguments: argparse.Namespace) -> int:
    """Make the call, print its result or its error, and return the exit status."""
    wanted = wanted_of(arguments)
    settings = settings_for_server(arguments, "call")
    try:
        result = asyncio.run(call_once(settings, wanted))
    except (RemoteError, MethodNotFound, IncorrectSignature) as error:
        return explain(wanted, error, debug=arguments.debug)
    print_json(result)
    return ExitCode.OK


async def call_once(settings: Settings, wanted: Wanted) -> Any:
    """Connect, call, disconnect, and return the result."""
    async with wanted.connected(settings) as call:
        return await call()

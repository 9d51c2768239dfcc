"""
``aiorpc contract``: describes services as an AsyncAPI 3 document. ``contract diff`` compares two.
"""

from __future__ import annotations

import argparse
import asyncio

from ....contracts.describing import contract_of
from ....contracts.writing import text_of
from ....exceptions import ConfigurationError
from ...contract_files import write
from ...live_contracts import add_live, live_contract
from ...loading import load_services, look_in_current_directory
from ...output import ExitCode
from ...parser import Parser, settings_for_server

__all__ = ["ACTIONS", "configure", "execute"]

#: The second words, with the first line of their help.
ACTIONS = {"diff": "Name what a new contract breaks, and for whom."}
#: The second word may be a module.
TAKES_NAMES = True

ARGUMENTS = "MODULE[:Class] ... | --live [SERVICE ...]"

DESCRIPTION = """\
The contract has methods, arguments, results, errors, events, streams and
routes, from annotations and docstrings. The same code gives the same text,
so commit it, and compare: aiorpc contract diff OLD NEW."""

EXAMPLES = """\
  $ aiorpc contract orders -o contract.json
  $ aiorpc contract orders.service:Orders stock
  $ aiorpc contract --live --broker amqp://host/ -o running.json
  $ aiorpc contract diff contract.json new.json
"""


def configure(parser: Parser) -> None:
    text = "A module with services, or one service class; with --live, a running service."
    parser.add_argument("targets", metavar="MODULE", nargs="*", help=text)
    parser.option("--output -o FILE", "Write the contract to FILE, if it differs.")
    add_live(parser, "Ask the running services: by default, all that answer.")


def execute(arguments: argparse.Namespace) -> int:
    """Write the contract, and return the exit status."""
    if arguments.live:
        settings = settings_for_server(arguments, "contract --live")
        contract = asyncio.run(live_contract(settings, arguments.targets, arguments.wait))
    elif arguments.targets:
        look_in_current_directory()
        contract = contract_of(load_services(arguments.targets))
    else:
        raise ConfigurationError("name the modules with the services: aiorpc contract MODULE ...")
    write(text_of(contract), arguments.output)
    return ExitCode.OK

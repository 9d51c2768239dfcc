"""``aiorpc stubs``: writes a typed Python module for the callers of a service."""

from __future__ import annotations

import argparse
import asyncio

from ...contracts.stubs import stub_of
from ..contract_files import read_contract, write
from ..live_contracts import add_live, live_contract
from ..output import ExitCode
from ..parser import Parser, settings_for_server

__all__ = ["configure", "execute"]

ARGUMENTS = "SERVICE"

DESCRIPTION = """\
The module has a Protocol with the methods of the service, and the classes of
their arguments and results: cluster.typed(Orders, "orders"). mypy and
pyright then check the calls, without the code of the service."""

EXAMPLES = """\
  $ aiorpc stubs orders --contract contract.json -o orders_stub.py
  $ aiorpc stubs orders --live --broker amqp://host/ -o orders_stub.py
"""


def configure(parser: Parser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="The name of the service.")
    contract = "The contract; - is stdin. (default: contract.json)"
    parser.option("--contract FILE", contract, default="contract.json")
    parser.option("--output -o FILE", "Write the module to FILE, if it differs.")
    add_live(parser, "Ask the running service for its contract.")


def execute(arguments: argparse.Namespace) -> int:
    """Write the module, and return the exit status."""
    service = arguments.service
    if arguments.live:
        settings = settings_for_server(arguments, "stubs --live")
        contract = asyncio.run(live_contract(settings, [service], arguments.wait))
    else:
        contract = read_contract(arguments.contract)
    write(stub_of(contract, service), arguments.output)
    return ExitCode.OK

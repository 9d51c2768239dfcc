"""``aiorpc mcp``: offers methods of a running service to an agent, as tools of MCP over stdio."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

from ...calling.standalone import ClusterRpcProxy
from ...config import Settings
from ...exceptions import ConfigurationError
from ..contract_files import read_contract
from ..live_contracts import live_contract
from ..output import ExitCode
from ..parser import Parser, add_settings, add_timeout, number, settings_for_server

__all__ = ["configure", "execute"]

ARGUMENTS = "--service SERVICE METHOD ..."

DESCRIPTION = """\
An agent starts this command, and talks to it over stdin and stdout. Each named
method is a tool; no other method is. Whoever controls the agent, or a text
that it reads, can call these methods with any arguments."""

EXAMPLES = """\
  $ aiorpc mcp --service orders get search --broker amqp://host/
  $ aiorpc mcp --service orders --all --contract contract.json
"""


def configure(parser: Parser) -> None:
    text = "Methods to offer as tools."
    parser.add_argument("methods", metavar="METHOD", nargs="*", help=text)
    parser.option("--service SERVICE", "The service that has the methods.")
    parser.option("--all", "Offer all methods without sensitive arguments.")
    parser.option("--allow-sensitive", "Also offer methods with sensitive arguments.")
    contract = "The contract of the service. (default: ask the running service)"
    parser.option("--contract FILE", contract)
    wait = "Seconds to wait for the contract. (default: 1)"
    parser.option("--wait SECONDS", wait, type=number(0.01, 60), default=1.0)
    add_timeout(parser)
    add_settings(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Serve one agent until it closes stdin, and return the exit status."""
    try:
        from ... import mcp
    except ModuleNotFoundError as error:
        raise ConfigurationError(str(error)) from None
    if arguments.service is None:
        raise ConfigurationError("name the service: aiorpc mcp --service SERVICE METHOD ...")
    settings = settings_for_server(arguments, "mcp", level=logging.WARNING)
    asyncio.run(_serve(settings, arguments, mcp))
    return ExitCode.OK


async def _serve(settings: Settings, arguments: argparse.Namespace, mcp: Any) -> None:
    service = arguments.service
    if arguments.contract is None:
        contract = await live_contract(settings, [service], arguments.wait)
    else:
        contract = read_contract(arguments.contract)
        if service not in contract.services:
            raise ConfigurationError(f"{arguments.contract} has no service {service!r}")
    names = arguments.methods
    if arguments.all:
        known = contract.services[service].methods
        names = [each.name for each in known if arguments.allow_sensitive or not each.sensitive]
    if not names:
        known_names = ", ".join(each.name for each in contract.services[service].methods)
        raise ConfigurationError(
            f"name the methods that the agent may call, or --all: {service} has {known_names}"
        )
    methods = mcp.offered(contract, service, names, allow_sensitive=arguments.allow_sensitive)
    timeout = settings.rpc_timeout if arguments.timeout is None else arguments.timeout
    async with ClusterRpcProxy(settings, timeout=timeout) as cluster:
        await mcp.serve(mcp.server_of(contract, service, methods, cluster))

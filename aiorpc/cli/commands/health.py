"""
``aiorpc health``: asks the admin address of a running ``aiorpc run``, for probes that run a
command. Connects only to that address.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client

import msgspec

from ...blocking import in_thread
from ...config import parse_address
from ...exceptions import ConfigurationError
from ...hosting.report import Report
from ...logs import one_line
from ..output import ExitCode, print_json
from ..parser import Parser, add_settings, number, settings_of

__all__ = ["configure", "execute"]

ARGUMENTS = ""

DESCRIPTION = """\
Asks /readyz, or /livez with --live, at the admin address: that of --admin, or
ADMIN_ADDRESS in the configuration. The exit code is 0 or 1; without an answer
it is 1. One line has the reasons. The command does not connect to the broker."""

EXAMPLES = """\
  $ aiorpc health --admin 127.0.0.1:9100
  $ aiorpc health --config config.yaml --live
  $ aiorpc health --config config.yaml --json
"""

#: Bytes of an answer that are read at most.
_MOST = 1 << 20
#: Host names for addresses that stand for all interfaces.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def configure(parser: Parser) -> None:
    parser.option("--admin HOST:PORT", "The admin address. (default: ADMIN_ADDRESS)")
    parser.option("--live", "Ask whether the event loops run: /livez.")
    parser.option("--json", "Print the whole report as JSON.")
    text = "Seconds to wait for the answer. (default: 2)"
    parser.option("--timeout -t SECONDS", text, type=number(0.001, 3600), default=2.0)
    add_settings(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the reasons, and return 0 if the process is ready, or alive with ``--live``."""
    address = arguments.admin
    if address is None:
        address = settings_of(arguments).admin_address
    if address is None:
        raise ConfigurationError(
            "there is no admin address: give --admin HOST:PORT, or the configuration with "
            "ADMIN_ADDRESS (--config) that `aiorpc run` has"
        )
    path, good = ("/livez", "alive") if arguments.live else ("/readyz", "ready")
    try:
        report = asyncio.run(_answer(address, path, arguments.timeout))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = "timed out" if isinstance(error, TimeoutError) else error
        why = f"no answer from {address}{path}: {reason}"
        report = Report(alive=False, ready=False, reasons=(why,))
    ok = report.alive if arguments.live else report.ready
    if arguments.json:
        print_json(report)
    else:
        print(one_line(good if ok else f"not {good}: {'; '.join(report.reasons)}"))
    return ExitCode.OK if ok else ExitCode.FAILED


async def _answer(address: str | int, path: str, timeout: float) -> Report:
    """Ask within *timeout* seconds in all. A socket's own limit is for each of its steps only."""
    async with asyncio.timeout(timeout):
        return await in_thread(_ask, address, path, timeout)


def _ask(address: str | int, path: str, timeout: float) -> Report:
    """
    Raises:
        OSError, HTTPException: nothing answers there.
        ValueError: something else answers there.
    """
    host, port = parse_address(address, "--admin")
    connection = http.client.HTTPConnection(_LOOPBACK.get(host, host), port, timeout=timeout)
    try:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            return msgspec.json.decode(answer.read(_MOST), type=Report)
    finally:
        connection.close()

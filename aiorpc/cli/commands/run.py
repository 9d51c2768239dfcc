"""``aiorpc run``: hosts services in this process, or in a child that ``--reload`` restarts."""

from __future__ import annotations

import argparse

from ..parser import Parser, add_settings
from ..serving import run_services

__all__ = ["configure", "execute"]

ARGUMENTS = "MODULE[:CLASS] ..."

DESCRIPTION = """\
After the signal, the services finish the calls in progress. Calls that take
longer than SHUTDOWN_TIMEOUT (25 s) are requeued, and the exit code is 1. A
second signal ends the process at once.

At the start, aiorpc waits for the broker, and for a vhost, permissions and
queues that do not exist yet, unless the broker refuses user or password."""

EXAMPLES = """\
  $ aiorpc run services.service_x services.service_y
  $ aiorpc run shop.orders:Orders --config config.yaml --define max_workers=10
  $ aiorpc run greetings --reload
"""


def configure(parser: Parser) -> None:
    text = (
        "Modules with services or gateways, also in the current directory; with CLASS, only this "
        "class or gateway."
    )
    parser.add_argument("modules", metavar="MODULE[:CLASS]", nargs="+", help=text)
    add_settings(parser)
    parser.option("--admin HOST:PORT", "Serve /livez, /readyz and /metrics (ADMIN_ADDRESS).")
    parser.option("--fail-fast", "Do not wait at the start: end with the error.")
    parser.option("--reload", "Restart whenever a source file changes.")


def execute(arguments: argparse.Namespace) -> int:
    """Run the services until a signal, and return the exit status."""
    if arguments.reload:
        from ..reload import run_reloading

        return run_reloading(arguments)
    return run_services(arguments)

"""
``aiorpc run``: hosts services in this process, in several (``--workers``), or in a child that
``--reload`` restarts.
"""

from __future__ import annotations

import argparse

from ..parser import Parser, add_settings, at_least_one

__all__ = ["configure", "execute"]

ARGUMENTS = "MODULE[:CLASS] ..."

DESCRIPTION = """\
After the signal, the services finish the calls in progress. Calls that take
longer than SHUTDOWN_TIMEOUT (25 s) are requeued, and the exit code is 1. A
second signal ends the process at once.

At the start, aiorpc waits for the broker, and for a vhost, permissions and
queues that do not exist yet, unless the broker refuses user or password.

With --workers, SIGHUP replaces the processes one by one, without losing a
call; SIGTTIN adds one, and SIGTTOU removes one."""

EXAMPLES = """\
  $ aiorpc run services.service_x services.service_y
  $ aiorpc run shop.orders:Orders --config config.yaml --define max_workers=10
  $ aiorpc run greetings --workers 4
  $ aiorpc run greetings --reload
"""


def configure(parser: Parser) -> None:
    text = (
        "Modules with services or gateways, also in the current directory; with CLASS, only this "
        "class or gateway."
    )
    parser.add_argument("modules", metavar="MODULE[:CLASS]", nargs="+", help=text)
    add_settings(parser)
    workers = "Run N processes, and replace those that die."
    parser.option("--workers N", workers, type=at_least_one)
    parser.option("--admin HOST:PORT", "Serve /livez, /readyz and /metrics (ADMIN_ADDRESS).")
    parser.option("--fail-fast", "Do not wait at the start: end with the error.")
    parser.option("--reload", "Restart whenever a source file changes.")


def execute(arguments: argparse.Namespace) -> int:
    """Run the services until a signal, and return the exit status."""
    if arguments.reload:
        from ..reload import run_reloading

        return run_reloading(arguments)
    if arguments.workers is not None:
        from ..supervising import run_workers

        return run_workers(arguments)
    from ..serving import run_services

    return run_services(arguments)

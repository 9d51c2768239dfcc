"""
``aiorpc doctor``: looks for what is wrong with configuration, broker and databases, from here.

Changes nothing. Imports the user's modules, but starts no service.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from ...config import Settings
from ...doctor.case import Case
from ...doctor.checks.configuration import MODULE, WRONG
from ...doctor.examining import examine
from ...doctor.findings import Finding, Severity, worst
from ...doctor.needs import Needs, needs_of
from ...exceptions import AioRpcError, ConfigurationError
from ...hosting.container import ServiceContainer
from ...logs import counted, one_line
from ...management import Management
from ..loading import UserCodeFailed, load_services
from ..output import ExitCode, print_json
from ..parser import Parser, add_settings, settings_of

__all__ = ["EXIT_CODES", "configure", "examined", "execute"]

ARGUMENTS = "[MODULE[:CLASS] ...]"

DESCRIPTION = """\
Looks from here, as a service would: at the configuration, the broker's
addresses, TLS, the login, permissions, exchanges, queues, limits, databases.
It changes nothing, and starts no service. Each finding has a name, and says
what is wrong, why it matters and what to do. What AMQP cannot tell needs
--management. The exit code is 0 without a warning, 1 with one, and 2 with an
error."""

EXAMPLES = """\
  $ aiorpc doctor --broker amqp://shop:secret@rabbit/shop
  $ aiorpc doctor shop.orders -c config.yaml --management http://rabbit:15672
  $ aiorpc doctor shop.orders --json | jq '.findings[].name'
"""

EXIT_CODES = {
    Severity.OK: ExitCode.OK,
    Severity.NOTE: ExitCode.OK,
    Severity.NOT_CHECKED: ExitCode.OK,
    Severity.WARNING: ExitCode.FAILED,
    Severity.ERROR: ExitCode.WRONG,
}
_COLOURS = {
    Severity.OK: "32",
    Severity.NOTE: "36",
    Severity.NOT_CHECKED: "2",
    Severity.WARNING: "33",
    Severity.ERROR: "1;31",
}
_WIDTH = max(map(len, Severity)) + 1


class Printed(msgspec.Struct):
    """What ``--json`` prints."""

    worst: Severity
    exit_code: int
    findings: list[Finding]


def configure(parser: Parser) -> None:
    text = "Modules with services. Without one, the checks of services are missing."
    parser.add_argument("modules", metavar="MODULE[:CLASS]", nargs="*", help=text)
    management = (
        "RabbitMQ's management API: http://user:password@host:15672. Without a user, the user of "
        "AMQP_URI logs in."
    )
    parser.option("--management URL", management)
    parser.option("--json", "Print JSON, for programs.")
    add_settings(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the findings, and return the exit status."""
    logging.getLogger("aiorpc").setLevel(logging.CRITICAL)  # the findings say it
    findings = examined(arguments)
    status = EXIT_CODES[worst(findings)]
    if arguments.json:
        print_json(Printed(worst(findings), status, findings))
    else:
        for line in _lines(findings):
            print(line)
    return status


def examined(arguments: argparse.Namespace) -> list[Finding]:
    """Return the findings for a command line."""
    try:
        settings = settings_of(arguments)
    except ConfigurationError as error:
        return [WRONG.found(arguments.config or "the command line", str(error))]
    found: list[Finding] = []
    needs = _needs(settings, arguments.modules, found)
    management = None
    if arguments.management is not None:
        try:
            management = Management(arguments.management, settings)
        except ConfigurationError as error:
            found.append(WRONG.found("--management", str(error)))
    return found + asyncio.run(examine(Case(settings, needs, management)))


def _needs(settings: Settings, modules: Sequence[str], found: list[Finding]) -> list[Needs]:
    """Return what the services of *modules* need. Add a finding for each that is wrong."""
    needs: dict[str, Needs] = {}
    for module in modules:
        try:
            for service in load_services([module]):
                of_service = needs_of(ServiceContainer(service, settings))
                needs[of_service.service] = of_service
        except (AioRpcError, UserCodeFailed) as error:
            found.append(MODULE.found(module, str(error)))
    return list(needs.values())


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = max((len(each.name) for each in findings), default=0)
    said: set[str] = set()
    for each in findings:
        severity = f"{each.severity.value:<{_WIDTH}}"
        if coloured:
            severity = f"\x1b[{_COLOURS[each.severity]}m{severity}\x1b[0m"
        subject = f"{each.subject}: " if each.subject else ""
        yield f"{severity} {each.name:<{width}}  {one_line(f'{subject}{each.what}')}"
        indent = " " * (_WIDTH + 1)
        if each.why:
            yield f"{indent} why: {each.why}"
        if each.remedy and each.remedy not in said:
            if each.severity is Severity.NOT_CHECKED:
                said.add(each.remedy)  # once is enough for the lines that need --management
            yield f"{indent} do:  {one_line(each.remedy)}"
        for command in each.commands:
            yield f"{indent}      {command}"
    counts = Counter(each.severity for each in findings)
    yield ", ".join(_counted(each, counts[each]) for each in reversed(Severity) if counts[each])


def _counted(severity: Severity, number: int) -> str:
    is_noun = severity not in {Severity.OK, Severity.NOT_CHECKED}
    return counted(number, severity.value) if is_noun else f"{number} {severity.value}"

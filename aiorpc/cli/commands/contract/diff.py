"""
``aiorpc contract diff``: names what a new contract breaks, one line for each break.

With ``--live``, asks the running services who calls what breaks.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from ....contracts.differences import breaks_of
from ....contracts.rules import Break
from ....hosting.discovery.shapes import Caller
from ...contract_files import read_contract
from ...live_contracts import add_live, callers_of
from ...output import ExitCode, print_json, print_note
from ...parser import Parser, settings_for_server

__all__ = ["called", "configure", "execute"]

ARGUMENTS = "OLD NEW"

DESCRIPTION = """\
Each line has the rule, the place, what it was, what it is, and who is hurt.
The exit code is 1 if the new contract breaks something. A new method, a new
optional argument and a new field of a result break nothing."""

EXAMPLES = """\
  $ aiorpc contract diff contract.json new.json
  $ git show main:contract.json | aiorpc contract diff - contract.json
  $ aiorpc contract diff main.json contract.json --format github
  $ aiorpc contract diff main.json contract.json --live --broker amqp://host/
"""

#: Callers in a line.
_MOST = 5

_Callers = Mapping[str, Mapping[str, Caller]]


def configure(parser: Parser) -> None:
    parser.add_argument("old", metavar="OLD", help="The contract that callers know; - is stdin.")
    parser.add_argument("new", metavar="NEW", help="The contract to come; - is stdin.")
    formats = "text, github (annotations of a workflow), or json. (default: text)"
    choices = ("text", "github", "json")
    parser.option("--format FORMAT", formats, choices=choices, default="text")
    add_live(parser, "Ask the running services who calls what breaks.")


def execute(arguments: argparse.Namespace) -> int:
    """Print the breaks, and return the exit status."""
    old, new = read_contract(arguments.old), read_contract(arguments.new)
    breaks = breaks_of(old, new)
    callers: _Callers | None = None
    if arguments.live and breaks:
        settings = settings_for_server(arguments, "contract diff --live")
        callers = asyncio.run(callers_of(settings, old.services, arguments.wait))
    if arguments.format == "json":
        print_json([_data(each, callers) for each in breaks])
    elif not breaks:
        print_note(f"{arguments.new} breaks nothing of {arguments.old}")
    for each in breaks if arguments.format != "json" else ():
        text = f"{each}{called(each, callers)}"
        print(_annotation(each, text, arguments.new) if arguments.format == "github" else text)
    return ExitCode.FAILED if breaks else ExitCode.OK


def _of(found: Break, callers: _Callers) -> dict[str, Caller]:
    """Return who calls what *found* breaks."""
    calling: dict[str, Caller] = {}
    for method, who in callers.items():
        if method == found.method or method.startswith(f"{found.method}."):
            for name, each in who.items():
                before = calling.get(name, Caller(0, each.ago))
                calling[name] = Caller(before.calls + each.calls, min(before.ago, each.ago))
    return dict(sorted(calling.items(), key=lambda each: (-each[1].calls, each[0])))


def called(found: Break, callers: _Callers | None) -> str:
    """Return the end of a line, with those who call what *found* breaks."""
    if callers is None or found.hurts != "callers":
        return ""
    calling = _of(found, callers)
    shown = [
        f"{name} ({each.calls:,} calls, the last {each.ago:.0f} s ago)"
        for name, each in list(calling.items())[:_MOST]
    ]
    more = f" and {len(calling) - _MOST} more" if len(calling) > _MOST else ""
    return f"; called by {', '.join(shown)}{more}" if shown else "; called by nobody yet"


def _data(found: Break, callers: _Callers | None) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(found)
    if callers is not None:
        calling = _of(found, callers) if found.hurts == "callers" else {}
        data["callers"] = {
            name: {"calls": each.calls, "ago": each.ago} for name, each in calling.items()
        }
    return data


def _annotation(found: Break, text: str, file: str) -> str:
    """Return *text* as a command of GitHub's workflows, in which some characters are escaped."""
    file, title = (_escaped(each, {":": "%3A", ",": "%2C"}) for each in (file, found.rule))
    return f"::error file={file},title={title}::{_escaped(text, {})}"


def _escaped(text: str, more: Mapping[str, str]) -> str:
    for character, code in {"%": "%25", "\r": "%0D", "\n": "%0A", **more}.items():
        text = text.replace(character, code)
    return text

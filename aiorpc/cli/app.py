"""
Runs one command: parses its arguments, executes it, and turns its errors into an exit code.

Imports only the module of that command. Awaits nothing.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..exceptions import AioRpcError, likely
from .loading import UserCodeFailed
from .output import EXIT_CODES, ExitCode, print_error, report
from .parser import Parser

__all__ = ["COLLECT_AFTER", "COMMANDS", "complete", "main", "parser_of", "run"]

#: New objects after which Python looks for garbage; the default, 700, costs 3 % of a call (ADR 6).
COLLECT_AFTER = 10_000

#: The commands, with the first line of their help. Each command is a module in ``commands``. The
#: module of a command of two words, such as ``parked ls``, is a package with ``ACTIONS``. With
#: ``TAKES_NAMES``, its second word may be an argument too.
COMMANDS = {
    "run": "Run services until SIGTERM or Ctrl-C.",
    "call": "Call a method, and print its result as JSON.",
    "shell": "Open a Python prompt with top-level await, and the cluster as n.",
    "health": "Ask a running `aiorpc run` whether it is ready, or alive.",
    "ls": "List services, their queues and their consumers.",
    "top": "Show what services do now: rates, durations, errors and queues.",
    "console": "Show services, parked messages and who calls whom in a browser.",
    "doctor": "Look for what is wrong with configuration, broker and databases.",
    "parked": "Look at parked messages; replay or purge them.",
    "outbox": "Look at messages in outboxes; retry or discard some.",
    "bench": "Measure how fast a running service answers.",
    "contract": "Describe services as AsyncAPI, and compare two such contracts.",
    "mcp": "Offer methods of a running service to an agent, as tools of MCP.",
    "stubs": "Write a typed Python module for the callers of a service.",
    "show-config": "Show the configuration without its secrets.",
    "new": "Make a directory with a new service, its configuration and its test.",
}

EXAMPLES = """\
Examples:
  $ aiorpc new greetings
  $ aiorpc run greetings --config config.yaml
  $ aiorpc call greetings.hello '["Ada"]'
"""


def main() -> NoReturn:
    """Run ``aiorpc`` with the arguments of this process, and exit."""
    gc.set_threshold(COLLECT_AFTER)
    words = sys.argv[1:]
    if words[:1] == ["--complete"]:
        print("\n".join(complete(os.environ.get("COMP_LINE", ""))))
        raise SystemExit(ExitCode.OK)
    raise SystemExit(run(words))


def run(words: Sequence[str]) -> int:
    """
    Run ``aiorpc *words`` and return the exit status.

    Raises:
        SystemExit: after ``--help`` and ``--version``, or if *words* are wrong.
    """
    debug = False
    try:
        at = next((at for at, word in enumerate(words) if not word.startswith("-")), len(words))
        debug = bool(at) and _top_parser().read(words[:at]).debug
        if at == len(words):
            _top_parser().print_help()
            return ExitCode.WRONG
        name, given = command_of(words[at:])
        arguments = parser_of(name).read(given)
        arguments.debug = debug = debug or arguments.debug
        arguments.words = words
        if not gc.isenabled():  # main() in __init__ disabled it while modules are imported
            gc.freeze()  # the objects of these modules stay, so no later collection visits them
            gc.enable()
        status: int = _module_of(name).execute(arguments)
        sys.stdout.flush()
        return status
    except (AioRpcError, UserCodeFailed) as error:
        return report(error, debug=debug)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return ExitCode.INTERRUPTED
    except OSError as error:
        if error.errno not in {errno.EPIPE, errno.ENOSPC}:
            raise
        # Without dup2, Python fails again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:  # EPIPE is as in `aiorpc ls | head -1`
            print_error(f"the output cannot be written: {error.strerror}")
        return ExitCode.FAILED


def command_of(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """
    Return the command, of one or two words, that *words* begin with, and the other words.

    Raises:
        SystemExit: there is no such command.
    """
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        _top_parser().error(f"there is no command {name!r}{likely(name, COMMANDS)}")
    actions = getattr(_module_of(name), "ACTIONS", {})
    if not actions or not rest or rest[0].startswith("-"):
        return name, rest
    if rest[0] not in actions:
        if getattr(_module_of(name), "TAKES_NAMES", False):
            return name, rest
        parser_of(name).error(f"there is no command {name} {rest[0]!r}{likely(rest[0], actions)}")
    return f"{name} {rest[0]}", rest[1:]


def parser_of(name: str) -> Parser:
    """Return the parser of the command *name*, of one or two words."""
    command = _module_of(name)
    group, _, action = name.partition(" ")
    summary = _module_of(group).ACTIONS[action] if action else COMMANDS[name]
    parser = Parser(
        f"aiorpc {name}",
        command.ARGUMENTS,
        f"{summary}\n\n{command.DESCRIPTION}",
        f"Examples:\n{command.EXAMPLES}" + (f"\n{EXIT_CODES}" if name == "call" else ""),
    )
    command.configure(parser)
    return parser


def _module_of(name: str) -> Any:
    path = name.replace("-", "_").replace(" ", ".")
    return importlib.import_module(f"{__package__}.commands.{path}")


def _top_parser() -> Parser:
    commands = "\n".join(f"  {name:<12}  {summary}" for name, summary in COMMANDS.items())
    description = f"Microservices on asyncio and RabbitMQ.\n\nCommands:\n{commands}"
    parser = Parser("aiorpc", "COMMAND ...", description, f"{EXAMPLES}\n{EXIT_CODES}")
    version = f"aiorpc {__version__}"
    text = "Show the version and exit."
    parser.add_argument("--version", "-V", action="version", version=version, help=text)
    return parser


def complete(line: str) -> list[str]:
    """Return the commands or options that complete *line*, for ``aiorpc --complete``."""
    *before, last = line.split(" ")[1:] or [""]
    names = [word for word in before if word and not word.startswith("-")]
    if not names:
        known = [*COMMANDS, *_top_parser().options]
    elif names[0] not in COMMANDS:
        known = []
    else:
        actions = getattr(_module_of(names[0]), "ACTIONS", {})
        action = names[1] if names[1:] and names[1] in actions else ""
        known = parser_of(f"{names[0]} {action}".strip()).options
        if not action:
            known = [*actions, *known]
    return [word for word in known if word.startswith(last)]

"""
Runs one command: parses its arguments, executes it, and turns its errors into an exit code.

Imports the module of the command that is called, and of no other. Awaits nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..exceptions import AioRpcError
from .exit_codes import ExitCode
from .loading import UserCodeFailed
from .output import report
from .parser import Parser, likely

__all__ = ["COMMANDS", "complete", "main", "parser_of", "run"]

#: Each is a module in ``commands``, with ``configure(parser)`` and ``execute(arguments)``.
COMMANDS = {
    "run": "Run services until SIGTERM or Ctrl-C.",
    "call": "Call a method, and print its result as JSON.",
    "shell": "A Python prompt with top-level await and the cluster.",
    "ls": "List services, their queues and their consumers.",
    "bench": "Measure how fast a running service answers.",
    "show-config": "Show the configuration without its secrets.",
    "new": "Make a service, its configuration and its test.",
}

EXIT_CODES = """\
Exit codes:
    0  success
    1  the method raised; a service failed, or its calls took too long to stop
    2  the command, the configuration, the credentials or the call are wrong
    3  no such service, or nobody consumes its queue
    4  no answer within the timeout
    5  the broker cannot be reached, or the connection was lost
  130  Ctrl-C"""

EXAMPLES = """\
Examples:
  $ aiorpc new greetings
  $ aiorpc run greetings --config config.yaml
  $ aiorpc call greetings.hello '["Ada"]'
"""


def main() -> NoReturn:
    """Run ``aiorpc`` with the arguments of this process, and exit."""
    words = sys.argv[1:]
    if words[:1] == ["--complete"]:
        print("\n".join(complete(os.environ.get("COMP_LINE", ""))))
        raise SystemExit(ExitCode.OK)
    raise SystemExit(run(words))


def run(words: Sequence[str]) -> int:
    """
    Run ``aiorpc *words`` and return the exit status.

    Raises:
        SystemExit: after ``--help`` and ``--version``, or because *words* are wrong.
    """
    debug = False
    try:
        at = next((at for at, word in enumerate(words) if not word.startswith("-")), len(words))
        debug = bool(at) and _top_parser().read(words[:at]).debug
        if at == len(words):
            _top_parser().print_help()
            return ExitCode.WRONG
        name, given = words[at], words[at + 1 :]
        if name not in COMMANDS:
            _top_parser().error(f"there is no command {name!r}{likely(name, COMMANDS)}")
        command = _module_of(name)
        arguments = parser_of(name).read(given)
        arguments.debug = debug = debug or arguments.debug
        arguments.words = words
        status: int = command.execute(arguments)
        sys.stdout.flush()
        return status
    except (AioRpcError, UserCodeFailed) as error:
        return report(error, debug=debug)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # as in `aiorpc ls | head -1`; Python would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED


def parser_of(name: str) -> Parser:
    """The grammar of the command *name*."""
    parser = Parser(f"aiorpc {name}")
    _module_of(name).configure(parser)
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    if name == "call":
        parser.epilog = f"{parser.epilog}\n{EXIT_CODES}"
    return parser


def _module_of(name: str) -> Any:
    return importlib.import_module(f"{__package__}.commands.{name.replace('-', '_')}")


def _top_parser() -> Parser:
    parser = Parser("aiorpc", usage="aiorpc [--version] [--debug] COMMAND ...")
    commands = "\n".join(f"  {name:<12}  {summary}" for name, summary in COMMANDS.items())
    parser.description = f"Microservices on asyncio and RabbitMQ.\n\nCommands:\n{commands}"
    parser.epilog = f"{EXAMPLES}\n{EXIT_CODES}"
    parser.add_argument(
        "--version",
        "-V",
        action="version",
        version=f"aiorpc {__version__}",
        help="Show the version and exit.",
    )
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    return parser


def complete(line: str) -> list[str]:
    """Return the commands or options that complete *line*, for ``aiorpc --complete``."""
    *before, last = line.split(" ")[1:] or [""]
    name = next((word for word in before if word and not word.startswith("-")), None)
    if name is None:
        known = [*COMMANDS, *_top_parser().options]
    else:
        known = parser_of(name).options if name in COMMANDS else []
    return [word for word in known if word.startswith(last)]

"""
Prints results to stdout and everything else to stderr, and chooses the exit code.

Imports rich only to print JSON with colours on a terminal.
"""

from __future__ import annotations

import enum
import json
import os
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgspec

from ..exceptions import (
    AioRpcError,
    BadRequest,
    ConfigurationError,
    ConnectionLost,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
    UnserializableValueError,
)
from ..logs import indented, one_line
from .loading import UserCodeFailed

__all__ = [
    "EXIT_CODES",
    "ExitCode",
    "exit_code_of",
    "print_error",
    "print_json",
    "print_note",
    "print_traceback",
    "report",
]

#: Packages whose frames a traceback has before the frames of the user's code.
_MACHINERY = frozenset({"aiorpc", "asyncio", "concurrent", "contextlib", "importlib", "uvloop"})


class ExitCode(enum.IntEnum):
    """Exit codes of a command. ``EXIT_CODES`` and ``docs/cli.md`` explain each code."""

    OK = 0
    FAILED = 1
    WRONG = 2  # a retry does not help (systemd: ``RestartPreventExitStatus=2``)
    NO_SERVICE = 3
    TIMEOUT = 4
    NO_CONNECTION = 5
    INTERRUPTED = 130  # the convention of shells


#: The table of :class:`ExitCode` for ``--help``.
EXIT_CODES = """\
Exit codes:
    0  success
    1  the method raised; a service failed, or its calls took too long to stop
    2  the command, the configuration, the credentials or the call are wrong
    3  no such service, or nobody consumes its queue
    4  no answer within the timeout
    5  the broker cannot be reached, or the connection was lost
  130  Ctrl-C"""

_CODES: Mapping[type[AioRpcError], ExitCode] = {
    ConfigurationError: ExitCode.WRONG,
    BadRequest: ExitCode.WRONG,
    UnserializableValueError: ExitCode.WRONG,
    UnknownService: ExitCode.NO_SERVICE,
    ServiceUnavailable: ExitCode.NO_SERVICE,
    RpcTimeout: ExitCode.TIMEOUT,
    ConnectionLost: ExitCode.NO_CONNECTION,
}


def exit_code_of(error: AioRpcError) -> ExitCode:
    """Return the exit code for *error*."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), ExitCode.FAILED)


def report(error: AioRpcError | UserCodeFailed, *, debug: bool = False) -> ExitCode:
    """
    Print *error*, and return the exit code. With *debug*, print the whole traceback too.

    Without *debug*, only an error in the user's code has a traceback, which begins in that code.
    """
    if debug:
        print_traceback(error, whole=True)
    elif isinstance(error, UserCodeFailed) and error.__cause__ is not None:
        print_traceback(error.__cause__)
    print_error(str(error))
    return exit_code_of(error) if isinstance(error, AioRpcError) else ExitCode.FAILED


def print_error(text: str) -> None:
    """Print *text* to stderr in one line, without its line breaks and control characters."""
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    lead = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    _print(f"{lead} {one_line(' '.join(text.split()))}")


def print_note(text: str) -> None:
    """Print *text*, a message for people, to stderr in one line, as a log would have it."""
    _print(one_line(text))


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """
    Print *value* as JSON: one line for programs, indented and coloured on a terminal.

    Dates are ISO 8601, Decimals and UUIDs strings, bytes base64.
    """
    encoded = _encode(value)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.highlighter import JSONHighlighter

        indented_text = json.dumps(json.loads(encoded), indent=2, ensure_ascii=False)
        text = "\n".join(map(_escaped, indented_text.split("\n")))
        Console().print(JSONHighlighter()(text), soft_wrap=True)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(encoded + b"\n")  # always UTF-8, not stdout's encoding
        sys.stdout.buffer.flush()


def _escaped(line: str) -> str:
    """Return *line* of JSON with the characters escaped that could control a terminal."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except (TypeError, ValueError, UnicodeError):  # a lone surrogate, for example: json escapes it
        return json.dumps(value, default=str).encode()


def print_traceback(error: BaseException, *, whole: bool = False) -> None:
    """Print the traceback of *error* to stderr: the *whole* one, or from the user's first frame."""
    tb = error.__traceback__
    while not whole and tb is not None and _package_of(tb) in _MACHINERY:
        tb = tb.tb_next
    if tb is None and not isinstance(error, SyntaxError):  # a SyntaxError names its own place
        tb = error.__traceback__
    text = "".join(traceback.format_exception(type(error), error, tb)).rstrip("\n")
    lines = (indented(error, text) or text).split("\n")
    _print("\n".join(one_line(line, len(line)) for line in lines))


def _package_of(tb: TracebackType) -> str:
    name: str = tb.tb_frame.f_globals.get("__name__", "")
    return name.partition(".")[0]

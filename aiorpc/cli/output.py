"""
Prints what the commands print: results to stdout, everything else to stderr, an error in one line.

Imports rich only to colour JSON on a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from types import FrameType
from typing import Any

import msgspec

from ..exceptions import AioRpcError
from .exit_codes import ExitCode, exit_code_of
from .loading import UserCodeFailed

__all__ = ["print_error", "print_json", "print_note", "print_traceback", "report"]

#: Modules whose frames stand between ``aiorpc`` and the user's code.
_MACHINERY = frozenset({"aiorpc", "asyncio", "concurrent", "contextlib", "importlib", "uvloop"})


def report(error: AioRpcError | UserCodeFailed, *, debug: bool = False) -> ExitCode:
    """
    Print what went wrong, and return the exit code. *debug* adds the whole traceback.

    Without *debug* only the user's own code gets a traceback, and that begins in the user's code.
    """
    if debug:
        print_traceback(error, whole=True)
    elif isinstance(error, UserCodeFailed) and error.__cause__ is not None:
        print_traceback(error.__cause__)
    print_error(str(error))
    return exit_code_of(error) if isinstance(error, AioRpcError) else ExitCode.FAILED


def print_error(text: str) -> None:
    """Print *text* in one line on stderr, whatever line breaks it has."""
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    lead = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    print_note(f"{lead} {' '.join(text.split())}")


def print_note(text: str) -> None:
    """Print a line for people, which is no result, to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """
    Print *value* as JSON: one line for programs, indented and coloured on a terminal.

    Dates are ISO 8601, Decimals and UUIDs strings, bytes base64.
    """
    encoded = _encode(value)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print_json(encoded.decode(), indent=2)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(encoded + b"\n")  # UTF-8, whatever stdout's encoding is
        sys.stdout.buffer.flush()


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except (TypeError, ValueError, UnicodeError):  # a lone surrogate, for example: json escapes it
        return json.dumps(value, default=str).encode()


def print_traceback(error: BaseException, *, whole: bool = False) -> None:
    """Print the traceback of *error* to stderr, from the user's first frame or the *whole* one."""
    tb = error.__traceback__
    while not whole and tb is not None and _is_machinery(tb.tb_frame):
        tb = tb.tb_next
    if tb is None and not isinstance(error, SyntaxError):  # a SyntaxError names its own place
        tb = error.__traceback__
    print_note("".join(traceback.format_exception(type(error), error, tb)).rstrip("\n"))


def _is_machinery(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in _MACHINERY

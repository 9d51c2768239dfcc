"""
What the commands print: results to stdout, whatever else to stderr, errors in one line.

rich is imported where it draws something: ``aiorpc run`` has no use for it.
"""

from __future__ import annotations

import json
import sys
import traceback
from types import FrameType
from typing import Any

import msgspec
import typer

__all__ = ["print_error", "print_json", "print_note", "print_traceback"]

#: Modules whose frames stand between ``aiorpc`` and the user's code.
_MACHINERY = frozenset(
    {"aiorpc", "typer", "asyncio", "concurrent", "contextlib", "importlib", "uvloop"}
)


def print_error(text: str) -> None:
    """One line on stderr, whatever line breaks *text* has."""
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(" ".join(text.split()), err=True)


def print_note(text: str) -> None:
    """What is no result, and for people's eyes: one line on stderr."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """
    *value* as JSON on stdout: one line for programs, indented and coloured on a terminal.

    Dates are ISO 8601, Decimals and UUIDs strings, bytes base64.
    """
    encoded = _encode(value)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print_json(encoded.decode(), indent=2)
    else:
        typer.echo(encoded)


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except (TypeError, ValueError, UnicodeError):  # a lone surrogate, say: escape it
        return json.dumps(value, default=str).encode()


def print_traceback(error: BaseException, *, whole: bool = False) -> None:
    """The traceback of *error* on stderr: from where the user's own code begins, or all of it."""
    tb = error.__traceback__
    while not whole and tb is not None and _is_machinery(tb.tb_frame):
        tb = tb.tb_next
    if tb is None and not isinstance(error, SyntaxError):  # which says where by itself
        tb = error.__traceback__
    lines = traceback.format_exception(type(error), error, tb)
    typer.echo("".join(lines), nl=False, err=True)


def _is_machinery(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in _MACHINERY

"""The one border where errors become lines on stderr and an exit code."""

from __future__ import annotations

from ..exceptions import AioRpcError
from .exit_codes import ExitCode, exit_code_of
from .loading import UserCodeFailed

__all__ = ["report"]


def report(error: AioRpcError | UserCodeFailed, *, debug: bool = False) -> ExitCode:
    """Say what went wrong, with the whole traceback for *debug*; returns what to exit with."""
    from .output import print_error, print_traceback  # typer's colours, for when it went wrong

    if debug:
        print_traceback(error, whole=True)
    elif isinstance(error, UserCodeFailed) and error.__cause__ is not None:
        print_traceback(error.__cause__)
    print_error(str(error))
    return exit_code_of(error) if isinstance(error, AioRpcError) else ExitCode.FAILED

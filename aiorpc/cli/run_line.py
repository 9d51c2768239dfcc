"""
The usual command line of ``aiorpc run``, read without typer: importing and setting up that takes
longer than all the rest until a service is ready, and its memory stays with the server.

Whatever is not plain is left to typer: help, completion, --reload, --debug, and every mistake,
which it explains. So this knows no rule that typer does not have, and no message.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..exceptions import AioRpcError

__all__ = ["RunLine", "read", "run_plainly"]

#: Options with a value, by the name that ``run`` has for it. Others are typer's business.
_OPTIONS = {
    "--config": "config",
    "-c": "config",
    "--define": "define",
    "-d": "define",
    "--broker": "broker",
    "-b": "broker",
}


class RunLine(NamedTuple):
    """What :func:`.run.run` takes."""

    modules: list[str]
    config: Path | None
    define: list[str]
    broker: str | None


def read(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> RunLine | None:
    """The command line ``aiorpc *arguments``; ``None`` if it is not for ``run``, or not plain."""
    if arguments[:1] != ["run"] or "_AIORPC_COMPLETE" in environ or os.name == "nt":
        return None  # on Windows, typer also expands * and ~
    modules: list[str] = []
    given: dict[str, list[str]] = {"config": [], "define": [], "broker": []}
    left = iter(arguments[1:])
    for argument in left:
        if not argument.startswith("-"):
            modules.append(argument)
            continue
        option, equals, value = argument.partition("=")
        if option not in _OPTIONS or (equals and not option.startswith("--")):
            return None
        if not equals:
            value = next(left, "")
        if not value or value.startswith("-"):
            return None
        given[_OPTIONS[option]].append(value)
    if not all(modules) or not modules:
        return None
    config, broker = given["config"], given["broker"]
    return RunLine(
        modules,
        Path(config[-1]) if config else None,
        given["define"],
        broker[-1] if broker else None,
    )


def run_plainly(line: RunLine) -> int:
    """Do as ``run`` does, and return the exit status."""
    from .exit_codes import ExitCode
    from .failures import report
    from .loading import UserCodeFailed
    from .serving import run_services

    try:
        return run_services(*line)
    except (AioRpcError, UserCodeFailed) as error:
        return report(error)
    except KeyboardInterrupt:  # before there was a service to stop
        print(file=sys.stderr)
        return ExitCode.INTERRUPTED

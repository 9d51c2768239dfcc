"""The options that several commands have; what they amount to is in ``settings``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = ["DEBUG", "Broker", "ConfigFile", "Debug", "Define", "finite"]

DEBUG = "aiorpc.debug"


def finite(value: float | None) -> float | None:
    """For numbers that nothing bounds from above; a nan passes any bound in some typers."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def _remember(ctx: typer.Context, debug: bool) -> bool:
    if debug:
        ctx.meta[DEBUG] = True  # of all contexts of this run
    return debug


ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration in YAML, as for Nameko (or TOML, by its suffix).",
        show_default=False,
    ),
]
Broker: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--broker",
        "-b",
        metavar="URL",
        help="AMQP_URI: amqp://user:password@host/vhost, or memory://",
        show_default=False,
    ),
]
Define: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--define",
        "-d",
        metavar="KEY=VALUE",
        help="Set a key of the configuration; VALUE is read as YAML. Repeatable.",
        show_default=False,
    ),
]
Debug: TypeAlias = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", callback=_remember),
]

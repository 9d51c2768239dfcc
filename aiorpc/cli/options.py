"""The options that several commands have, and the settings that they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ..config import Settings, parse_define, resolve
from ..exceptions import ConfigurationError

__all__ = ["Broker", "ConfigFile", "Debug", "Define", "require_server", "settings_of"]

DEBUG = "aiorpc.debug"


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


def settings_of(config: Path | None, define: Sequence[str] | None, broker: str | None) -> Settings:
    """
    The file, or the defaults, with what the command line says laid over it.

    Raises:
        ConfigurationError: names the file or the option, the key, and what was expected.
    """
    settings = resolve(config)
    if define:
        settings = settings.with_defines(dict(map(parse_define, define)))
    if broker is not None:
        settings = settings.with_defines({"AMQP_URI": broker}, "--broker")
    return settings


def require_server(settings: Settings, command: str) -> None:
    """Raise ``ConfigurationError`` where *command* cannot find anybody: on ``memory://``."""
    if any(url.scheme == "memory" for url in settings.broker_urls):
        raise ConfigurationError(
            f"memory:// does not reach beyond its own process, so `aiorpc {command}` finds no "
            "service there: name a RabbitMQ server with --broker or --config"
        )

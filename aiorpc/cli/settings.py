"""The settings that the options of a command amount to. Does without typer, as ``serving`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import Settings, parse_define, resolve
from ..exceptions import ConfigurationError

__all__ = ["require_server", "settings_of"]


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

"""The settings that the options of a command amount to. Does without typer, as ``serving`` does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..config import Settings, load, parse_define, redact_url
from ..exceptions import ConfigurationError

__all__ = ["refuse_url", "require_server", "settings_of"]


def settings_of(config: Path | None, define: Sequence[str] | None, broker: str | None) -> Settings:
    """
    The file, or the defaults, with what the command line says laid over it.

    Raises:
        ConfigurationError: names the file or the option, the key, and what was expected.
    """
    refuse_url(config)
    defines = dict(map(parse_define, define or ()))
    replaced = {*defines, *(("AMQP_URI",) if broker is not None else ())}
    settings = Settings() if config is None else load(config, replaced=replaced)
    if defines:
        if broker is not None:  # which wins, whatever is wrong with the other
            defines.pop("AMQP_URI", None)
        settings = settings.with_defines(defines)
    if broker is not None:
        settings = settings.with_defines({"AMQP_URI": broker}, "--broker")
    return settings


def refuse_url(config: Path | None) -> None:
    """Raise ``ConfigurationError``, without its password, where *config* is a broker's URL."""
    url = re.match(r"(?P<scheme>[A-Za-z][\w+.-]+):/+", str(config))  # a Path makes one / of two
    if url is not None:
        shown = redact_url(f"{url['scheme']}://{str(config)[url.end() :]}")
        raise ConfigurationError(f"--config {shown}: that is a URL: use --broker")


def require_server(settings: Settings, command: str) -> None:
    """Raise ``ConfigurationError`` where *command* cannot find anybody: on ``memory://``."""
    if any(url.scheme == "memory" for url in settings.broker_urls):
        raise ConfigurationError(
            f"memory:// does not reach beyond its own process, so `aiorpc {command}` finds no "
            "service there: name a RabbitMQ server with --broker or --config"
        )

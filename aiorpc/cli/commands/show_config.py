"""``aiorpc show-config``: the configuration as services will see it, without its secrets."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...config import redacted
from ..options import Broker, ConfigFile, Debug, Define
from ..settings import settings_of

__all__ = ["show_config"]


def show_config(
    config: ConfigFile = None,
    define: Define = None,
    broker: Broker = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Also what was not given, with its default.")
    ] = False,
    debug: Debug = False,
) -> None:
    """
    Show the configuration: environment variables substituted, secrets masked, checked.

    With --defaults it is also the list of the keys there are.
    """
    settings = settings_of(config, define, broker)
    typer.echo(as_yaml(redacted(settings, defaults=defaults)), nl=False)


def as_yaml(config: dict[str, Any]) -> str:
    """*config* as YAML that reads back as the same."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Also takes what users define in Python and YAML has no words for: its repr."""

    Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(repr(value)))
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True)

"""``aiorpc show-config``: prints the configuration as services see it, without its secrets."""

from __future__ import annotations

import argparse
from typing import Any

from ...config import redacted
from ..output import ExitCode
from ..parser import Parser, add_settings, settings_of

__all__ = ["as_yaml", "configure", "execute"]

ARGUMENTS = ""

DESCRIPTION = """\
Environment variables are substituted, and every key is checked. With
--defaults it also lists all keys that aiorpc knows."""

EXAMPLES = """\
  $ aiorpc show-config --config config.yaml
  $ aiorpc show-config --defaults
"""


def configure(parser: Parser) -> None:
    add_settings(parser)
    parser.option("--defaults", "Also show the defaults of keys that are not given.")


def execute(arguments: argparse.Namespace) -> int:
    """Print the configuration as YAML."""
    print(as_yaml(redacted(settings_of(arguments), defaults=arguments.defaults)), end="")
    return ExitCode.OK


def as_yaml(config: dict[str, Any]) -> str:
    """*config* as YAML that reads back as the same."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes the ``repr`` of Python values that YAML has no syntax for."""

    Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(repr(value)))
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True)

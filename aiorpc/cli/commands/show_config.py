"""``aiorpc show-config``: prints the configuration of the services, without secrets."""

from __future__ import annotations

import argparse
from typing import Any

from ...config import redacted
from ..output import ExitCode
from ..parser import Parser, add_settings, print_notes, settings_of

__all__ = ["as_yaml", "configure", "execute"]

ARGUMENTS = ""

DESCRIPTION = """\
Substitutes environment variables, and checks every key. With
--defaults, the output also has all other keys that aiorpc knows."""

EXAMPLES = """\
  $ aiorpc show-config --config config.yaml
  $ aiorpc show-config --defaults
"""


def configure(parser: Parser) -> None:
    add_settings(parser)
    parser.option("--defaults", "Also show the defaults of missing keys.")


def execute(arguments: argparse.Namespace) -> int:
    """Print the configuration as YAML."""
    settings = settings_of(arguments)
    print(as_yaml(redacted(settings, defaults=arguments.defaults)), end="")
    print_notes(settings)
    return ExitCode.OK


def as_yaml(config: dict[str, Any]) -> str:
    """Return *config* as YAML. A reader of the YAML gets the same values."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes the ``repr`` of Python values that YAML has no syntax for."""

    Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(repr(value)))
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True)

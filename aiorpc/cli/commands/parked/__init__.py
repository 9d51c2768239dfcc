"""
``aiorpc parked``: the commands for parked messages, one module each.
"""

from __future__ import annotations

import argparse

from ...parser import Parser

__all__ = ["ACTIONS", "configure", "execute"]

#: The second words, with the first line of their help.
ACTIONS = {
    "ls": "Count the parked messages by queue, method and error.",
    "show": "Show one parked message: headers, body and stack.",
    "replay": "Send parked messages to where they came from.",
    "purge": "Delete parked messages.",
}

ARGUMENTS = "COMMAND ..."

DESCRIPTION = (
    "A message that failed for good is parked in the queue <queue>.parked.\n\n"
    + "\n".join(f"  {name:<8}  {summary}" for name, summary in ACTIONS.items())
)

EXAMPLES = """\
  $ aiorpc parked ls
  $ aiorpc parked show evt-notices-posted--mailer.send
  $ aiorpc parked replay evt-notices-posted--mailer.send --all
"""


def configure(parser: Parser) -> None:
    """Without a second word, there is only ``--help``."""


def execute(arguments: argparse.Namespace) -> int:
    from ....exceptions import ConfigurationError

    raise ConfigurationError(f"say what to do: aiorpc parked {' | '.join(ACTIONS)}")

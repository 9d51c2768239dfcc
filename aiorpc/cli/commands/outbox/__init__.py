"""
``aiorpc outbox``: the commands for messages in outboxes, one module each.
"""

from __future__ import annotations

import argparse

from ...parser import Parser

__all__ = ["ACTIONS", "configure", "execute"]

#: The second words, with the first line of their help.
ACTIONS = {
    "ls": "Count the messages in outboxes by destination and state.",
    "show": "Show one message: headers, body and reason.",
    "retry": "Send messages again that are set aside.",
    "discard": "Delete messages that are set aside.",
}

ARGUMENTS = "COMMAND ..."

DESCRIPTION = (
    "A message in an outbox waits until the broker has confirmed it. A message that\n"
    "the broker refuses again and again is set aside.\n\n"
    + "\n".join(f"  {name:<8}  {summary}" for name, summary in ACTIONS.items())
)

EXAMPLES = """\
  $ aiorpc outbox ls -c config.yaml
  $ aiorpc outbox show 4711 -c config.yaml
  $ aiorpc outbox retry --all -c config.yaml
"""


def configure(parser: Parser) -> None:
    """Without a second word, there is only ``--help``."""


def execute(arguments: argparse.Namespace) -> int:
    from ....exceptions import ConfigurationError

    raise ConfigurationError(f"say what to do: aiorpc outbox {' | '.join(ACTIONS)}")

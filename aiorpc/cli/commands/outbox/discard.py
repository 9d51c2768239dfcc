"""
``aiorpc outbox discard``: deletes messages that are set aside, after a question. Connects to the
databases of a configuration.
"""

from __future__ import annotations

import argparse

from ...outboxes import add_databases, add_messages, change
from ...parser import Parser

__all__ = ["configure", "execute"]

ARGUMENTS = "[MESSAGE ...]"

DESCRIPTION = """\
MESSAGE is an id, as `aiorpc outbox ls --messages` shows it, or a message id.
The messages are never sent. Messages that they hold, because of their key, go."""

EXAMPLES = """\
  $ aiorpc outbox discard 4711 -c config.yaml
  $ aiorpc outbox discard --all --service shop -c config.yaml --yes
"""


def configure(parser: Parser) -> None:
    add_messages(parser, "discard")
    add_databases(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Delete the messages, and return the exit status."""
    return change(arguments, "discarded", lambda outbox, ids: outbox.discard(ids), ask=True)

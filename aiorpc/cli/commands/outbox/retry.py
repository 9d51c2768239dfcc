"""
``aiorpc outbox retry``: lets messages be sent again that are set aside. Connects to the databases
of a configuration.
"""

from __future__ import annotations

import argparse

from ...outboxes import add_databases, add_messages, change
from ...parser import Parser

__all__ = ["configure", "execute"]

ARGUMENTS = "[MESSAGE ...]"

DESCRIPTION = """\
MESSAGE is an id, as `aiorpc outbox ls --messages` shows it, or a message id.
The relays of the service send the messages within a second, if they run, with
all their attempts."""

EXAMPLES = """\
  $ aiorpc outbox retry 4711 4712 -c config.yaml
  $ aiorpc outbox retry --all --service shop -c config.yaml
"""


def configure(parser: Parser) -> None:
    add_messages(parser, "retry")
    add_databases(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Retry the messages, and return the exit status."""
    return change(arguments, "retried", lambda outbox, ids: outbox.retry(ids))

"""
``aiorpc parked purge``: deletes parked messages, after a question. Connects to the broker.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from ....logs import counted
from ....parked.messages import Selection
from ....parked.queues import ParkedQueue
from ....parked.settling import Purge
from ...parked_queues import add_settling, settle
from ...parser import Parser

__all__ = ["configure", "execute"]

ARGUMENTS = "QUEUE [MESSAGE ...]"

DESCRIPTION = """\
MESSAGE is an id or a position, as `aiorpc parked ls --messages` shows them.
Without MESSAGE, --method, --error or --all say which messages are deleted.
Messages that are parked during the command stay."""

EXAMPLES = """\
  $ aiorpc parked purge rpc-shop --error DeliveryUncertain --dry-run
  $ aiorpc parked purge evt-notices-posted--mailer.send 5f0c2a91d3 --yes
"""


def configure(parser: Parser) -> None:
    add_settling(parser, "delete")


def execute(arguments: argparse.Namespace) -> int:
    """Delete the messages, and return the exit status."""
    made = partial(Purge, dry=arguments.dry_run)
    return settle(arguments, "purge", "deleted", made, question=_question)


def _question(wanted: Selection, queues: Sequence[ParkedQueue]) -> str:
    which = "all" if wanted.is_all else "the selected ones of"
    several = ", ".join(f"{counted(queue.messages, 'message')} in {queue.name}" for queue in queues)
    return f"Delete {which} {several}?"

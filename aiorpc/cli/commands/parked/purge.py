"""
``aiorpc parked purge``: deletes parked messages, after a question. Connects to the broker.
"""

from __future__ import annotations

import argparse

from ....parked.queues import ParkedQueue
from ....parked.settling import Purge
from ....transports.base import Transport
from ...output import ExitCode, print_note
from ...parked_queues import (
    add_connection,
    add_settling,
    agreed,
    find_some,
    report,
    settle_all,
    times,
    wanted_of,
)
from ...parser import Parser

__all__ = ["configure", "execute"]

ARGUMENTS = "QUEUE [MESSAGE ...]"

DESCRIPTION = """\
MESSAGE is an id or a position, as `aiorpc parked ls --messages` shows them.
Without MESSAGE, --method, --error or --all say which messages are deleted.
Messages that are parked meanwhile stay."""

EXAMPLES = """\
  $ aiorpc parked purge rpc-shop --error DeliveryUncertain --dry-run
  $ aiorpc parked purge evt-notices-posted--mailer.send 5f0c2a91d3 --yes
"""


def configure(parser: Parser) -> None:
    add_settling(parser, "delete")
    add_connection(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Delete the messages, and return the exit status."""
    wanted = wanted_of(arguments)
    queues = find_some(arguments, "purge")
    question = " ".join(queue.cost for queue in queues).strip()  # a dry run looks too
    if not arguments.dry_run:
        which = "all" if wanted.is_all else "the selected ones of"
        several = ", ".join(f"{times(queue.messages)} in {queue.name}" for queue in queues)
        question = f"{question} Delete {which} {several}?".strip()
    elif question:
        question = f"{question} Go on?"
    if question and not agreed(arguments, question):
        print_note("nothing is deleted")
        return ExitCode.OK

    def made(transport: Transport, queue: ParkedQueue) -> Purge:
        return Purge(transport, queue.name, wanted, dry=arguments.dry_run)

    return report(arguments, settle_all(arguments, "purge", queues, made), "deleted")

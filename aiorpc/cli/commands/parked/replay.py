"""
``aiorpc parked replay``: sends parked messages to where they came from. Connects to the broker.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ....exceptions import ConfigurationError
from ....logs import counted
from ....parked.settling import Replay, Settling
from ...editing import edit
from ...parked_queues import add_settling, settle
from ...parser import Parser
from ...progress import progress

__all__ = ["configure", "execute"]

ARGUMENTS = "QUEUE [MESSAGE ...]"

DESCRIPTION = """\
MESSAGE is an id or a position, as `aiorpc parked ls --messages` shows them.
Without MESSAGE, --method, --error or --all say which messages are replayed.
Messages that are parked during the command stay.

A message goes to the queue where it failed, with the same ids, and its retries
begin again. A request goes to its exchange and routing key. The parked message
is deleted when the broker has confirmed the new one, so that nothing is lost
if the command ends at any moment."""

EXAMPLES = """\
  $ aiorpc parked replay evt-notices-posted--mailer.send --all --dry-run
  $ aiorpc parked replay evt-notices-posted--mailer.send 5f0c2a91d3 --edit
  $ aiorpc parked replay rpc-shop --method shop.order --error DeliveryUncertain
"""


def configure(parser: Parser) -> None:
    parser.option("--edit -e", "Open each body in $EDITOR before.")
    parser.option("--publish", "Publish to the original exchange, so all its queues get a copy.")
    add_settling(parser, "replay")


def execute(arguments: argparse.Namespace) -> int:
    """Replay the messages, and return the exit status."""
    if arguments.edit and not sys.stdin.isatty():
        raise ConfigurationError("--edit needs a terminal: leave out --edit, or use a terminal")
    made = partial(
        Replay,
        dry=arguments.dry_run,
        publish=arguments.publish,
        edit=edit if arguments.edit else None,
    )
    return settle(arguments, "replay", "replayed", made, shown=_shown)


@contextmanager
def _shown(replay: Settling, messages: int) -> Iterator[None]:
    """Show the progress on stderr, if it is a terminal, and no editor needs it."""
    if getattr(replay, "edit", None) is not None:
        yield
        return
    with progress("{task.completed:,.0f} of {task.total:,.0f} read", messages) as show:

        def changed() -> None:
            settled = replay.settled
            now = f"{counted(settled.done, 'message')} replayed, {len(settled.failed):,} stay"
            if show is not None:
                show(settled.read, now)

        replay.changed = changed
        yield

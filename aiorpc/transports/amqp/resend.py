"""
What becomes of messages whose channel ended before they were confirmed. No I/O.
"""

from __future__ import annotations

import logging
import re

import msgspec

from ...exceptions import (
    AioRpcError,
    ConfigurationError,
    ConnectionLost,
    Unroutable,
    UnserializableValueError,
)
from ..base import Outgoing
from ..outbox import settle
from .errors import Refused

__all__ = ["sort_out"]

log = logging.getLogger(__name__)

#: How often the broker may close the channel of a message, for a reason that we cannot lay at any
#: message's door, before the message is given up.
_MAX_CLOSES = 3

# RabbitMQ's words, in 403, 404 and 406.
# Not compiled here: hardly a process needs them, and each would pay when it imports this.
_EXCHANGE = r"exchange '([^']*)'"
_SIZE = r"message size (\d+)"
_USER_ID = r"user_id property set to '([^']*)'"
_HEADER = r"unacceptable_type_in_header.*?(CC|BCC)"


def sort_out(
    unconfirmed: list[tuple[int, Outgoing]], refused: Refused | None, url: str
) -> list[Outgoing]:
    """
    Those of *unconfirmed* (by delivery tag, in order) that are to be sent again; the others are
    settled here. *refused* is why the broker closed the channel, ``None`` if the connection went.
    """
    if refused is None:
        return [again for _, each in unconfirmed if (again := _uncertain(each)) is not None]
    culprits = {tag for tag, each in unconfirmed if _is_culprit(each, refused)}
    # The broker takes messages in order: it never looked at those behind the one for which it
    # closed the channel.
    first = min(culprits, default=None)
    returning: list[Outgoing | None] = []
    for tag, outgoing in unconfirmed:
        if tag in culprits:
            settle(outgoing, _refusal(outgoing, refused, url))
        elif first is None:
            returning.append(_suspect(outgoing, refused, url))
        elif tag > first:
            returning.append(_unseen(outgoing))
        else:
            returning.append(_uncertain(outgoing))
    return [outgoing for outgoing in returning if outgoing is not None]


def _is_culprit(outgoing: Outgoing, refused: Refused) -> bool:
    if match := re.search(_EXCHANGE, refused.text):
        return outgoing.exchange == match[1]
    if match := re.search(_SIZE, refused.text):
        return len(outgoing.message.body) == int(match[1])
    if match := re.search(_USER_ID, refused.text):
        return outgoing.message.user_id == match[1]
    if match := re.search(_HEADER, refused.text):
        headers = outgoing.message.headers or {}
        return match[1] in headers and not isinstance(headers[match[1]], list | tuple)
    return False


def _unseen(outgoing: Outgoing) -> Outgoing:
    """The broker cannot have it: it goes again as it is."""
    # One that asked for no confirm was settled when it was written, and is not settled twice.
    if outgoing.confirm or outgoing.settled is None:
        return outgoing
    return msgspec.structs.replace(outgoing, settled=None)


def _uncertain(outgoing: Outgoing) -> Outgoing | None:
    """The broker may have it: it goes again if its sender agrees, and as its sender says."""
    if not outgoing.confirm:
        return None
    try:
        message = outgoing.once_more()
    except Exception:
        log.exception("the sender of a message failed when it was asked for it once more")
        message = None
    if message is None:
        settle(
            outgoing,
            ConnectionLost(
                f"the connection broke before a message to exchange {outgoing.exchange!r}, key "
                f"{outgoing.routing_key!r}, was confirmed; it may have been delivered"
            ),
        )
        return None
    outgoing.message = message
    return outgoing


def _suspect(outgoing: Outgoing, refused: Refused, url: str) -> Outgoing | None:
    """It may be the one that the broker closed the channel for: it goes again, but not for ever."""
    outgoing.closes += 1
    if outgoing.closes >= _MAX_CLOSES:
        settle(outgoing, _refusal(outgoing, refused, url))
        return None
    return _uncertain(outgoing)


def _refusal(outgoing: Outgoing, refused: Refused, url: str) -> AioRpcError:
    where = f"a message to exchange {outgoing.exchange!r}, key {outgoing.routing_key!r}, on {url}"
    if refused.code == 404:
        return Unroutable(f"{where}: there is no such exchange ({refused})")
    if refused.code == 403:
        return ConfigurationError(f"{where}: the user may not publish there ({refused})")
    if re.search(_SIZE, refused.text):
        return UnserializableValueError(f"{where}: larger than the broker takes ({refused})")
    return ConnectionLost(f"{where}: the broker closed the channel for it ({refused})")

"""
Decides what to re-send when RabbitMQ closed a channel, or the connection was lost. No I/O.

The broker names the refused message in the text of its ``channel.close``. The broker handles the
messages of a channel in order, so it did not read any message after the refused message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ...exceptions import (
    AioRpcError,
    ConfigurationError,
    ConnectionLost,
    Unroutable,
    UnserializableValueError,
)
from ..outgoing import Outgoing, resend, resend_suspect, resend_unseen, settle
from .errors import Refused

__all__ = ["sort_out"]

# The words of RabbitMQ 3.10 to 4.3, in 403, 404 and 406.
# Strings, not compiled: few processes need these patterns, and compiling slows every import.
_EXCHANGE = r"exchange '([^']*)'"
_SIZE = r"message size (\d+)"
_USER_ID = r"user_id property set to '([^']*)'"
_HEADER = r"unacceptable_type_in_header.*?(CC|BCC)"


def sort_out(
    unconfirmed: Mapping[int, Outgoing], refused: Refused | None, url: str
) -> Iterator[Outgoing]:
    """
    Yield the messages to re-send, in order; settle the others.

    Args:
        unconfirmed: the unconfirmed messages of the channel, by delivery tag, in order.
        refused: why the broker closed the channel; ``None`` if the connection was lost.
        url: the broker's URL, for errors.
    """
    refused_tags = {tag for tag, each in unconfirmed.items() if _names(refused, each)}
    first = min(refused_tags, default=None)
    for tag, outgoing in unconfirmed.items():
        again: Outgoing | None = None
        if refused is None:
            again = resend(outgoing)
        elif tag in refused_tags:
            settle(outgoing, _refusal(outgoing, refused, url))
        elif first is None:
            again = resend_suspect(outgoing, _refusal(outgoing, refused, url))
        elif tag > first:
            again = resend_unseen(outgoing)
        else:
            again = resend(outgoing)
        if again is not None:
            yield again


def _names(refused: Refused | None, outgoing: Outgoing) -> bool:
    """Whether the broker's text names *outgoing* as the message that it refused."""
    if refused is None:
        return False
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


def _refusal(outgoing: Outgoing, refused: Refused, url: str) -> AioRpcError:
    what = f"{outgoing.description} on {url}"
    if refused.code == 404:
        return Unroutable(f"{what}: there is no such exchange ({refused})")
    if refused.code == 403:
        return ConfigurationError(f"{what}: the user may not publish there ({refused})")
    if re.search(_SIZE, refused.text):
        return UnserializableValueError(f"{what}: larger than the broker accepts ({refused})")
    return ConnectionLost(f"{what}: the broker closed the channel because of it ({refused})")

"""
Decides what to re-send when RabbitMQ closed a channel, or the connection was lost. No I/O.

The broker names the refused message in the text of its ``channel.close``. The broker handles the
messages of a channel in order, so it did not read any message after the refused message.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping

from ...exceptions import (
    AioRpcError,
    ConfigurationError,
    ConnectionLost,
    Unroutable,
    UnserializableValueError,
)
from ..outgoing import Outgoing, resend, resend_suspect, resend_unseen, settle
from .errors import Refused

__all__ = ["SMALL_ANSWER", "AmqpRefusal", "broker_limit", "keep_few", "lost_answers", "sort_out"]

#: Answers of more bytes count for ``_KEPT_BYTES``.
SMALL_ANSWER = 64 << 10
#: A channel keeps answers of at most this many bytes in total, and its last one.
_KEPT_BYTES = 16 << 20

# The words of RabbitMQ 3.10 to 4.3, in 403, 404 and 406.
# Strings, not compiled: few processes need these patterns, and compiling slows every import.
_EXCHANGE = r"exchange '([^']*)'"
_TOPIC = r"access to topic '([^']*)' in exchange '([^']*)'"
#: RabbitMQ's name for the exchange "".
_DEFAULT = "amq.default"
_SIZE = r"message size (\d+)"
_LIMIT = r"max size (\d+)"
_NO_MESSAGE = r"delivery acknowledgement|unknown delivery tag"
_USER_ID = r"user_id property set to '([^']*)'"
_HEADER = r"unacceptable_type_in_header.*?(CC|BCC)"


class AmqpRefusal:
    """
    The broker's reason why it closed a channel or a connection. The transport passes it to the
    senders whose messages it does not track.

    Args:
        refused: code and text of the broker.
        url: the broker's URL, for errors.
    """

    def __init__(self, refused: Refused, url: str) -> None:
        self._refused = refused
        self._url = url

    def names(self, outgoing: Outgoing) -> bool:
        """Whether the broker's text names *outgoing* as the message that it refused."""
        text = self._refused.text
        if match := re.search(_TOPIC, text):
            return (outgoing.exchange, outgoing.routing_key) == (match[2], match[1])
        if match := re.search(_EXCHANGE, text):
            return outgoing.exchange == ("" if match[1] == _DEFAULT else match[1])
        if match := re.search(_SIZE, text):
            return len(outgoing.message.body) == int(match[1])
        if match := re.search(_USER_ID, text):
            return outgoing.message.user_id == match[1]
        if match := re.search(_HEADER, text):
            headers = outgoing.message.headers or {}
            return match[1] in headers and not isinstance(headers[match[1]], list | tuple)
        return False

    @property
    def may_concern_a_message(self) -> bool:
        """Whether a message that we sent may be the reason."""
        return re.search(_NO_MESSAGE, self._refused.text) is None

    def error_for(self, outgoing: Outgoing) -> AioRpcError:
        """Return the error for *outgoing*, which the broker refused."""
        refused = self._refused
        what = f"{outgoing.description} on {self._url}"
        if refused.code == 404:
            return Unroutable(f"{what}: there is no such exchange ({refused})")
        if refused.code == 403:
            return ConfigurationError(f"{what}: the user may not publish there ({refused})")
        if re.search(_SIZE, refused.text):
            return UnserializableValueError(f"{what}: larger than the broker accepts ({refused})")
        return ConnectionLost(f"{what}: the broker closed the channel because of it ({refused})")

    def __str__(self) -> str:
        return str(self._refused)


def sort_out(
    unconfirmed: Mapping[int, Outgoing], refusal: AmqpRefusal | None
) -> Iterator[Outgoing]:
    """
    Yield the messages to re-send, in order; settle the others.

    Args:
        unconfirmed: the unconfirmed messages of the channel, by delivery tag, in order.
        refusal: why the broker closed the channel; ``None`` if the connection was lost.
    """
    if refusal is None:
        for outgoing in unconfirmed.values():
            if (again := resend(outgoing)) is not None:
                yield again
        return
    refused_tags = {tag for tag, each in unconfirmed.items() if refusal.names(each)}
    first = min(refused_tags, default=None)
    for tag, outgoing in unconfirmed.items():
        again = None
        if tag in refused_tags:
            settle(outgoing, refusal.error_for(outgoing))
        elif first is None:
            again = resend_suspect(outgoing, refusal.error_for(outgoing))
        elif tag > first:
            again = resend_unseen(outgoing)
        elif not outgoing.is_request:  # the answer to a request shows that the broker has it
            again = resend(outgoing)
        if again is not None:
            yield again


def broker_limit(refused: Refused) -> int | None:
    """Return the largest body that the broker accepts, if *refused* names this size in bytes."""
    match = re.search(_LIMIT, refused.text)
    return None if match is None else int(match[1])


def keep_few(answers: deque[Outgoing]) -> None:
    """Forget the oldest *answers*, until the others are small enough in total."""
    while len(answers) > 1 and sum(len(each.message.body) for each in answers) > _KEPT_BYTES:
        answers.popleft()


def lost_answers(
    answers: Collection[Outgoing], refusal: AmqpRefusal | None
) -> Iterator[tuple[Outgoing, AioRpcError]]:
    """
    Yield each of the *answers* that the broker perhaps did not read, with an error: the refusal if
    the broker refused this answer, else ``ConnectionLost``.

    If the broker refused one of *answers* and did not say which one, count a close for each.
    """
    named = [] if refusal is None else [each for each in answers if refusal.names(each)]
    suspect = refusal is not None and not named and refusal.may_concern_a_message
    for outgoing in answers:
        outgoing.closes += suspect
        if refusal is not None and outgoing in named:
            yield outgoing, refusal.error_for(outgoing)
        else:
            lost = "the connection was lost" if refusal is None else str(refusal)
            yield outgoing, ConnectionLost(f"{outgoing.description} may not have arrived: {lost}")

"""
Makes the copies that are parked and those that are replayed, and reads what a parked message says
about itself. Pure functions: nothing here awaits or does I/O.

A parked message is the message as its sender sent it, and headers about the failure: Spring AMQP's,
which tools know, and some of aiorpc. It has none of the counts of its attempts, so that they begin
at zero after any kind of move back to its queue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ..context import EMPTY
from .copies import kept, origin_of
from .message import LONGEST_NAME, Message
from .names import (
    ATTEMPTS,
    COPY,
    DEADLINE,
    DEATHS,
    ORIGINAL_EXCHANGE,
    ORIGINAL_ROUTING_KEY,
    PARKED_AT,
    PARKED_EXCHANGE,
    PARKED_HEADERS,
    PARKED_MESSAGE,
    PARKED_METHOD,
    PARKED_QUEUE,
    PARKED_ROUTING_KEY,
    PARKED_SENSITIVE,
    PARKED_STACKTRACE,
    PARKED_SUFFIX,
    RESENT,
    RETRIES,
    rpc_queue_name,
)

__all__ = ["Parking", "parked", "parking_of", "replayed", "source_of"]

#: Characters of the error in a parked message. All headers must fit into one frame.
MOST_REASON = 1000
#: Characters of the stack in a parked message: the last ones, which say where it failed.
MOST_STACK = 8000
#: Headers of attempts that have ended.
_OF_ATTEMPTS = frozenset({RESENT, ATTEMPTS, COPY, RETRIES, ORIGINAL_EXCHANGE, ORIGINAL_ROUTING_KEY})


class Parking(msgspec.Struct, frozen=True, kw_only=True):
    """
    Why a message was parked, and from where.

    Attributes:
        queue: the queue whose message it was; empty if it is not known.
        exchange, routing_key: where the message was sent first; ``None`` if it is not known.
        method: ``service.method``; empty if it is not known.
        reason, stack: of the error.
        at: the time of the parking.
        sensitive: the paths of the sensitive arguments in the decoded body.
    """

    queue: str = ""
    exchange: str | None = None
    routing_key: str | None = None
    method: str = ""
    reason: str = ""
    stack: str | None = None
    at: datetime | None = None
    sensitive: Sequence[Sequence[str]] = ()

    @property
    def error(self) -> str:
        """The type of the error, for groups of messages; empty if the message has no reason."""
        if re.search(_CRASHED, self.reason):
            return "DeliveryUncertain"
        found = re.match(_ERROR, self.reason)
        return found[1] if found else self.reason[:40]

    @property
    def is_request(self) -> bool:
        """Whether the message is a request: its routing key names the method to call."""
        service = (self.routing_key or "").rpartition(".")[0]
        return bool(self.exchange and service) and self.queue in ("", rpc_queue_name(service))


#: The type at the beginning of a reason, or behind the words for a body that cannot be decoded.
_ERROR = r"(?:it cannot be read: )?([A-Za-z_][\w.]*)(?=: |$)"
#: A reason of aiorpc 0.1 for a message that ended its processes.
_CRASHED = r": delivered \d+ times; each time the process "


def parked(message: Message, parking: Parking) -> Message:
    """
    Return a copy of *message* to park. It never expires, and its headers say what *parking* says.

    The exchange and the routing key in *parking* are where *message* came from; if *message* is a
    copy, or was parked before, its headers say where it was sent first.
    """
    copy = kept(message)
    headers = {k: v for k, v in (copy.headers or EMPTY).items() if k not in _OF_ATTEMPTS}
    headers[PARKED_EXCHANGE], headers[PARKED_ROUTING_KEY] = origin_of(
        message.headers or EMPTY, parking.exchange or "", parking.routing_key or ""
    )
    headers[PARKED_MESSAGE] = parking.reason[:MOST_REASON]
    headers[PARKED_QUEUE] = parking.queue
    if parking.stack is not None:
        headers[PARKED_STACKTRACE] = parking.stack[-MOST_STACK:]
    if parking.method:
        headers[PARKED_METHOD] = parking.method
    if parking.at is not None:
        headers[PARKED_AT] = parking.at
    if parking.sensitive:
        headers[PARKED_SENSITIVE] = [list(path) for path in parking.sensitive]
    copy.headers = headers
    return copy


def parking_of(message: Message, queue: str) -> Parking:
    """
    Return what *message* in the parked queue *queue* says about its parking.

    Anything can be in a queue. What a header of the wrong type should say is not known.
    """
    headers = message.headers or EMPTY
    source = _text(headers, PARKED_QUEUE) or source_of(queue)
    exchange = _text(headers, PARKED_EXCHANGE, ORIGINAL_EXCHANGE)
    routing_key = _text(headers, PARKED_ROUTING_KEY, ORIGINAL_ROUTING_KEY)
    at = headers.get(PARKED_AT)
    found = Parking(
        queue=source,
        exchange=exchange,
        routing_key=routing_key,
        method=_text(headers, PARKED_METHOD) or "",
        reason=_text(headers, PARKED_MESSAGE) or _death_of(headers),
        stack=_text(headers, PARKED_STACKTRACE),
        at=at if isinstance(at, datetime) else None,
        sensitive=_paths(headers.get(PARKED_SENSITIVE)),
    )
    if found.method:
        return found
    method = routing_key or "" if found.is_request else source.partition("--")[2]
    return msgspec.structs.replace(found, method=method)


def _text(headers: Mapping[str, Any], *names: str) -> str | None:
    values = (headers.get(name) for name in names)
    return next((value for value in values if isinstance(value, str)), None)


def _paths(value: Any) -> list[list[str]]:
    paths = value if isinstance(value, list) else []
    return [[str(part) for part in path] for path in paths if isinstance(path, list)]


def _death_of(headers: Mapping[str, Any]) -> str:
    """Return the reason of the broker, if it dead-lettered the message: ``rejected``, ..."""
    deaths = headers.get(DEATHS)
    last = deaths[0] if isinstance(deaths, list) and deaths else None
    reason = last.get("reason") if isinstance(last, dict) else None
    return f"dead-lettered: {reason}" if isinstance(reason, str) else ""


def source_of(queue: str) -> str:
    """
    Return the queue whose messages are parked in *queue*. Empty if the name does not say it: it is
    not the name of a parked queue, or was too long and is cut.
    """
    if not queue.endswith(PARKED_SUFFIX):
        return ""
    if len(queue.encode(errors="replace")) == LONGEST_NAME and re.search(_CUT, queue):
        return ""
    return queue.removesuffix(PARKED_SUFFIX)


_CUT = r"-[0-9a-f]{8}\.parked$"


def replayed(message: Message, parking: Parking, *, publish: bool) -> tuple[str, str, Message]:
    """
    Return the exchange and the routing key to replay *message* to, and the message to send: with
    the same ids, and no count of attempts.

    A request goes to its exchange and routing key again, because this key names its method. Another
    message goes to the queue whose message it was, because the other queues of its exchange had it.
    With *publish*, it goes to its exchange and routing key too.

    Raises:
        ValueError: the message does not say where it came from.
    """
    left = _OF_ATTEMPTS | PARKED_HEADERS | {DEADLINE}
    copy = kept(message)
    headers = {name: v for name, v in (copy.headers or EMPTY).items() if name not in left}
    copy.headers = headers
    is_known = parking.exchange is not None and parking.routing_key is not None
    if parking.is_request or publish:
        if not is_known:
            raise ValueError(f"it has no header {PARKED_EXCHANGE} and {PARKED_ROUTING_KEY}")
        return parking.exchange or "", parking.routing_key or "", copy
    if not parking.queue:
        raise ValueError(f"it has no header {PARKED_QUEUE}, and the name of its queue is cut")
    if is_known:
        headers[ORIGINAL_EXCHANGE] = parking.exchange
        headers[ORIGINAL_ROUTING_KEY] = parking.routing_key
    return "", parking.queue, copy

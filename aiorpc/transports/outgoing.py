"""
Outgoing messages, and the rules for settling and re-sending them, for RabbitMQ and ``memory://``.

Nothing here awaits or does I/O. ``settle_soon`` schedules a callback on the running event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from ..exceptions import AioRpcError, ConnectionLost, Overloaded, UnserializableValueError
from ..logs import logger
from ..wire.message import Message

if TYPE_CHECKING:  # `import aiorpc` is quicker without the codec
    from .codec.encoder import Encoder

__all__ = [
    "NO_LIMIT",
    "UNROUTABLE_REMEDY",
    "Outgoing",
    "Refusal",
    "Returned",
    "Returns",
    "SizeLimit",
    "check",
    "check_size",
    "nacked",
    "refuse",
    "resend",
    "resend_suspect",
    "resend_unseen",
    "settle",
    "settle_soon",
    "shorten",
]

log = logger(__name__)

#: Seconds between two lines of log about answers that no queue takes, at least.
_LOG_EVERY = 60.0
#: The limit in bytes of body that stands for "no limit".
NO_LIMIT = 1 << 62
#: The end of the text of each ``Unroutable`` for a returned message.
UNROUTABLE_REMEDY = (
    "Start the service that consumes the queue, check the routing key, or send without mandatory"
)
#: How often the broker may close a message's channel or connection for a reason that names no
#: message. After that, the message settles with this reason. The sender re-sends such a message
#: alone, so the second close proves that the message is the reason.
MAX_CLOSES = 2


class SizeLimit(msgspec.Struct, eq=False):
    """
    The largest body that may be sent.

    Attributes:
        bytes: the limit.
        setting: what sets the limit, for errors.
    """

    bytes: int
    setting: str = "MAX_MESSAGE_SIZE"

    def lower(self, size: int, setting: str) -> None:
        """Lower the limit to *size* bytes, if it is higher."""
        if size < self.bytes:
            self.bytes, self.setting = size, setting


class Outgoing(msgspec.Struct, eq=False, kw_only=True):
    """
    A message to send, and callbacks for its sender.

    Attributes:
        mandatory: if the message reaches no queue, the broker returns it, and it settles with
            ``Unroutable``.
        confirm: settle when the broker confirms. Without ``confirm`` the message settles when it is
            written; a later return settles it a second time, with an error.
        expires_at: loop time after which the message is not sent; ``None`` for never. A message
            that expires while it waits for a connection settles with ``ConnectionLost``.
        again: called if the connection is lost before the confirm arrives. It returns the message
            to send on the next connection, or ``None``. Without ``again``, with ``None``, or if
            ``again`` raises, the message settles with ``ConnectionLost``.
        settled: called at most once, with ``None`` (confirmed, or written) or with the error; never
            inside ``send``. The error is ``Unroutable`` also for an exchange that does not exist,
            and ``UnserializableValueError`` for a message that AMQP cannot carry.
        closes: how often the broker closed a channel or a connection with this message on it, and
            did not say why; the transport counts.

        A sender of many messages may derive a class and override ``conclude`` and ``once_more``, to
        save callbacks for each message. Without ``settled``, the transport calls ``conclude`` for
        errors only.
    """

    exchange: str
    routing_key: str
    message: Message
    mandatory: bool = False
    confirm: bool = True
    expires_at: float | None = None
    again: Callable[[Message], Message | None] | None = None
    settled: Callable[[AioRpcError | None], None] | None = None
    closes: int = 0
    #: Whether the message is a request, whose sender waits for the answer.
    is_request: ClassVar[bool] = False

    def conclude(self, error: AioRpcError | None) -> None:
        """Call ``settled``; without it, log an error."""
        if self.settled is not None:
            self.settled(error)
        elif error is not None:
            # A lost connection may fail thousands of messages, and has its own log line.
            level = logging.DEBUG if isinstance(error, ConnectionLost) else logging.WARNING
            log.log(level, "a message whose sender does not wait was not delivered: %s", error)

    def once_more(self) -> Message | None:
        """Return the message to send on the next connection, or ``None``."""
        return None if self.again is None else self.again(self.message)

    def retracted(self) -> None:
        """Record that the sender retracted the message, so that we do not re-send it."""
        self.again = None

    @property
    def wanted(self) -> bool:
        """Whether a message that waits for a connection has to be sent."""
        return True

    @property
    def description(self) -> str:
        """The name of the message in errors."""
        return f"a message to exchange {self.exchange!r}, key {self.routing_key!r},"


class Refusal(Protocol):
    """The broker's reason why it closed the channel of outgoing messages."""

    def names(self, outgoing: Outgoing) -> bool:
        """Whether the broker names *outgoing* as the message that it refused."""
        ...

    def error_for(self, outgoing: Outgoing) -> AioRpcError:
        """Return the error for *outgoing*, which the broker refused."""
        ...


#: Called with a mandatory message that the broker returned, and the error with the reason.
Returned = Callable[[Message, AioRpcError], None]


class Returns:
    """
    The handlers of returned messages, by ``reply_to``. They get messages that were sent without
    ``confirm`` and ``settled``, because the transport does not track such messages. A message
    without ``reply_to`` is an answer.

    Attributes:
        unheard: the number of answers that no queue took.
    """

    def __init__(self) -> None:
        self._takers: dict[str, Returned] = {}
        self.unheard = 0
        self._logged_at = -math.inf

    def expect(self, reply_to: str, returned: Returned) -> None:
        """Call *returned* with each returned message that has this ``reply_to``."""
        self._takers[reply_to] = returned

    def forget(self, reply_to: str) -> None:
        """Undo :meth:`expect`. Idempotent."""
        self._takers.pop(reply_to, None)

    def take(self, message: Message, error: AioRpcError) -> None:
        """Pass a *message* that the broker returned to its handler."""
        returned = self._takers.get(message.reply_to or "")
        if returned is not None:
            returned(message, error)
        elif message.reply_to is None:
            self.count_unheard(message)
        else:
            log.debug("the broker returned a message that nobody waits for: %s", error)

    def count_unheard(self, answer: Message) -> None:
        """Count an *answer* that no queue took. Log at most one line in ``_LOG_EVERY`` seconds."""
        self.unheard += 1
        now = time.monotonic()
        if now >= self._logged_at + _LOG_EVERY:
            self._logged_at = now
            log.warning(
                "no queue takes the answer to call %s, and nobody gets it: the caller has closed "
                "its client, or lost its reply queue; %d answers so far",
                answer.correlation_id,
                self.unheard,
            )


def settle(outgoing: Outgoing, error: AioRpcError | None) -> None:
    """Settle *outgoing* with *error*, or with success. Log errors of its sender."""
    try:
        outgoing.conclude(error)
    except Exception:
        log.exception("the sender of a message raised an exception when the message settled")


def settle_soon(outgoing: Outgoing, error: AioRpcError | None) -> None:
    """Settle *outgoing* in the next turn of the loop, because ``send`` must not settle it."""
    if outgoing.settled is not None or error is not None:
        asyncio.get_running_loop().call_soon(settle, outgoing, error)


def refuse(outgoing: Outgoing, error: UnserializableValueError) -> None:
    """
    Settle *outgoing* with *error*, because it can never be sent.

    Raises:
        UnserializableValueError: *outgoing* has no ``settled``, so *error* is raised.
    """
    if outgoing.settled is None:
        raise error
    settle_soon(outgoing, error)


def check_size(outgoing: Outgoing, limit: SizeLimit) -> None:
    """
    Check that the body of *outgoing* is within *limit*.

    Raises:
        UnserializableValueError: the body is larger than *limit*.
    """
    size = len(outgoing.message.body)
    if size > limit.bytes:
        raise UnserializableValueError(
            f"{outgoing.description} has {size} bytes, and {limit.setting} is {limit.bytes}: send "
            "less, send it in parts, or raise the limit here, at the receiver and in the broker"
        )


def check(outgoing: Outgoing, encoder: Encoder, limit: SizeLimit) -> None:
    """
    Check that *outgoing* can be sent.

    Raises:
        UnserializableValueError: AMQP cannot carry it, or its body is larger than *limit*.
    """
    check_size(outgoing, limit)
    encoder.publish(outgoing.exchange, outgoing.routing_key, outgoing.mandatory, outgoing.message)


def nacked(exchange: str, routing_key: str) -> Overloaded:
    """Return the error for a message that the broker refused with ``basic.nack``."""
    return Overloaded(
        f"the broker refused a message to exchange {exchange!r}, key {routing_key!r} (basic.nack): "
        "a queue of this message is full, or failed"
    )


def shorten(outgoing: Outgoing, now: float) -> None:
    """Shorten ``expiration`` by the time that *outgoing* has waited."""
    expiration = outgoing.message.expiration
    if expiration is None or outgoing.expires_at is None:
        return
    left = max(1, math.ceil((outgoing.expires_at - now) * 1000))
    if left < expiration:
        outgoing.message = msgspec.structs.replace(outgoing.message, expiration=left)


# --- for a message whose channel ended before its confirm; they return the message to re-send


def resend(outgoing: Outgoing) -> Outgoing | None:
    """Re-send *outgoing* if its sender agrees, because the broker may have it already."""
    if not outgoing.confirm:
        return None  # it settled when we wrote it
    try:
        message = outgoing.once_more()
    except Exception:
        log.exception("the sender of a message raised an exception when asked to re-send it")
        message = None
    if message is None:
        settle(
            outgoing,
            ConnectionLost(
                f"the connection was lost before {outgoing.description} was confirmed; it may have "
                "been delivered"
            ),
        )
        return None
    outgoing.message = message
    return outgoing


def resend_unseen(outgoing: Outgoing) -> Outgoing:
    """Re-send *outgoing* unchanged, because the broker cannot have it."""
    if outgoing.confirm or outgoing.settled is None:
        return outgoing
    # It settled when we wrote it, and must not settle twice.
    return msgspec.structs.replace(outgoing, settled=None)


def resend_suspect(outgoing: Outgoing, refusal: AioRpcError) -> Outgoing | None:
    """
    Re-send *outgoing*, which may be the reason why the broker closed the channel. After
    :data:`MAX_CLOSES` closed channels settle it with *refusal*.
    """
    outgoing.closes += 1
    if outgoing.closes >= MAX_CLOSES:
        settle(outgoing, refusal)
        return None
    return resend(outgoing)

"""
An AMQP channel to send on. Counts what it publishes, and settles it when the broker confirms.

Writes through the link's ``Lane``; aiormq opens and closes the channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import aiormq

from ...exceptions import Unroutable
from ...logs import logger
from ...wire.message import Message
from ..codec.encoder import Encoder
from ..outgoing import (
    UNROUTABLE_REMEDY,
    Outgoing,
    Returned,
    SizeLimit,
    check_size,
    nacked,
    settle,
    settle_soon,
)
from .errors import Refused
from .link import REPLY_TIMEOUT, Link
from .resend import AmqpRefusal, broker_limit, sort_out
from .topology import answered

__all__ = ["Channel", "TakeBack"]

log = logger(__name__)

#: Called with the messages to re-send when a channel has ended: :meth:`.backlog.Sender.take_back`.
TakeBack = Callable[[Iterable[Outgoing]], None]


#: Awaits requests on aiormq's channel.
Requests = Callable[[aiormq.Channel], Coroutine[Any, Any, None]]


class Channel:
    """
    Our side of a channel. The channel requests confirms with the first message that needs a
    confirm; before that, neither the broker nor the channel has to count messages.

    Args:
        link: the connection.
        channel: aiormq's channel.
        max_message_size: bytes of the largest body to receive.
        limit: the largest body that may be sent. The channel lowers the limit if the broker refuses
            a message because of its size.
        take_back: called with the messages to re-send when the channel ends.
        returned: called with each returned mandatory message that was sent without confirms.
        refused: called when the broker has closed the channel, with its reason.

    Attributes:
        open: whether the channel can be written to.
        ended: done when the channel has ended. Its result is the broker's ``Refused``, or ``None``
            if the connection was lost or we closed the channel.
        unconfirmed: the messages that the broker has to confirm, by delivery tag.
    """

    # Above 30 attributes, Python 3.11 finds attributes and methods of an object much slower.
    __slots__ = (
        *("_confirms", "_limit", "_oldest", "_on_refused", "_published", "_returned", "_settled"),
        *("_take_back", "amqp", "encoder", "ended", "lane", "link", "loop", "max_message_size"),
        *("number", "open", "unconfirmed"),
    )

    def __init__(
        self,
        link: Link,
        channel: aiormq.Channel,
        *,
        max_message_size: int,
        limit: SizeLimit,
        take_back: TakeBack,
        returned: Returned | None = None,
        refused: Callable[[AmqpRefusal], None] | None = None,
    ) -> None:
        self.link = link
        self.amqp = channel
        self.lane = link.lane
        self.loop = channel.loop
        self.number = channel.number
        self.open = True
        self.ended: asyncio.Future[Refused | None] = channel.loop.create_future()
        self.unconfirmed: dict[int, Outgoing] = {}
        self.max_message_size = max_message_size
        self.encoder = Encoder(channel.number, link.frame_max)
        self._confirms = False
        self._published = 0
        self._oldest = 1  # no lower tag is unconfirmed
        self._limit = limit
        self._take_back = take_back
        self._returned = returned
        self._on_refused = refused
        self._settled: asyncio.Event | None = None
        self.lane.attach(channel, self)
        link.attached.add(self)

    # --- out

    def publish(self, outgoing: Outgoing) -> int:
        """
        Write *outgoing*. Return its delivery tag, or 0 if the channel has no confirms.

        Raises:
            UnserializableValueError: *outgoing* is too large or cannot be encoded; nothing is sent.
        """
        message = outgoing.message
        if len(message.body) > self._limit.bytes:
            check_size(outgoing, self._limit)
        if not self._confirms:
            if not outgoing.confirm and (not outgoing.mandatory or outgoing.settled is None):
                self.lane.write(
                    self.encoder.publish(
                        outgoing.exchange, outgoing.routing_key, outgoing.mandatory, message
                    )
                )
                if outgoing.settled is not None:
                    settle_soon(outgoing, None)
                return 0
            self.start_confirms()
        tag = self._published + 1
        frames = self.encoder.publish(
            outgoing.exchange, outgoing.routing_key, outgoing.mandatory, message
        )
        self._published = tag
        self.unconfirmed[tag] = outgoing
        self.lane.write(frames)
        if not outgoing.confirm and outgoing.settled is not None:
            settle_soon(outgoing, None)
        return tag

    def start_confirms(self) -> None:
        """Request confirms for all messages that are published from now on."""
        if not self._confirms:
            self._confirms = True
            self.lane.write(self.encoder.confirm_select())

    @property
    def ready(self) -> bool:
        """Whether the channel is open, and the broker accepts messages."""
        return self.open and self.link.blocked_reason is None and not self.link.lost.done()

    @property
    def idle(self) -> bool:
        """Whether the broker has confirmed all messages."""
        return not self.unconfirmed

    async def drained(self) -> None:
        """Return when the connection can send more, or is lost."""
        if self.lane.congested:
            await self.lane.drained()

    async def all_confirmed(self) -> None:
        """Return when the broker has confirmed all messages, or the channel has ended."""
        while self.unconfirmed and self.open:
            if self._settled is None or self._settled.is_set():
                self._settled = asyncio.Event()
            await self._settled.wait()

    async def request(
        self, requests: Callable[[aiormq.Channel], Coroutine[Any, Any, None]]
    ) -> None:
        """
        Await *requests* on aiormq's channel, at most :data:`.link.REPLY_TIMEOUT` seconds.

        aiormq (7.2) closes a channel whose request was cancelled, but not if the answer has arrived
        in the same turn. RabbitMQ closes the connection for a frame on a closed channel. So our
        side of the channel ends first.

        Raises:
            Refused, ConnectionError, TimeoutError: as :meth:`.topology.Topology.declare`.
        """
        task = asyncio.create_task(self._answered(requests(self.amqp)))
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                await asyncio.wait([task])
        finally:
            cancelled = not task.done()
            if cancelled:
                self.lost()
                task.cancel()
            # Short: aiormq only writes the close. If we are cancelled in the turn of an error, this
            # retrieves the error.
            await asyncio.gather(task, return_exceptions=True)
            if cancelled:
                self.link.farewell_soon(self.amqp.close)
        task.result()

    async def _answered(self, requests: Coroutine[Any, Any, None]) -> None:
        async with answered(self.amqp):
            await requests

    async def close(self) -> None:
        """Write the waiting messages, then close the channel. Bounded."""
        if not self.open:
            return
        self.lane.flush()
        self._end(None)
        await self.link.farewell(self.amqp.close)

    # --- in: HotFrames

    def confirmed(self, tag: int, multiple: bool, accepted: bool) -> None:
        tag = min(tag, self._published)  # a wrong tag must not make us count further
        unconfirmed = self.unconfirmed
        for each in range(self._oldest, tag + 1) if multiple else (tag,):
            outgoing = unconfirmed.pop(each, None)
            if outgoing is not None and not (accepted and outgoing.settled is None):
                _settle(outgoing, accepted)
        if multiple and tag >= self._oldest:
            self._oldest = tag + 1
        if not unconfirmed and self._settled is not None:
            self._settled.set()

    def returned(
        self, code: int, text: str, exchange: str, routing_key: str, message: Message
    ) -> None:
        # A return has no delivery tag. It arrives before its confirm, and returns arrive in the
        # order of the messages. So the first message that looks the same is the returned one.
        for tag, outgoing in self.unconfirmed.items():
            sent = outgoing.message
            if (
                outgoing.routing_key == routing_key
                and sent.correlation_id == message.correlation_id
                and outgoing.exchange == exchange
                and outgoing.mandatory
                and (sent.message_id is None or sent.message_id == message.message_id)
            ):
                del self.unconfirmed[tag]
                settle(outgoing, unroutable(exchange, routing_key, f"{code} {text}"))
                if not self.unconfirmed and self._settled is not None:
                    self._settled.set()
                return
        if self._returned is not None:
            self._returned(message, unroutable(exchange, routing_key, f"{code} {text}"))

    def closing(self, code: int, text: str) -> None:
        self._end(Refused(code, text) if code else None)

    def lost(self) -> None:
        self._end(self.link.refused)

    def unblocked(self) -> None:
        pass

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, message: Message
    ) -> None:
        raise AssertionError("a delivery on a channel without a consumer")

    def oversized(
        self, tag: int, exchange: str, routing_key: str, size: int, head: Message
    ) -> None:
        raise AssertionError("a delivery on a channel without a consumer")

    def malformed(self, tag: int, exchange: str, routing_key: str, reason: str) -> None:
        raise AssertionError("a delivery on a channel without a consumer")

    # --- within

    def _end(self, refused: Refused | None) -> AmqpRefusal | None:
        if not self.open:
            return None
        self.open = False
        self.link.attached.discard(self)
        self.lane.flush()
        self.lane.detach(self.number)
        if refused is not None and (size := broker_limit(refused)) is not None:
            self._limit.lower(size, "max_message_size of the broker")
        unconfirmed, self.unconfirmed = self.unconfirmed, {}
        if self._settled is not None:
            self._settled.set()
        self.ended.set_result(None if self.link.lost.done() else refused)
        refusal = None if refused is None else AmqpRefusal(refused, self.link.url.redacted())
        self._take_back(sort_out(unconfirmed, refusal))
        if refusal is not None and self._on_refused is not None:
            self._on_refused(refusal)
        return refusal


def unroutable(exchange: str, routing_key: str, answer: str) -> Unroutable:
    """Return the error for a returned mandatory message."""
    return Unroutable(
        f"no queue is bound to exchange {exchange!r} for routing key {routing_key!r} ({answer}). "
        f"{UNROUTABLE_REMEDY}"
    )


def _settle(outgoing: Outgoing, accepted: bool) -> None:
    """Settle *outgoing*, which the broker acked or nacked."""
    if outgoing.confirm:  # otherwise it settled when we wrote it
        settle(outgoing, None if accepted else nacked(outgoing.exchange, outgoing.routing_key))

"""
Sends messages: directly on a channel, or later from the backlog, where they wait for a connection.

Writes through the channel that a transport passes to ``Sender.resume``; does no other I/O.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from copy import copy
from typing import Protocol

from ..exceptions import AioRpcError, ConnectionLost, UnserializableValueError
from ..logs import logger
from .codec.encoder import Encoder
from .outgoing import Outgoing, SizeLimit, check, refuse, settle, settle_soon, shorten

__all__ = ["Backlog", "PublishingChannel", "Sender"]

log = logger(__name__)

#: Maximum of waiting messages, and of their body bytes. Further messages settle with an error.
MAX_MESSAGES = 100_000
MAX_BYTES = 256 << 20
#: Above this number of waiting messages, or of their body bytes, senders should wait.
MANY_MESSAGES = 10_000
MANY_BYTES = 16 << 20
#: Seconds that all messages wait at most, so that one can be alone on a channel.
ALONE = 5.0
#: Seconds between two searches for expired messages, at least.
_SWEEP = 0.02
#: Messages at most that leave the backlog in one turn of the loop.
_BATCH = 200


class Backlog:
    """
    A bounded queue of messages in their sending order. Each message is sent or expires.

    Args:
        on_change: called when ``crowded`` changes, and when the last message leaves.

    Attributes:
        why: the reason why messages wait; completes "it was not sent: ..." in errors.
        crowded: whether senders that can wait should wait.
    """

    def __init__(self, why: str, on_change: Callable[[], None]) -> None:
        self.why = why
        self.crowded = False
        self._on_change = on_change
        # By identity: retracting one of many messages has to be fast.
        self._waiting: OrderedDict[int, Outgoing] = OrderedDict()
        self._bytes = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, outgoing: Outgoing) -> bool:
        return id(outgoing) in self._waiting

    def add(self, outgoing: Outgoing) -> None:
        """Put *outgoing* at the end. If the backlog is full, settle it with ``ConnectionLost``."""
        size = len(outgoing.message.body)
        if len(self._waiting) >= MAX_MESSAGES or self._bytes + size > MAX_BYTES:
            error = ConnectionLost(
                f"{outgoing.description} was not sent: {self.why}, and {len(self._waiting)} "
                f"messages ({self._bytes >> 20} MiB) wait already"
            )
            settle_soon(outgoing, error)
        else:
            self._add(outgoing)

    def put_back(self, returning: Iterable[Outgoing]) -> None:
        """Put *returning* in front, in their order, even if the backlog is full."""
        for outgoing in reversed(list(returning)):
            self._waiting.move_to_end(self._add(outgoing), last=False)

    def take(self) -> Outgoing | None:
        """
        Remove and return the next message that is wanted and has not expired; shorten its
        ``expiration``.
        """
        now = asyncio.get_running_loop().time()
        while self._waiting:
            _, outgoing = self._waiting.popitem(last=False)
            self._removed(outgoing)
            if not outgoing.wanted:
                continue
            if outgoing.expires_at is None or outgoing.expires_at > now:
                shorten(outgoing, now)
                return outgoing
            settle(outgoing, self._expired(outgoing))
        return None

    def discard(self, outgoing: Outgoing) -> bool:
        """Remove *outgoing* without settling it; return whether it was in the backlog."""
        if self._waiting.pop(id(outgoing), None) is None:
            return False
        self._removed(outgoing)
        return True

    def fail(self, error: AioRpcError) -> None:
        """Settle all waiting messages with *error*."""
        waiting, self._waiting = self._waiting, OrderedDict()
        self._bytes = 0
        self.crowded = False
        self._on_change()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._sweep_at = math.inf
        for outgoing in waiting.values():
            settle(outgoing, error)

    def _add(self, outgoing: Outgoing) -> int:
        """Put *outgoing* at the end; return its key."""
        if id(outgoing) in self._waiting:
            outgoing = copy(outgoing)  # the same object was sent twice, so it waits twice
        self._waiting[id(outgoing)] = outgoing
        self._bytes += len(outgoing.message.body)
        many = len(self._waiting) > MANY_MESSAGES or self._bytes > MANY_BYTES
        if many and not self.crowded:
            self.crowded = True
            self._on_change()
        if outgoing.expires_at is not None and outgoing.expires_at < self._sweep_at:
            self._sweep_by(outgoing.expires_at)
        return id(outgoing)

    def _removed(self, outgoing: Outgoing) -> None:
        self._bytes -= len(outgoing.message.body)
        few = len(self._waiting) <= MANY_MESSAGES // 2 and self._bytes <= MANY_BYTES // 2
        eases = few and self.crowded
        if eases:
            self.crowded = False
        if eases or not self._waiting:
            self._on_change()

    def _sweep_by(self, at: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        loop = asyncio.get_running_loop()
        self._sweep_at = at
        self._sweep = loop.call_at(max(at, loop.time() + _SWEEP), self._settle_expired)

    def _settle_expired(self) -> None:
        self._sweep, self._sweep_at = None, math.inf
        now = asyncio.get_running_loop().time()
        expiring = [each for each in self._waiting.values() if each.expires_at is not None]
        for outgoing in expiring:
            if (outgoing.expires_at or 0) <= now and self.discard(outgoing):
                settle(outgoing, self._expired(outgoing))
        times = [each.expires_at for each in expiring if each.expires_at and each.expires_at > now]
        if times:
            self._sweep_by(min(times))

    def _expired(self, outgoing: Outgoing) -> ConnectionLost:
        return ConnectionLost(f"{outgoing.description} was not sent within its time: {self.why}")


class PublishingChannel(Protocol):
    """A channel for a sender: of RabbitMQ, or of the broker in this process."""

    @property
    def ready(self) -> bool:
        """Whether the channel is open, and the broker accepts messages."""
        ...

    @property
    def idle(self) -> bool:
        """Whether the broker has confirmed all messages."""
        ...

    def publish(self, outgoing: Outgoing) -> object:
        """
        Send *outgoing* now; the channel settles it.

        Raises:
            UnserializableValueError: *outgoing* is too large or cannot be encoded; nothing is sent.
        """

    async def drained(self) -> None:
        """Return when the channel can send more, or has ended."""

    async def all_confirmed(self) -> None:
        """Return when the broker has confirmed all messages, or the channel has ended."""


class Sender:
    """
    Sends messages in order: on the channel if possible, else by the backlog.

    Args:
        why: the reason why there is no connection yet, for errors.
        limit: the largest body that may be sent.
        on_change: see :class:`Backlog`.

    Attributes:
        channel: the channel to send on; ``None`` while messages wait.
        direct: the same channel while the backlog is empty, else ``None``.
        backlog: the waiting messages.
    """

    def __init__(self, why: str, *, limit: SizeLimit, on_change: Callable[[], None]) -> None:
        self.channel: PublishingChannel | None = None
        self.direct: PublishingChannel | None = None
        self.backlog = Backlog(why, on_change)
        self._limit = limit
        self._encoder = Encoder(channel=0, frame_max=0)  # only to check
        self._closed: str | None = None
        self._flusher: asyncio.Task[None] | None = None
        #: Whether the next message waits until the last one is confirmed.
        self._alone = False
        #: The channel that has a message which the broker does not confirm: nothing waits for it.
        self._crowded: PublishingChannel | None = None

    def send(self, outgoing: Outgoing) -> None:
        """
        Send *outgoing* now if connected, else after reconnecting.

        Raises:
            UnserializableValueError: *outgoing* is too large or cannot be encoded, and has no
                ``settled``.
        """
        channel = self.direct
        try:
            if channel is not None and not outgoing.closes:
                channel.publish(outgoing)
                return
            check(outgoing, self._encoder, self._limit)
        except UnserializableValueError as error:
            refuse(outgoing, error)
        else:
            if self._closed is not None:
                settle_soon(outgoing, ConnectionLost(self._closed))
                return
            self.backlog.add(outgoing)
            if channel is not None:  # a suspect, which is sent alone
                self.direct = None
                self.resume(channel)

    def retract(self, outgoing: Outgoing) -> bool:
        """See :meth:`.base.Transport.retract`."""
        outgoing.retracted()
        return self.backlog.discard(outgoing)

    def resume(self, channel: PublishingChannel) -> None:
        """Send the waiting messages on *channel*, in order; then ``send`` writes directly."""
        self.channel = channel
        # Checked twice: a message that settles in ``_flush_batch`` may call ``resume``.
        if not self._flushing and not self._flush_batch() and not self._flushing:
            self._flusher = asyncio.create_task(self._flush_rest())
            self._flusher.add_done_callback(self._flushed)

    def pause(self, why: str) -> None:
        """Keep messages in the backlog. Errors of expired messages give the reason *why*."""
        self.direct = self.channel = None
        self.backlog.why = why

    def take_back(self, returning: Iterable[Outgoing]) -> None:
        """Put the unconfirmed messages of an ended channel in front of the waiting messages."""
        # First, because reading *returning* may settle messages, and their senders may send.
        self.direct = None
        self.backlog.put_back(returning)
        if self.channel is not None:
            self.resume(self.channel)

    async def flushed(self) -> None:
        """Return when the waiting messages are sent, or cannot be sent now."""
        if self._flusher is not None:
            await asyncio.wait([self._flusher])

    def close(self, why: str) -> None:
        """Settle waiting and all later messages with ``ConnectionLost``."""
        self._closed = why
        self.pause(why)
        if self._flusher is not None:
            self._flusher.cancel()
        self.backlog.fail(ConnectionLost(why))

    @property
    def _flushing(self) -> bool:
        # A finished task may still be set: its callback runs one turn of the loop later.
        return self._flusher is not None and not self._flusher.done()

    def _flush_batch(self) -> bool:
        """Send some waiting messages; return whether nothing is left to do."""
        channel = self.channel
        if channel is None or not channel.ready:
            return True
        for _ in range(_BATCH):
            outgoing = self.backlog.take()
            if self.channel is not channel:  # changed by an expired message's sender
                self.direct = None
                self.backlog.put_back(() if outgoing is None else (outgoing,))
                return self.channel is None
            if outgoing is None:
                self.direct = channel
                return True
            alone = outgoing.closes and channel is not self._crowded
            if alone and not channel.idle:
                self.backlog.put_back((outgoing,))
                self._alone = True
                return False
            try:
                channel.publish(outgoing)
            except UnserializableValueError as error:  # ``again`` may return any message
                settle_soon(outgoing, error)
            if alone:
                self._alone = True
                return False
        return False

    async def _flush_rest(self) -> None:
        done = False
        while not done:
            if self.channel is not None:
                await self.channel.drained()
            if self._alone:  # it may be the reason why the broker closed the last channel
                self._alone = False
                await self._all_confirmed()
            await asyncio.sleep(0)
            done = self._flush_batch()

    async def _all_confirmed(self) -> None:
        if (channel := self.channel) is None:
            return
        try:
            async with asyncio.timeout(ALONE):
                await channel.all_confirmed()
        except TimeoutError:
            self._crowded = channel

    def _flushed(self, flusher: asyncio.Task[None]) -> None:
        if self._flusher is flusher:
            self._flusher = None
        if not flusher.cancelled() and (error := flusher.exception()) is not None:
            log.error("sending the waiting messages failed", exc_info=error)

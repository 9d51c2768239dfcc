"""
Sending: to the publishing channel while there is one, else into the outbox, and from there again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ...exceptions import ConnectionLost, UnserializableValueError
from ..base import Outgoing, Returned
from ..codec.frames import Encoder
from ..outbox import Outbox, settle_soon
from .channel import NO_LIMIT, Channel, check
from .errors import Refused
from .link import Link
from .resend import sort_out

__all__ = ["Sender"]

log = logging.getLogger(__name__)

#: Messages of the outbox that leave in one turn of the loop.
_BATCH = 200


class Sender:
    """
    Attributes:
        channel: what messages leave on; ``None`` while there is none.
        direct: the same, while nothing waits in the outbox and the broker takes messages.
        outbox: what waits for it.
        closed: completes "it was not sent: ..." once nothing is taken any more.
    """

    def __init__(
        self,
        url: str,
        max_message_size: int | None,
        *,
        returned: Returned,
        on_crowded: Callable[[], None],
    ) -> None:
        self.channel: Channel | None = None
        self.outbox = Outbox(f"not connected to {url} yet", on_crowded)
        self.closed: str | None = None
        self._max_message_size = max_message_size
        self._returned = returned
        self._checker = Encoder(0, 0)
        self.direct: Channel | None = None
        self._flusher: asyncio.Task[None] | None = None

    def send(self, outgoing: Outgoing) -> None:
        """See ``AmqpTransport.send``."""
        channel = self.direct
        try:
            if channel is not None:
                channel.publish(outgoing)
                return
            check(outgoing, self._checker, self._max_message_size or NO_LIMIT)
        except UnserializableValueError as error:
            if outgoing.settled is None:
                raise
            settle_soon(outgoing, error)
            return
        if self.closed is not None:
            settle_soon(outgoing, ConnectionLost(self.closed))
        else:
            self.outbox.add(outgoing)

    # --- the channel comes and goes

    async def open(self, link: Link) -> None:
        """
        Open the publishing channel on *link*; nothing leaves before ``resume``.

        Raises:
            Refused, OSError: there is none to be had.
        """
        self.channel = Channel(
            link,
            await link.channel(),
            max_message_size=self._max_message_size,
            unconfirmed=self._channel_ended,
            returned=self._returned,
        )

    def pause(self, why: str) -> None:
        """Let everything wait; *why* is for the errors of what expires meanwhile."""
        self.direct = None
        self.outbox.why = why

    def drop(self) -> None:
        """The connection is gone, and the channel with it."""
        self.direct = self.channel = None

    def resume(self) -> None:
        """Send what waits, in order; then let ``send`` write directly."""
        # One that has ended is told apart: its callback comes a turn of the loop later.
        if (self._flusher is not None and not self._flusher.done()) or self._flush_batch():
            return
        self._flusher = asyncio.create_task(self._flush_rest())
        self._flusher.add_done_callback(self._flushed)

    async def flushed(self) -> None:
        """Return when what waited has been written, or cannot be."""
        if self._flusher is not None:
            await asyncio.wait([self._flusher])

    def close(self, why: str) -> None:
        """Take no more, and settle what waits with ``ConnectionLost``."""
        self.closed = why
        self.direct = None
        if self._flusher is not None:
            self._flusher.cancel()
        self.outbox.fail(ConnectionLost(why))

    def _flush_batch(self) -> bool:
        """Send some of what waits; whether there is no more to be done."""
        channel = self.channel
        if channel is None or not channel.open or channel.link.blocked_reason is not None:
            return True
        for _ in range(_BATCH):
            outgoing = self.outbox.take()
            if outgoing is None:
                self.direct = channel
                return True
            try:
                channel.publish(outgoing)
            except UnserializableValueError as error:
                settle_soon(outgoing, error)
        return False

    async def _flush_rest(self) -> None:
        while not self._flush_batch():
            channel = self.channel
            if channel is not None and channel.lane.congested:
                await channel.lane.drained()
            await asyncio.sleep(0)

    def _flushed(self, flusher: asyncio.Task[None]) -> None:
        if self._flusher is flusher:
            self._flusher = None
        if not flusher.cancelled() and (error := flusher.exception()) is not None:
            log.error("sending what had waited failed", exc_info=error)

    # --- what comes back from channels that ended

    def _channel_ended(
        self, unconfirmed: list[tuple[int, Outgoing]], refused: Refused | None
    ) -> None:
        self.direct = None
        url = self.channel.link.url.redacted() if self.channel is not None else "the broker"
        self.outbox.put_back(sort_out(unconfirmed, refused, url))

    def take_back(self, unconfirmed: list[tuple[int, Outgoing]], refused: Refused | None) -> None:
        """Replies that were not confirmed when their consumer's channel ended."""
        returning = sort_out(unconfirmed, refused, "the broker")
        if returning:
            self.direct = None
            self.outbox.put_back(returning)
            self.resume()

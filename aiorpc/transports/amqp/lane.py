"""
The fast lane: a tap on the socket that takes hot frames out before aiormq sees them.

aiormq lets its user supply what opens the socket (``aiormq.TransportFactory``). Ours opens it with
a protocol that hands each read to a :class:`~.amqp_demux.Demultiplexer`; what is not hot goes on to
aiormq's reader untouched. Outgoing hot frames go straight to the same socket. aio-pika and aiormq
keep all the rest: authentication, tuning, heartbeats, channels, declarations, consuming, closing.
May import aiormq.
"""

from __future__ import annotations

import asyncio
from struct import error as struct_error
from typing import Any, cast

import aiormq
import aiormq.abc
from yarl import URL

from ..codec.demultiplexer import BadFrame, Demultiplexer, HotFrames
from ..codec.frames import HEARTBEAT
from .path import HIGH_WATER, LOW_WATER, HotPath, Opener, Owner

__all__ = ["Lane"]


class Lane(HotPath):
    """
    Hot frames past aiormq.

    Args:
        heartbeat: seconds between signs of life that were agreed with the broker; 0 for none.
    """

    def __init__(self, owner: Owner, opener: Opener, heartbeat: int) -> None:
        super().__init__(owner)
        self._demux = Demultiplexer(owner)
        self._factory = _TapFactory(self, opener)
        self._transport: asyncio.Transport | None = None
        self._heartbeat = heartbeat
        self._feed_at = 0.0
        self._fed_frames = 0
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def factory(self) -> aiormq.TransportFactory:
        return self._factory

    def connected(self, connection: aiormq.abc.AbstractConnection) -> None:
        self._demux.limit(connection.connection_tune.frame_max or 0)
        if self._heartbeat:
            self._watch()

    def attach(self, channel: aiormq.abc.AbstractChannel, frames: HotFrames) -> None:
        super().attach(channel, frames)
        self._demux.channels[channel.number] = frames

    def detach(self, number: int) -> None:
        self._demux.detach(number)

    def consumer(self, frames: HotFrames) -> aiormq.abc.ConsumerCallback:
        return _never_called

    # --- what the tap reports

    def opened(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)

    def received(self, data: bytes) -> bytes:
        """Take the hot frames out of *data*; the rest is aiormq's."""
        self.heard_at = now = self.loop.time()
        demux = self._demux
        # What the handlers write leaves as one, at the end of this read.
        self._scheduled = True
        try:
            rest = demux.receive(data)
        except (BadFrame, IndexError, struct_error) as error:
            self.owner.hung_up(f"the broker sent something that is no AMQP: {error}")
            self.abort()
            return b""
        finally:
            self._leave()
        if now >= self._feed_at and demux.taken != self._fed_frames:
            # aiormq gives a connection up that it hears nothing of, and the lane eats all there is
            # to hear. A heartbeat is whole frames, so it may only stand between whole frames.
            self._feed_at = now + 1.0
            self._fed_frames = demux.taken
            rest += HEARTBEAT
        return rest

    def paused(self) -> None:
        self._congest()

    def resumed(self) -> None:
        self._ease()

    def closed(self, error: BaseException | None) -> None:
        self._ease()
        self.owner.socket_lost(error)

    # --- out

    def _send(self, frames: bytes) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(frames)

    async def written(self) -> None:
        self.flush()
        transport = self._transport
        while (  # noqa: ASYNC110 - asyncio tells of low water, but not of an empty buffer
            transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size()
        ):
            await asyncio.sleep(0.005)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def stop(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        await super().stop()

    def _watch(self) -> None:
        """
        Give the connection up after two silent heartbeats, as AMQP 0-9-1 (4.2.7) has it. aiormq
        would take three, and does when the lane is off.
        """
        silent = self.loop.time() - self.heard_at
        if silent > 2 * self._heartbeat:
            self.owner.hung_up(f"nothing was heard of the broker for {silent:.0f} s")
            self.abort()
        else:
            self._watchdog = self.loop.call_later(self._heartbeat / 2, self._watch)


class _Tap(asyncio.StreamReaderProtocol):
    """What a stream of asyncio has below it, with the lane in front."""

    def __init__(self, lane: Lane, reader: asyncio.StreamReader) -> None:
        super().__init__(reader, loop=lane.loop)
        self._lane = lane

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # No isinstance: uvloop's transports are not registered with asyncio's abstract class.
        self._lane.opened(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        rest = self._lane.received(data)
        if rest:
            super().data_received(rest)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._lane.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._lane.resumed()

    def eof_received(self) -> bool | None:
        self._lane.closed(None)
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lane.closed(exc)
        super().connection_lost(exc)


class _TapFactory(aiormq.TransportFactory):
    def __init__(self, lane: Lane, opener: Opener) -> None:
        self._lane = lane
        self._opener = opener

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop, opener = self._lane.loop, self._opener
        reader = asyncio.StreamReader(loop=loop)
        transport, tap = await loop.create_connection(
            lambda: _Tap(self._lane, reader),
            opener.host,
            opener.port,
            ssl=opener.tls,
            server_hostname=opener.server_hostname,
        )
        return reader, asyncio.StreamWriter(transport, tap, reader, loop)


async def _never_called(message: aiormq.abc.DeliveredMessage) -> None:
    raise AssertionError("a delivery went past the fast lane")

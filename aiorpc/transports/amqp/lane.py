"""
The socket of one connection. Frequent frames (publish, deliver, ack, confirm) bypass aiormq here.

The lane opens the socket in aiormq's place (``aiormq.TransportFactory``). The socket's protocol
passes each read to a :class:`~..codec.demultiplexer.Demultiplexer`, and all other frames unchanged
to aiormq's reader. The lane writes its own frames directly to the socket, joined to one write per
turn of the loop. aio-pika and aiormq do all the rest: authentication, tuning, heartbeats, channels,
declarations, consuming and closing.

Does the I/O of the frequent ("hot") frames. May import aiormq.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from struct import error as struct_error
from typing import TYPE_CHECKING, Any, Protocol, cast

import aiormq
import aiormq.abc
import msgspec
from yarl import URL

from ..codec.demultiplexer import BadFrame, ConnectionFrames, Demultiplexer, HotFrames
from ..codec.frames import HEARTBEAT
from .addresses import connect_to_host
from .errors import refusal

if TYPE_CHECKING:
    import ssl  # ssl is slow to import, and only TLS needs it

__all__ = ["Endpoint", "Lane", "Owner", "never_called"]

#: Bytes that wait to be written. Above HIGH_WATER senders should wait; below LOW_WATER they resume.
HIGH_WATER = 1 << 20
LOW_WATER = 1 << 18
#: Seconds at most that frames without urgency wait for another write.
_COMPANY_TIMEOUT = 0.01
#: Seconds between two checks whether the socket's buffer is empty.
_EMPTY_POLL = 0.005
#: Seconds between two heartbeats that the lane passes to aiormq.
_FEED_EVERY = 1.0


class Endpoint(msgspec.Struct, frozen=True):
    """The address that the socket connects to; *tls* is ``None`` for plain TCP."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_hostname: str | None


class Owner(ConnectionFrames, Protocol):
    """A connection, as its lane (our code on aiormq's socket) reports to it."""

    def socket_lost(self, error: BaseException | None) -> None:
        """Called when the broker or the client has closed the socket."""

    def congestion_changed(self) -> None:
        """``Lane.congested`` has changed."""


class Lane:
    """
    Writes and reads the frequent frames of one connection. A lane belongs to the loop that made it.

    Args:
        heartbeat: seconds between heartbeats, as agreed with the broker; 0 for no heartbeats.

    Attributes:
        congested: whether more than :data:`HIGH_WATER` bytes wait to be written.
        heard_at: loop time of the last read.
    """

    def __init__(self, owner: Owner, endpoint: Endpoint, heartbeat: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.factory: aiormq.TransportFactory = _TapFactory(self, endpoint)
        self.congested = False
        self.heard_at = self.loop.time()
        self._owner = owner
        self._heartbeat = heartbeat
        self._demux = Demultiplexer(owner)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._size = 0
        self._last: list[Callable[[], bytes]] = []
        self._company: list[Callable[[], bytes]] = []
        self._company_timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._free = asyncio.Event()
        self._free.set()
        self._fed_at = 0.0
        self._fed_frames = 0
        self._watchdog: asyncio.TimerHandle | None = None

    # --- writing

    def write(self, frames: bytes) -> None:
        """Write whole frames, in the order of the calls, at the end of this turn of the loop."""
        self._out.append(frames)
        self._size += len(frames)
        if self._size > HIGH_WATER:
            self._write_out()  # senders in this turn then see the congestion
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._write_out)

    def write_last(self, source: Callable[[], bytes]) -> None:
        """Call *source* at the end of this turn, and write its frames after all others."""
        self._last.append(source)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._write_out)

    def write_in_company(self, source: Callable[[], bytes]) -> None:
        """
        Call *source* at the next write, or after :data:`_COMPANY_TIMEOUT` seconds, and write its
        frames. A separate write would cost us and the broker more than these frames do.
        """
        self._company.append(source)
        if self._company_timer is None:
            self._company_timer = self.loop.call_later(_COMPANY_TIMEOUT, self._company_due)

    def _company_due(self) -> None:
        self._company_timer = None
        self.flush()

    def flush(self) -> None:
        """Write all waiting frames now, before any later frames of aiormq."""
        self._last += self._company
        self._company.clear()
        self._write_out()

    def _write_out(self) -> None:
        self._scheduled = False
        out = self._out
        if self._last:
            out.extend([source() for source in self._last])
            self._last.clear()
        if out:
            if self._company:
                out.extend([source() for source in self._company])
                self._company.clear()
            frames = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._size = 0
            transport = self._transport
            if transport is not None and not transport.is_closing():
                transport.write(frames)

    async def written(self) -> None:
        """Return when the socket's buffer is empty, or the socket is closed."""
        self.flush()
        transport = self._transport
        while (  # noqa: ASYNC110 - asyncio reports low water, but not an empty buffer
            transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size()
        ):
            await asyncio.sleep(_EMPTY_POLL)

    async def drained(self) -> None:
        """Return when the lane is not congested, or the connection is gone."""
        await self._free.wait()

    # --- the connection's life

    def connected(self, connection: aiormq.abc.AbstractConnection) -> None:
        """Called when the handshake is done."""
        self._demux.limit(connection.connection_tune.frame_max or 0)
        if self._heartbeat:
            self._watch()

    def attach(self, channel: aiormq.abc.AbstractChannel, frames: HotFrames) -> None:
        """Pass the frequent frames of *channel* to *frames*, and notify *frames* of its end."""
        self._demux.channels[channel.number] = frames
        channel.closing.add_done_callback(partial(_tell_closing, frames))

    def detach(self, number: int) -> None:
        """Pass the frames of channel *number* to aiormq from now on."""
        self._demux.detach(number)

    def abort(self) -> None:
        """Close the socket at once, and discard the frames that wait to be written."""
        if self._transport is not None:
            self._transport.abort()

    def stop(self) -> None:
        """Cancel the timers, and end all waits in :meth:`drained`. Idempotent."""
        for timer in (self._watchdog, self._company_timer):
            if timer is not None:
                timer.cancel()
        self._watchdog = self._company_timer = None
        self.resumed()

    def _watch(self) -> None:
        """Close a connection after two missed heartbeats (AMQP 0-9-1, 4.2.7); aiormq allows 3."""
        silent = self.loop.time() - self.heard_at
        if silent > 2 * self._heartbeat:
            self._owner.hung_up(0, f"the broker sent nothing for {silent:.0f} s")
            self.abort()
        else:
            self._watchdog = self.loop.call_later(self._heartbeat / 2, self._watch)

    # --- the tap calls these methods

    def opened(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)

    def received(self, data: bytes) -> bytes:
        """Handle the frequent frames in *data*; return the other frames, for aiormq."""
        self.heard_at = now = self.loop.time()
        demux = self._demux
        # All frames that the handlers send leave in one write, at the end of this read.
        self._scheduled = True
        try:
            rest = demux.receive(data)
        except (BadFrame, IndexError, struct_error) as error:
            self._owner.hung_up(0, f"the broker sent bytes that are not AMQP: {error}")
            self.abort()
            return b""
        finally:
            self._write_out()
        if now >= self._fed_at + _FEED_EVERY and demux.taken != self._fed_frames:
            # aiormq closes a silent connection, and the lane may handle every frame. So the lane
            # adds a heartbeat. `rest` holds whole frames, so the heartbeat splits no frame.
            self._fed_at = now
            self._fed_frames = demux.taken
            rest += HEARTBEAT
        return rest

    def paused(self) -> None:
        self.congested = True
        self._free.clear()
        self._owner.congestion_changed()

    def resumed(self) -> None:
        self.congested = False
        self._free.set()
        self._owner.congestion_changed()

    def closed(self, error: BaseException | None) -> None:
        self.resumed()
        self._owner.socket_lost(error)


class _Tap(asyncio.StreamReaderProtocol):
    """The protocol of an asyncio stream, which passes each read to the lane first."""

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
    """Opens the socket as aiormq does, with a :class:`_Tap` as its protocol."""

    def __init__(self, lane: Lane, endpoint: Endpoint) -> None:
        self._lane = lane
        self._endpoint = endpoint

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop, endpoint = self._lane.loop, self._endpoint
        reader = asyncio.StreamReader(loop=loop)
        transport, tap = await loop.create_connection(
            lambda: _Tap(self._lane, reader),
            sock=await connect_to_host(endpoint.host, endpoint.port),
            ssl=endpoint.tls,
            server_hostname=endpoint.server_hostname,
        )
        return reader, asyncio.StreamWriter(transport, tap, reader, loop)


def _tell_closing(frames: HotFrames, closing: asyncio.Future[Any]) -> None:
    """Notify *frames* that the broker closed the channel, or aiormq did after a timeout."""
    refused = refusal(None if closing.cancelled() else closing.exception())
    frames.closing(refused.code, refused.text)


async def never_called(message: aiormq.abc.DeliveredMessage) -> None:
    """Stand in as aiormq's ``basic_consume`` callback: the lane handles all deliveries."""
    raise AssertionError("aiormq received a delivery that the lane should have handled")

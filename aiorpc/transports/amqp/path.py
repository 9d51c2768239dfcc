"""
How the hot frames of one connection move: what the fast lane and the plain way have in common.

Writes are collected and leave as one, once a turn of the loop. May import aiormq.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import aiormq
import aiormq.abc
import msgspec

from ..codec.demultiplexer import ConnectionFrames, HotFrames
from .errors import refusal

if TYPE_CHECKING:
    import ssl  # imported only where TLS is used: it takes its time

    from aiormq.abc import ConsumerCallback

__all__ = ["HIGH_WATER", "LOW_WATER", "HotPath", "Opener", "Owner"]

#: Bytes waiting to be written at which senders should wait, and at which they may go on.
HIGH_WATER = 1 << 20
LOW_WATER = 1 << 18
#: Seconds that frames in no hurry wait for others to leave with.
FOLLOW = 0.01


class Opener(msgspec.Struct, frozen=True):
    """Where the socket leads to; *tls* is ``None`` for plain TCP."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_hostname: str | None


class Owner(ConnectionFrames, Protocol):
    """Who wants to know what becomes of the connection."""

    def socket_lost(self, error: BaseException | None) -> None:
        """The socket is closed, from either side."""

    def congestion_changed(self) -> None:
        """``HotPath.congested`` is another."""


class HotPath(ABC):
    """
    One connection's way in and out for hot frames. Belongs to the loop that made it.

    Attributes:
        congested: whether more than :data:`HIGH_WATER` bytes wait to be written.
        heard_at: loop time at which the frames came that are being handed on.
    """

    #: Whether aiormq has to be told what is published, with a message id for what may come back.
    keeps_books = False

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._size = 0
        self._sources: list[Callable[[], bytes]] = []
        self._followers: list[Callable[[], bytes]] = []
        self._last_call: asyncio.TimerHandle | None = None
        self._scheduled = False
        self.congested = False
        self._free = asyncio.Event()
        self._free.set()
        self.heard_at = self.loop.time()

    # --- out

    def write(self, frames: bytes) -> None:
        """Whole frames, written in this order at the end of the turn of the loop."""
        self._out.append(frames)
        self._size += len(frames)
        if self._size > HIGH_WATER:
            self._leave()  # so that senders of this very turn see the congestion
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._leave)

    def collect(self, source: Callable[[], bytes]) -> None:
        """Ask *source* for frames when the turn's writes leave; they go behind the others."""
        self._sources.append(source)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._leave)

    def follow(self, source: Callable[[], bytes]) -> None:
        """
        Ask *source* for frames when the next writes leave, or in :data:`FOLLOW` seconds: a write of
        their own would cost us and the broker more than they do.
        """
        self._followers.append(source)
        if self._last_call is None:
            self._last_call = self.loop.call_later(FOLLOW, self._call_followers)

    def _call_followers(self) -> None:
        self._last_call = None
        self.flush()

    def flush(self) -> None:
        """Let everything leave now, those that follow others too."""
        self._sources += self._followers
        self._followers.clear()
        self._leave()

    def _leave(self) -> None:
        """The end of a turn, or of a read: what was written leaves as one."""
        self._scheduled = False
        out = self._out
        if self._sources:
            out.extend([source() for source in self._sources])
            self._sources.clear()
        if out:
            if self._followers:
                out.extend([source() for source in self._followers])
                self._followers.clear()
            frames = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._size = 0
            self._send(frames)

    def when_written(self, tell: Callable[[], None]) -> None:
        """
        Let everything leave now, and call *tell* when it has: what aiormq writes from then on goes
        behind it. Also when the connection is gone.
        """
        self.flush()
        tell()

    def _congest(self) -> None:
        self.congested = True
        self._free.clear()
        self.owner.congestion_changed()

    def _ease(self) -> None:
        self.congested = False
        self._free.set()
        self.owner.congestion_changed()

    async def drained(self) -> None:
        """Return when it is not congested, or the connection is gone."""
        await self._free.wait()

    @abstractmethod
    def _send(self, frames: bytes) -> None:
        """Write *frames*."""

    # --- the connection's life

    @property
    @abstractmethod
    def factory(self) -> aiormq.TransportFactory:
        """What opens the socket."""

    @abstractmethod
    def connected(self, connection: aiormq.abc.AbstractConnection) -> None:
        """The handshake is done."""

    @abstractmethod
    async def written(self) -> None:
        """Return when all that was collected is written to the socket, or the connection gone."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the socket, whatever waits to be written."""

    async def stop(self) -> None:
        """The connection is over: end what runs here. Idempotent."""
        if self._last_call is not None:
            self._last_call.cancel()
            self._last_call = None
        self._ease()

    # --- in

    def attach(self, channel: aiormq.abc.AbstractChannel, frames: HotFrames) -> None:
        """Let *frames* have the hot frames of *channel*, and hear of its end."""
        channel.closing.add_done_callback(partial(_tell_closing, frames))

    @abstractmethod
    def detach(self, number: int) -> None:
        """No more for channel *number*."""

    @abstractmethod
    def consumer(self, frames: HotFrames) -> ConsumerCallback:
        """The callback for aiormq's ``basic_consume``."""

    # --- books

    def published(
        self, channel: aiormq.Channel, frames: HotFrames, tag: int, message_id: str | None
    ) -> None:
        """A message that the broker will confirm with *tag* is about to be written."""


def _tell_closing(frames: HotFrames, closing: asyncio.Future[Any]) -> None:
    """aiormq has closed a channel: the broker did, or it gave up waiting for an answer itself."""
    refused = refusal(None if closing.cancelled() else closing.exception())
    frames.closing(refused.code, refused.text)

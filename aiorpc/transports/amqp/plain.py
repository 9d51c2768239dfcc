"""
The plain way, for ``AMQP_FAST_LANE: false``: aiormq reads everything, and its callbacks bring it.

Outgoing messages are still encoded by us (aiormq would write header integers that kill Nameko
services, see ``table``), and go to aiormq's write queue as frames ready-made. So that aiormq
finds its confirms and returns, each is entered in its books: ``confirmations`` by delivery tag,
and, for mandatory messages, ``message_id_delivery_tag``; those carry a message id for this. May
import aiormq.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import aiormq
import aiormq.abc
from aiormq.abc import ChannelFrame, DeliveredMessage
from pamqp.commands import Basic
from yarl import URL

from ...wire.message import Message
from ..codec.demultiplexer import HotFrames
from ..codec.frames import MalformedContent
from .legible import Mender, unwrapped
from .path import HIGH_WATER, LOW_WATER, HotPath, Opener, Owner

__all__ = ["PlainPath"]

#: aiormq tells nobody that a connection is blocked: look so often (seconds), and wait so long.
_LOOK_EVERY = 0.5
_LOOK_FOR = 0.05


class PlainPath(HotPath):
    """Hot frames by way of aiormq's write queue and callbacks."""

    keeps_books = True

    def __init__(self, owner: Owner, opener: Opener) -> None:
        super().__init__(owner)
        self._factory = _MendingFactory(self.loop, opener)
        self._queue: asyncio.Queue[ChannelFrame] | None = None
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        #: Who is to be told when what waits is written, and when the piece that aiormq has is.
        self._told: list[Callable[[], None]] = []
        self._told_of_piece: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def factory(self) -> aiormq.TransportFactory:
        return self._factory

    def connected(self, connection: aiormq.abc.AbstractConnection) -> None:
        self._queue = connection.write_queue
        self._tasks = [
            self.loop.create_task(self._pump(connection.write_queue)),
            self.loop.create_task(self._watch_blocked(connection)),
        ]
        connection.closing.add_done_callback(self._closed)

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.owner.socket_lost(error)
        self._let_go()

    # --- in

    def detach(self, number: int) -> None:
        pass

    def consumer(self, frames: HotFrames) -> aiormq.abc.ConsumerCallback:
        async def received(incoming: DeliveredMessage) -> None:
            self.heard_at = self.loop.time()
            _delivered(frames, incoming)

        return received

    def published(
        self, channel: aiormq.Channel, frames: HotFrames, tag: int, message_id: str | None
    ) -> None:
        confirmation: asyncio.Future[Any] = self.loop.create_future()
        confirmation.add_done_callback(partial(_confirmed, channel, frames, tag, message_id))
        channel.publisher_confirms = True
        channel.confirmations[tag] = confirmation
        if message_id:
            channel.message_id_delivery_tag[message_id] = tag

    # --- out

    def _send(self, frames: bytes) -> None:
        if self._idle.is_set() and self._tasks and self._tasks[0].cancelling():
            # asyncio.run() ends every task at once, aiormq's writer too. What is written now, like
            # the answer to the call that ends the process, leaves past them; all before it has.
            self._factory.write(frames)
            return
        self._waiting.append(frames)
        self._waiting_size += len(frames)
        self._idle.clear()
        self._work.set()
        if self._waiting_size > HIGH_WATER:
            self._congest()

    async def _pump(self, queue: asyncio.Queue[ChannelFrame]) -> None:
        """Hand on what waits, piece by piece, each when the socket has taken the one before."""
        while True:
            await self._work.wait()
            self._work.clear()
            frames = b"".join(self._waiting)
            self._waiting.clear()
            self._told_of_piece, self._told = self._told, []
            drained: asyncio.Future[None] = self.loop.create_future()
            await queue.put(ChannelFrame(payload=frames, should_close=False, drain_future=drained))
            await drained
            self._waiting_size -= len(frames)
            if self._waiting_size < LOW_WATER:
                self._ease()
            if not self._waiting:
                self._idle.set()
            self._tell(self._told_of_piece)

    async def written(self) -> None:
        self.flush()
        await self._idle.wait()

    def when_written(self, tell: Callable[[], None]) -> None:
        self.flush()
        if self._waiting:
            self._told.append(tell)
        elif not self._idle.is_set():
            self._told_of_piece.append(tell)
        else:
            tell()

    def _tell(self, those: list[Callable[[], None]]) -> None:
        told = those.copy()
        those.clear()
        for tell in told:
            tell()

    def _let_go(self) -> None:
        """The connection is gone: nobody is to wait for it."""
        self._ease()
        self._idle.set()
        self._tell(self._told_of_piece)
        self._tell(self._told)

    async def _watch_blocked(self, connection: aiormq.abc.AbstractConnection) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            ready = self.loop.create_task(connection.ready())
            try:
                done, _ = await asyncio.wait([ready], timeout=_LOOK_FOR)
                if not done:
                    self.owner.blocked("")
                    await ready
                    self.owner.unblocked()
            finally:
                ready.cancel()

    def abort(self) -> None:
        self._factory.abort()

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().stop()
        self._let_go()


class _Mending(asyncio.StreamReaderProtocol):
    """What a stream of asyncio has below it, with a ``Mender`` in front."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._mender = Mender()

    def data_received(self, data: bytes) -> None:
        legible = self._mender.receive(data)
        if legible:
            super().data_received(legible)


class _MendingFactory(aiormq.TransportFactory):
    """
    Opens the socket as aiormq does, and remembers it, so that it can be dropped; what aiormq would
    not survive does not reach it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, opener: Opener) -> None:
        self._loop = loop
        self._opener = opener
        self._transport: asyncio.Transport | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop, opener = self._loop, self._opener
        reader = asyncio.StreamReader(loop=loop)
        transport, protocol = await loop.create_connection(
            lambda: _Mending(reader, loop),
            opener.host,
            opener.port,
            ssl=opener.tls,
            server_hostname=opener.server_hostname,
        )
        self._transport = transport
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def write(self, frames: bytes) -> None:
        """Past aiormq."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frames)

    def abort(self) -> None:
        if self._transport is not None:
            with suppress(RuntimeError):
                self._transport.abort()


# --- aiormq's callbacks, as hot frames


def _delivered(frames: HotFrames, incoming: DeliveredMessage) -> None:
    method = incoming.delivery
    assert isinstance(method, Basic.Deliver)
    tag, place = method.delivery_tag or 0, (method.exchange or "", method.routing_key or "")
    size = len(incoming.body)
    too_large = size > frames.max_message_size
    try:
        message = _message(incoming, b"" if too_large else incoming.body)
    except MalformedContent as error:
        frames.malformed(tag, *place, str(error))
        return
    if too_large:
        frames.oversized(tag, *place, size, message)
    else:
        frames.delivered(tag, bool(method.redelivered), *place, message)


def _confirmed(
    channel: aiormq.Channel,
    frames: HotFrames,
    tag: int,
    message_id: str | None,
    confirmation: asyncio.Future[Any],
) -> None:
    if message_id:
        channel.message_id_delivery_tag.pop(message_id, None)
    if confirmation.cancelled():
        return
    error = confirmation.exception()
    if error is not None:
        frames.confirmed(tag, False, False)
        return
    result = confirmation.result()
    if isinstance(result, DeliveredMessage) and isinstance(result.delivery, Basic.Return):
        back = result.delivery
        frames.returned(
            back.reply_code or 0,
            back.reply_text or "",
            back.exchange or "",
            back.routing_key or "",
            _message(result, result.body),
        )
    else:
        frames.confirmed(tag, False, True)


def _message(incoming: DeliveredMessage, body: bytes) -> Message:
    properties = incoming.header.properties
    wrapped = unwrapped(properties, body)
    if wrapped is not None:
        return wrapped
    expiration = properties.expiration
    return Message(
        body=body,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=properties.headers,
        persistent=properties.delivery_mode == 2,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=int(expiration) if expiration and expiration.isdecimal() else None,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=properties.message_type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )

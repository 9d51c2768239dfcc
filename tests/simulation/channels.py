"""
The frames between aiorpc's channels of AMQP and the simulated broker. ``Channel``,
``ConsumerChannel``, ``ListenerChannel`` and ``Lane`` are those of ``aiorpc.transports.amqp``: they
decide what is sent, acked, answered and sent again, and in which order. Here are what stands for
aiormq's channel and for the socket, and the broker's side of a channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import Any, cast

from aiorpc.exceptions import ConfigurationError, Overloaded
from aiorpc.transports.amqp.channel import Channel, TakeBack
from aiorpc.transports.amqp.consumer import ConsumerChannel
from aiorpc.transports.amqp.lane import Endpoint, Lane
from aiorpc.transports.amqp.listener import ListenerChannel
from aiorpc.transports.codec.encoder import Encoder
from aiorpc.transports.codec.frames import ACK, FRAME_END, METHOD, NACK, REJECT
from aiorpc.transports.incoming import ConsumerOptions
from aiorpc.transports.memory.message import carried
from aiorpc.transports.memory.queue import Entry, MemoryConsumer
from aiorpc.transports.outgoing import NO_LIMIT, Outgoing, Returned, SizeLimit
from aiorpc.wire.message import Message
from aiorpc.wire.names import COPY, STREAM
from aiorpc.wire.streams import END, stream_kind

from .network import Link

__all__ = ["Peer", "connect", "consuming", "publishing"]

#: Methods whose frames carry no delivery tag.
_PUBLISH, _CANCEL, _SELECT = 0x3C0028, 0x3C001E, 0x55000A
_TIMED_OUT = "PRECONDITION_FAILED - delivery acknowledgement on channel {} timed out"
#: A frame: type, channel, size, method, number, end.
_NUMBERED = Struct(">BHIIQB").pack
_HEAD = Struct(">HII").unpack_from
_TAG_AND_BITS = Struct(">QB").unpack_from
_NUMBER = Struct(">Q").unpack_from


class _Encoder(Encoder):
    """Writes a publish as a number: what is published would be encoded only to be decoded."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer.number, 0)
        self._peer = peer

    def publish(self, exchange: str, routing_key: str, mandatory: bool, message: Message) -> bytes:
        sent = exchange, routing_key, carried(message).message, mandatory
        return _NUMBERED(METHOD, self.channel, 12, _PUBLISH, self._peer.keep(sent), FRAME_END)


class _Sending(Channel):
    """A channel to send on that reports requests."""

    __slots__ = ()

    def publish(self, outgoing: Outgoing) -> int:
        if outgoing.is_request:
            cast("Link", self.link).network.watcher.sending(outgoing)
        return super().publish(outgoing)


class _Socket:
    """What the lane of *link* writes to."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def write(self, frames: bytes) -> None:
        at, size = 0, len(frames)
        while at < size:
            number, length, method = _HEAD(frames, at + 1)
            peer = self._link.peers.get(number)
            if peer is not None:
                peer.write(method, frames, at + 11)
            at += length + 8

    def is_closing(self) -> bool:
        return self._link.lost.done()

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """The socket takes everything."""

    def abort(self) -> None:
        self._link.cut()


class _Arrivals:
    """Stands for the demultiplexer: what arrives is not bytes."""

    taken = 0

    def __init__(self) -> None:
        self.channels: dict[int, Any] = {}

    def receive(self, handle: Callable[[], None]) -> bytes:
        handle()
        return b""

    def detach(self, number: int) -> None:
        self.channels.pop(number, None)


def connect(link: Link) -> None:
    """Give *link* the lane of a connection."""
    link.lane = lane = Lane(cast("Any", link), Endpoint("broker", 0, None, None), 0)
    lane._demux = cast("Any", _Arrivals())
    lane.opened(cast("asyncio.Transport", _Socket(link)))


def publishing(
    link: Link, limit: SizeLimit, take_back: TakeBack, returned: Returned | None = None
) -> Channel:
    """Open a channel to send on."""
    peer = Peer(link)
    channel = _Sending(
        cast("Any", link),
        cast("Any", peer),
        max_message_size=NO_LIMIT,
        limit=limit,
        take_back=take_back,
        returned=returned,
    )
    channel.encoder = _Encoder(peer)
    return channel


def consuming(
    link: Link,
    options: ConsumerOptions,
    limit: SizeLimit,
    take_back: TakeBack,
    elsewhere: Callable[[Outgoing], None],
    returned: Returned,
) -> ConsumerChannel:
    """Open a channel for a consumer."""
    peer = Peer(link, consumes=True)
    kind: Callable[..., ConsumerChannel] = partial(ConsumerChannel, received=options.handler)
    if options.listens:
        kind = partial(ListenerChannel, heard=options.handler)
    channel = kind(
        link,
        peer,
        max_message_size=NO_LIMIT,
        limit=limit,
        take_back=take_back,
        prefetch=options.prefetch,
        requeue=options.requeue,
        elsewhere=elsewhere,
        returned=returned,
    )
    channel.encoder = _Encoder(peer)
    return channel


class Peer:
    """
    What aiormq's channel is to aiorpc, and the broker's side of this channel.

    Attributes:
        consumer: the broker's consumer.
    """

    def __init__(self, link: Link, *, consumes: bool = False) -> None:
        self.link = link
        self.loop = link.network.loop
        self.number = link.new_channel(self)
        self.closing: asyncio.Future[None] = self.loop.create_future()
        self.on_consumer_cancel_callbacks: set[Callable[[object], None]] = set()
        self.consumer: MemoryConsumer | None = None
        self._consumes = consumes
        self.up, self.down = link.lanes()
        #: What the process has written, by number.
        self._kept: dict[int, tuple[str, str, Message, bool]] = {}
        self._numbers = 0
        # At the broker:
        self._unacked: dict[int, tuple[MemoryConsumer, Entry]] = {}
        self._delivered = self._published = 0
        self._confirms = self._closed = False

    # --- in the process

    def keep(self, sent: tuple[str, str, Message, bool]) -> int:
        """Keep what is published until the lane writes its frame."""
        self._numbers += 1
        self._kept[self._numbers] = sent
        return self._numbers

    def write(self, method: int, frames: bytes, at: int) -> None:
        """Take a frame that the lane writes."""
        send = self.up.send
        if method == _PUBLISH:
            sent = self._kept.pop(_NUMBER(frames, at)[0])
            if COPY in (sent[2].headers or ()):
                kind = "copy"
            else:
                kind = "answer" if self._consumes else "publish"
            if stream_kind(sent[2]) == END:
                kind += " end"
            self.link.network.book.sends(sent[0], sent[2])
            send(kind, self._publish, *sent)
        elif method == ACK:
            tag, multiple = _TAG_AND_BITS(frames, at)
            send("ack", self._ack, tag, bool(multiple))
        elif method in (REJECT, NACK):
            tag, bits = _TAG_AND_BITS(frames, at)
            send("reject", self._reject, tag, bool(bits), method == NACK)
        elif method == _SELECT:
            send("select", self._select)
        elif method == _CANCEL:
            send("cancel", self._stop_consuming)
        else:
            raise AssertionError(f"the simulator does not know method {method:#x}")

    def _tell(self, kind: str, name: str, *args: Any) -> None:
        """Call the method *name* of aiorpc's channel, some time later."""
        self.down.send(kind, self._told, name, *args)

    def _told(self, name: str, *args: Any) -> None:
        channel = self.link.lane._demux.channels.get(self.number)
        if channel is not None:
            getattr(channel, name)(*args)

    def _told_cancel(self) -> None:
        for callback in list(self.on_consumer_cancel_callbacks):
            callback(None)

    async def _ask(self, kind: str, function: Callable[[], Any]) -> Any:
        """
        Return what *function* does at the broker.

        Raises:
            ConnectionError: the channel ended before the answer.
        """
        answer: asyncio.Future[Any] = self.loop.create_future()

        def told(result: Any) -> None:
            if not answer.done():
                answer.set_result(result)

        self.up.send(kind, lambda: self.down.send(kind, told, function()))
        ends = answer, self.link.lost, self.closing
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ConnectionError("the channel ended")
        return answer.result()

    async def confirm_delivery(self) -> None:
        await self._ask("read", lambda: None)

    async def basic_cancel(self) -> None:
        await self._ask("cancel", self._stop_consuming)

    async def close(self) -> None:
        with self.link.forgets(self):
            await self._ask("close", self._end)

    async def consume(
        self, options: ConsumerOptions, before: bool, reconnects: int, gone: Callable[[], None]
    ) -> None:
        """
        Declare and consume the queue of *options*. If it was deleted meanwhile, call *gone*.

        Raises:
            ConfigurationError: the broker refuses.
            ConnectionError: the channel ended before the answer.
        """

        def consume() -> bool | ConfigurationError:
            try:
                return self._consume(options, before, reconnects)
            except ConfigurationError as error:
                return error

        def told(result: bool | ConfigurationError) -> None:
            if result is True:
                gone()
            if not answer.done():
                answer.set_result(result)

        answer: asyncio.Future[bool | ConfigurationError] = self.loop.create_future()
        self.up.send("consume", lambda: self.down.send("consume-ok", told, consume()))
        ends = answer, self.link.lost, self.closing
        await asyncio.wait(ends, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ConnectionError("the channel ended")
        if isinstance(error := answer.result(), ConfigurationError):
            raise error

    async def get(self, queue: str) -> tuple[bytes, int] | None:
        """Take the first message of *queue*, and return its body and tag."""
        got: tuple[bytes, int] | None = await self._ask("claim", partial(self._get, queue))
        return got

    # --- at the broker

    def _publish(self, exchange: str, routing_key: str, message: Message, mandatory: bool) -> None:
        network = self.link.network
        self._published += 1
        if self._confirms and network.watcher.refuses(self.link):
            self._tell("confirm", "confirmed", self._published, False, False)
            return
        if stream_kind(message) == END and network.watcher.drops(self.link):
            error = None
        else:
            error = network.publish(self.link.process, exchange, routing_key, message, mandatory)
        accepted = not isinstance(error, Overloaded)
        if error is not None and accepted:
            self._tell("return", "returned", 312, "NO_ROUTE", exchange, routing_key, message)
        if self._confirms:
            self._tell("confirm", "confirmed", self._published, False, accepted)

    def _select(self) -> None:
        self._confirms = True
        self._published = 0

    def _consume(self, options: ConsumerOptions, before: bool, reconnects: int) -> bool:
        broker = self.link.network.broker
        gone = options.keep and before and options.queue.name not in broker.queues
        queue = broker.declare_queue(options.queue, self.link)
        arguments = {} if options.arguments is None else options.arguments(reconnects)
        self.consumer = consumer = MemoryConsumer(
            queue,
            self._deliver,
            lambda: self.down.send("cancelled", self._told_cancel),
            options.prefetch or float("inf"),
            arguments.get("x-priority", 0),
        )
        self.link.keep_consumer(consumer)
        queue.add_consumer(consumer)
        return gone

    def _stop_consuming(self) -> None:
        if self.consumer is not None:
            self.consumer.queue.remove_consumer(self.consumer)

    def _deliver(self, consumer: MemoryConsumer, entry: Entry) -> None:
        self._delivered += 1
        self._unacked[self._delivered] = consumer, entry
        asks = type((entry.carried.message.headers or {}).get(STREAM)) is int
        self._tell(
            "deliver stream" if asks else "deliver",
            "delivered",
            self._delivered,
            entry.redelivered,
            entry.exchange,
            entry.routing_key,
            entry.carried.copy(),
        )

    def _get(self, name: str) -> tuple[bytes, int] | None:
        queue = self.link.network.broker.queues.get(name)
        entry = None if queue is None else queue.take()
        if queue is None or entry is None:
            return None
        getter = MemoryConsumer(queue, _never, _nothing, 0, 0, {entry})
        self.link.keep_consumer(getter)
        self._delivered += 1
        self._unacked[self._delivered] = getter, entry
        return entry.carried.message.body, self._delivered

    def _ack(self, tag: int, multiple: bool) -> None:
        tags = [each for each in self._unacked if each <= tag] if multiple else [tag]
        if not tags or tag not in self._unacked:
            self._misused(f"acks tag {tag}, which is not unacked")
        for each in tags:
            if each in self._unacked:
                consumer, entry = self._unacked.pop(each)
                if entry in consumer.unacked:
                    self.link.network.book.acked(consumer.queue, entry)
                consumer.ack(entry)

    def _reject(self, tag: int, requeue: bool, unworked: bool) -> None:
        if tag not in self._unacked:
            self._misused(f"rejects tag {tag}, which is not unacked")
            return
        consumer, entry = self._unacked.pop(tag)
        if requeue and entry in consumer.unacked:
            self.link.network.book.returned(consumer.queue, entry, unworked)
        consumer.reject(entry, requeue=requeue)

    def _misused(self, text: str) -> None:
        self.link.network.watcher.misused(f"{self.link.process} {text}: RabbitMQ closes a channel")

    def close_at_broker(self) -> None:
        """Close the channel, as RabbitMQ does when an ack takes too long."""
        if self.consumer is None or self._closed or not self.link.here:
            return
        self.up.sever(0.0)
        self._end()
        self.down.send("close", self._told_closed)

    def _end(self) -> None:
        self._closed = True
        unacked, self._unacked = self._unacked, {}
        if self.consumer is not None:
            self.consumer.open = False
            self.consumer.queue.remove_consumer(self.consumer)
        for consumer, entry in unacked.values():
            if entry in consumer.unacked:
                consumer.unacked.remove(entry)
                self.link.network.lost(consumer.queue, (entry,))
                consumer.queue.requeue((entry,))

    def _told_closed(self) -> None:
        if not self.closing.done():
            self.closing.set_result(None)
        self._told("closing", 406, _TIMED_OUT.format(self.number))
        self.link.forget(self)


def _never(consumer: MemoryConsumer, entry: Entry) -> None:
    raise AssertionError("a consumer without a prefetch count gets nothing")


def _nothing() -> None:
    pass

"""
The network between simulated processes and the broker of ``memory://``: links, channels and lanes
on which frames take time, and are lost with their link. Knows the broker, and no client of it.

A link is one connection. A channel of it has two lanes, one for each direction. A lane keeps the
order of its frames, as TCP and a channel of AMQP do; two lanes keep no order between them, as two
channels of RabbitMQ. If a link is cut, each lane still delivers some of the frames that are on
their way, and no later one. Both ends notice the cut when they do.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from aiorpc.exceptions import Overloaded, Unroutable
from aiorpc.transports.amqp.lane import Lane as AmqpLane
from aiorpc.transports.memory.broker import MemoryBroker
from aiorpc.transports.memory.queue import Entry, MemoryConsumer, MemoryQueue
from aiorpc.transports.outgoing import Outgoing
from aiorpc.wire.message import Message

from .determinism import OrderedSet
from .loop import Process, SimulationLoop

if TYPE_CHECKING:
    from .book import Book
    from .channels import Peer

__all__ = ["Lane", "Link", "Network", "Watcher"]

#: Frames that are written within so many seconds arrive together.
TOGETHER = 30e-6
#: Seconds to wait for an answer that nobody needs.
FAREWELL = 2.0
Frame: TypeAlias = tuple[str, Callable[..., object], tuple[Any, ...]]


class Watcher(Protocol):
    """Sees each frame before it is written, and may cut its link."""

    def writing(self, link: Link, kind: str) -> tuple[str, Callable[[], None]] | None:
        """
        Return a fault, and whether it strikes ``"before"`` or ``"after"`` this frame. *kind* is
        what the frame does, and perhaps a second word, for what it is to a stream.
        """
        ...

    def refuses(self, link: Link) -> bool:
        """Whether the broker refuses (nacks) the message that it reads now."""
        ...

    def drops(self, link: Link) -> bool:
        """Whether a policy of the broker drops the last message of a stream that it reads now."""
        ...

    def sending(self, outgoing: Outgoing) -> None:
        """A client sends the request *outgoing*, perhaps once more."""
        ...

    def misused(self, text: str) -> None:
        """A client broke a rule of AMQP: *text* says who, and how."""
        ...


class Network:
    """
    Connects processes with *broker*.

    Attributes:
        down: processes that cannot reach the broker, with the future that ends this.
        slow: by process, the factor by which its frames take longer.
        links: by process, its open links.
    """

    def __init__(
        self, loop: SimulationLoop, broker: MemoryBroker, server: Process, seed: object
    ) -> None:
        self.loop = loop
        self.broker = broker
        self.server = server
        self.seed = seed
        self.watcher: Watcher
        self.book: Book
        self.down: dict[str, asyncio.Future[None]] = {}
        self.slow: dict[str, float] = {}
        self.links: dict[Process, list[Link]] = {}
        self._count = 0

    async def connect(self, process: Process, open_lane: Callable[[Link], None]) -> Link:
        """Return a new link; wait until the broker can be reached."""
        self._count += 1
        link = Link(self, process, f"{self.seed} {process.name} {self._count}")
        await asyncio.sleep(link.delay())
        while (down := self.down.get(process.name)) is not None:
            await asyncio.wait((down,))
        open_lane(link)
        link.open()
        return link

    def cut_off(self, name: str, seconds: float) -> None:
        """Let the process *name* not reach the broker for *seconds*."""
        if name not in self.down:
            future = self.loop.create_future()
            self.down[name] = future
            self.loop.later(seconds, self._back, name)

    def _back(self, name: str) -> None:
        self.down.pop(name).set_result(None)

    # --- what the broker does

    def publish(
        self,
        process: Process,
        exchange: str,
        routing_key: str,
        message: Message,
        mandatory: bool,
    ) -> Unroutable | Overloaded | None:
        queues = tuple(each.name for each in self.broker._queues_for(exchange, routing_key))
        self.book.published(process, exchange, routing_key, message, queues)
        return self.broker.publish(exchange, routing_key, message, mandatory)

    def lost(self, queue: MemoryQueue, entries: Iterable[Entry]) -> None:
        """Record that the channel of *entries* ended."""
        for entry in entries:
            self.book.lost(queue, entry)


class Lane:
    """One direction of a channel. Its frames arrive in their order."""

    def __init__(self, link: Link, towards: Process, *, up: bool) -> None:
        self._link = link
        self._loop = link.network.loop
        self._towards = towards
        self._up = up
        self._batches: deque[list[Frame]] = deque()
        self._joins_until = 0.0
        self._last_arrival = 0.0
        self._due = 0
        self.severed = False

    def send(self, kind: str, function: Callable[..., object], *args: Any) -> None:
        """Call *function* at the other end, some time later."""
        if self.severed:
            return
        link = self._link
        fault = link.network.watcher.writing(link, kind)
        if fault is not None and fault[0] == "before":
            fault[1]()
            return
        now = self._loop.time()
        if now <= self._joins_until and self._batches:
            self._batches[-1].append((kind, function, args))
        else:
            self._joins_until = now + TOGETHER
            self._last_arrival = max(self._last_arrival, now + TOGETHER + link.delay())
            self._batches.append([(kind, function, args)])
            self._loop.call_at(self._last_arrival, self._arrive, context=self._towards.context)
        if fault is not None:
            fault[1]()

    def sever(self, share: float) -> float:
        """
        Lose later frames, and those on their way but the first *share* of them. Return when the
        last of the others arrives.
        """
        if not self.severed:
            self.severed = True
            frames = [frame for batch in self._batches for frame in batch]
            left = frames[: round(share * len(frames))]
            for batch in self._batches:
                batch[:] = [left.pop(0) for _ in batch[: len(left)]]
        return self._last_arrival

    def _arrive(self) -> None:
        self._due += 1
        self.proceed()

    def proceed(self) -> None:
        """Handle the frames that have arrived. A blocked broker reads no message."""
        broker, link = self._link.network.broker, self._link
        while self._due and self._batches:
            batch = self._batches[0]
            if self._up:
                while batch:
                    kind, function, args = batch[0]
                    if broker.blocked and kind.startswith(("publish", "answer", "copy")):
                        return
                    del batch[0]
                    function(*args)
            elif batch:
                link.lane.received(cast("bytes", partial(self._handle, batch)))
            if self._batches and self._batches[0] is batch:
                self._batches.popleft()
                self._due -= 1

    def _handle(self, batch: list[Frame]) -> None:
        while batch and self._link.process.alive:
            _, function, args = batch.pop(0)
            function(*args)


class _Url:
    """The address of the broker, as errors have it."""

    def redacted(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return "memory://simulated"


class Link:
    """
    A connection of *process*: what ``aiorpc.transports.amqp.link.Link`` is to its channels.

    Attributes:
        lost: done when the process has noticed that the link is lost.
        blocked: whether the process knows that the broker accepts no messages.
        consumers: the broker's consumers of this link.
        on_lost, on_blocked: called in the process.
        lane: aiorpc's writer, which joins frames, and writes acks last.
        attached: the open channels.
        peers: all channels, by number.
    """

    lane: AmqpLane
    refused = None
    url = _Url()
    frame_max = 0

    def __init__(self, network: Network, process: Process, seed: str) -> None:
        self.network = network
        self.process = process
        self.random = random.Random(seed).random
        self.lost: asyncio.Future[str] = network.loop.create_future()
        self.blocked = False
        self.attached = OrderedSet()
        self.peers: dict[int, Peer] = {}
        self._numbers = 0
        self.consumers: list[MemoryConsumer] = []
        self.on_lost: Callable[[], None] = lambda: None
        self.on_blocked: Callable[[], None] = lambda: None
        self._lanes: list[Lane] = []
        self.severed = False
        self._open = self._deaf = False

    @property
    def here(self) -> bool:
        """Whether the broker has not noticed that the link is lost."""
        return self._open

    @property
    def blocked_reason(self) -> str | None:
        return "low on memory" if self.blocked else None

    @property
    def answers(self) -> bool:
        """Whether the broker may answer."""
        return not (self.lost.done() or self.blocked)

    def new_channel(self, peer: Peer) -> int:
        """Add a channel, and return its number."""
        self._numbers += 1
        self.peers[self._numbers] = peer
        return self._numbers

    def keep_consumer(self, consumer: MemoryConsumer) -> None:
        """Requeue what *consumer* did not ack when the link ends."""
        self.consumers = [
            each for each in self.consumers if each.unacked or each in each.queue.consumers
        ]
        self.consumers.append(consumer)

    async def farewell(self, words: Callable[[], Awaitable[object]]) -> None:
        """Send a request whose answer nobody needs."""
        if self.answers:
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(FAREWELL):
                    await words()

    def hung_up(self, code: int, why: str) -> None:
        self.network.watcher.misused(f"{self.process} failed to read a frame: {code} {why}")

    def congestion_changed(self) -> None:
        """A simulated socket takes everything."""

    def socket_lost(self, error: BaseException | None) -> None:
        """The link is the socket."""

    def delay(self) -> float:
        """Seconds until a frame arrives: mostly short, sometimes long."""
        chance = self.random()
        seconds = 0.0002 + 0.001 * chance
        if chance > 0.97:
            seconds = 0.05 * self.random()
        return seconds * self.network.slow.get(self.process.name, 1.0)

    def open(self) -> None:
        network = self.network
        self._open = True
        network.links.setdefault(self.process, []).append(self)
        network.broker.transports[self] = self._blocked_changed
        self._control = Lane(self, self.process, up=False)
        self._lanes.append(self._control)
        if network.broker.blocked:
            self._blocked_changed()

    def lanes(self) -> tuple[Lane, Lane]:
        """Open a channel: its lane to the broker, and its lane to the process."""
        up = Lane(self, self.network.server, up=True)
        down = Lane(self, self.process, up=False)
        self._lanes += up, down
        if self.severed:
            up.sever(0.0)
        if self.severed or self._deaf:
            down.sever(0.0)
        return up, down

    def closed(self, lanes: tuple[Lane, Lane]) -> None:
        """Forget the lanes of a channel that has ended."""
        for lane in lanes:
            if lane in self._lanes:
                self._lanes.remove(lane)

    def forget(self, peer: Peer) -> None:
        """Forget a channel that has ended."""
        self.peers.pop(peer.number, None)
        self.closed((peer.up, peer.down))

    @contextmanager
    def forgets(self, peer: Peer) -> Generator[None]:
        """Forget the channel at the end of the block."""
        try:
            yield
        finally:
            self.forget(peer)

    async def request(self, kind: str, function: Callable[[], Any], timeout: float = 10.0) -> Any:
        """
        Return, or raise, what *function* does at the broker.

        Raises:
            ConnectionError: the link was lost before the answer.
            TimeoutError: the answer took longer than *timeout* seconds.
        """
        lanes = up, down = self.lanes()
        answer: asyncio.Future[Any] = self.network.loop.create_future()

        def ask() -> None:
            try:
                result, error = function(), None
            except Exception as exc:
                result, error = None, exc
            down.send(kind, told, result, error)

        def told(result: Any, error: Exception | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        up.send(kind, ask)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wait((answer, self.lost), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConnectionError("the link was lost")
            return answer.result()
        finally:
            answer.cancel()
            self.closed(lanes)

    # --- the end

    def deafen(self, seconds: float) -> None:
        """Lose what the broker sends from now on, and the link after *seconds*."""
        if not (self.severed or self._deaf):
            self._deaf = True
            for lane in self._lanes:
                if not lane._up:
                    lane.sever(self.random())
            when = self.network.loop.time() + seconds
            self.network.loop.call_at(when, self.cut, context=self.network.server.context)

    def cut(
        self,
        up: float | None = None,
        down: float | None = None,
        broker_notices: float = 0.0,
        process_notices: float = 0.0,
    ) -> None:
        """
        Lose the link.

        Args:
            up, down: the share of the frames on their way that still arrive; by default random.
            broker_notices, process_notices: seconds until each end notices.
        """
        if self.severed:
            return
        self.severed = True
        loop, now = self.network.loop, self.network.loop.time()
        at_broker, at_process = now + broker_notices, now + process_notices
        for lane in self._lanes:
            share = up if lane._up else down
            arrival = lane.sever(self.random() if share is None else share)
            if lane._up:
                at_broker = max(at_broker, arrival)
            else:
                at_process = max(at_process, arrival)
        loop.call_at(at_broker, self.gone, context=self.network.server.context)
        loop.call_at(at_process, self._notice, context=self.process.context)

    def gone(self) -> None:
        """The broker forgets the link: it requeues what was not acked."""
        if self._open:
            self._open = False
            self.severed = True
            for lane in self._lanes:
                lane.sever(0.0 if lane._up else 1.0)
            broker = self.network.broker
            broker.transports.pop(self, None)
            for consumer in self.consumers:
                self.network.lost(consumer.queue, consumer.unacked)
            broker.disconnect(self, self.consumers)
            self.network.links[self.process].remove(self)

    def _notice(self) -> None:
        self.lose("the connection was lost")

    def lose(self, why: str) -> None:
        """The process learns that the link is lost, or closes it."""
        if self.lost.done():
            return
        self.lost.set_result(why)
        self.on_lost()
        channels = list(self.attached)
        while channels:  # aiorpc has them in a set
            channels.pop(int(self.random() * len(channels))).lost()
        self.attached.clear()
        self.lane.stop()

    def _blocked_changed(self) -> None:
        """The broker's alarm begins or ends."""
        blocked = self.network.broker.blocked
        if not blocked:
            for lane in list(self._lanes):
                if lane._up:
                    self.network.server.soon(lane.proceed)
        self._control.send("blocked", self._told_blocked, blocked)

    def _told_blocked(self, blocked: bool) -> None:
        if self.lost.done():
            return
        self.blocked = blocked
        if not blocked:
            for attached in list(self.attached):
                attached.unblocked()
        self.on_blocked()

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
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from aiorpc.transports.memory.broker import MemoryBroker
from aiorpc.transports.memory.queue import MemoryConsumer
from aiorpc.transports.outgoing import Outgoing

from .loop import Process, SimulationLoop

__all__ = ["Lane", "Link", "Network", "Watcher"]

#: Frames that are written within so many seconds arrive together.
TOGETHER = 30e-6
Frame: TypeAlias = tuple[str, Callable[..., object], tuple[Any, ...]]


class Watcher(Protocol):
    """Sees each frame before it is written, and may cut its link."""

    def writing(self, link: Link, kind: str) -> tuple[str, Callable[[], None]] | None:
        """Return a fault, and whether it strikes ``"before"`` or ``"after"`` this frame."""
        ...

    def refuses(self, link: Link) -> bool:
        """Whether the broker refuses (nacks) the message that it reads now."""
        ...

    def sending(self, outgoing: Outgoing, again: bool) -> None:
        """A client sends the request *outgoing*, perhaps once more."""
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
        self.down: dict[str, asyncio.Future[None]] = {}
        self.slow: dict[str, float] = {}
        self.links: dict[Process, list[Link]] = {}
        self._count = 0

    async def connect(self, process: Process) -> Link:
        """Return a new link; wait until the broker can be reached."""
        self._count += 1
        link = Link(self, process, f"{self.seed} {process.name} {self._count}")
        await asyncio.sleep(link.delay())
        while (down := self.down.get(process.name)) is not None:
            await asyncio.wait((down,))
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
        broker = self._link.network.broker
        while self._due and self._batches:
            batch = self._batches[0]
            while batch:
                kind, function, args = batch[0]
                if self._up and broker.blocked and kind in ("publish", "answer"):
                    return
                del batch[0]
                function(*args)
            if self._batches and self._batches[0] is batch:
                self._batches.popleft()
                self._due -= 1


class Link:
    """
    A connection of *process*.

    Attributes:
        lost: done when the process has noticed that the link is lost.
        blocked: whether the process knows that the broker accepts no messages.
        consumers: the broker's consumers of this link.
        on_lost, on_blocked: called in the process.
    """

    def __init__(self, network: Network, process: Process, seed: str) -> None:
        self.network = network
        self.process = process
        self.random = random.Random(seed).random
        self.lost: asyncio.Future[None] = network.loop.create_future()
        self.blocked = False
        self.consumers: list[MemoryConsumer] = []
        self.on_lost: Callable[[], None] = lambda: None
        self.on_blocked: Callable[[], None] = lambda: None
        self._lanes: list[Lane] = []
        self.severed = False
        self._open = False

    @property
    def here(self) -> bool:
        """Whether the broker has not noticed that the link is lost."""
        return self._open

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
            down.sever(0.0)
        return up, down

    def closed(self, lanes: tuple[Lane, Lane]) -> None:
        """Forget a channel that has ended."""
        for lane in lanes:
            if lane in self._lanes:
                self._lanes.remove(lane)

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
            broker.disconnect(self, self.consumers)
            self.network.links[self.process].remove(self)

    def _notice(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
            self.on_lost()

    def _blocked_changed(self) -> None:
        """The broker's alarm begins or ends."""
        blocked = self.network.broker.blocked
        if not blocked:
            for lane in list(self._lanes):
                if lane._up:
                    self.network.server.soon(lane.proceed)
        self._control.send("blocked", self._told_blocked, blocked)

    def _told_blocked(self, blocked: bool) -> None:
        if not self.lost.done():
            self.blocked = blocked
            self.on_blocked()

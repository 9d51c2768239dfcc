"""
``memory://name``: a transport without a server, for unit tests, notebooks, demos and programs of
one process. This module is one connection to the broker in ``broker``. No I/O.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

from ...exceptions import ConfigurationError, ConnectionLost
from ...logs import logger
from ...wire.message import Exchange, Queue
from ..backlog import Sender
from ..base import Claim, QueueState, Reader, State, Transport
from ..incoming import ConsumerOptions
from ..outgoing import NO_LIMIT, SizeLimit
from .broker import MemoryBroker
from .channel import MemoryChannel
from .claims import MemoryClaim
from .subscription import MemorySubscription, restore

__all__ = ["MemoryTransport"]

log = logger(__name__)

#: Seconds that closing may spend on waiting messages.
CLOSE_TIMEOUT: Final = 2.0

# Brokers with a connected transport, by the id of their loop. A broker keeps its loop alive.
_brokers: WeakValueDictionary[tuple[int, str], MemoryBroker] = WeakValueDictionary()
_brokers_lock = threading.Lock()


def _broker(name: str, loop: asyncio.AbstractEventLoop) -> MemoryBroker:
    """Return the broker *name* in *loop*; ConfigurationError if another loop uses *name*."""
    with _brokers_lock:
        for there in list(_brokers.values()):
            if there.name == name and there.loop is not loop and not there.loop.is_closed():
                raise ConfigurationError(
                    f"{there.url} is in use in another event loop of this process, and cannot "
                    "connect two loops: run both sides in one loop, or use RabbitMQ "
                    "(AMQP_URI: amqp://...). For two independent brokers, use two names, "
                    "such as memory://one and memory://two"
                )
        return _brokers.setdefault((id(loop), name), MemoryBroker(name, loop))


class MemoryTransport(Transport):
    """
    A connection to the broker ``memory://name``. The broker lives while a transport is connected.

    It has RabbitMQ's semantics: topic, direct and fanout exchanges, competing consumers, prefetch,
    acks, requeueing, mandatory returns, expiring messages and queues, dead letters, consumer
    priorities. To use several processes, a program needs only RabbitMQ's URL.

    The broker keeps nothing on disk, so durable and persistent have no effect. It serves one event
    loop of one process: if another loop of the process uses the name, ``start`` raises
    ``ConfigurationError``. All queues are classic queues, which do not count deliveries.

    Args:
        name: transports with one name share a broker.
        max_message_size: bytes of the largest body to send or receive; ``None`` for no limit.

    Attributes:
        reachable: whether the broker can be reached. To simulate an outage, tests set this to false
            and call :meth:`lose` (see :mod:`aiorpc.testing.faults`).
        reconnects: how often the transport has reconnected.
    """

    def __init__(self, name: str = "", *, max_message_size: int | None = None) -> None:
        self.name = name
        self.url = f"memory://{name}"
        self.reachable = True
        self.reconnects = 0
        self._max_message_size = max_message_size or NO_LIMIT
        self._limit = SizeLimit(self._max_message_size)
        super().__init__(
            Sender(
                f"not connected to {self.url}",
                limit=self._limit,
                on_change=self._weigh,
            )
        )
        self._broker: MemoryBroker | None = None
        self._channel: MemoryChannel | None = None
        # Restored after a reconnect.
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._subscriptions: dict[MemorySubscription, None] = {}
        self._connected = asyncio.Event()
        self._closed = False
        self._left = asyncio.Event()

    # --- the connection

    @property
    def broker(self) -> MemoryBroker:
        """The broker, while connected or reconnecting; otherwise raises ``ConnectionLost``."""
        if self._broker is None:
            raise ConnectionLost(f"the transport to {self.url} is not started")
        return self._broker

    @property
    def channel(self) -> MemoryChannel:
        """The channel of this connection; raises ``ConnectionLost`` while disconnected."""
        if self._channel is None:
            raise ConnectionLost(f"the transport is not connected to {self.url}")
        return self._channel

    async def start(self, timeout: float | None = None, *, patient: bool = False) -> None:
        if self._closed:
            raise self._was_closed()
        if self.state is State.CLOSED:
            self._become(State.CONNECTING)
        try:
            self.connect()
            if not self._connected.is_set():
                log.warning("waiting for %s, which cannot be reached", self.url)
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except BaseException as error:
            self._become(State.CLOSED)  # no task runs; ``start`` can be called again
            if isinstance(error, TimeoutError):
                raise ConnectionLost(
                    f"no connection within {timeout:g} s: {self.url} cannot be reached"
                ) from None
            raise
        if self._closed:
            raise self._was_closed()

    async def aclose(self) -> None:
        if self._closed:
            await self._left.wait()
            return
        self._closed = True
        try:
            # Bounded: senders without pauses can keep messages waiting without end.
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._sender.flushed()
        finally:
            self._leave()
            self._subscriptions.clear()
            self._become(State.CLOSED)
            self._connected.set()  # ``start``, ``declare`` and ``subscribe`` stop waiting
            self._left.set()

    def connect(self) -> None:
        """
        Connect, or reconnect, if the broker is reachable and the transport was started.

        Raises:
            ConfigurationError: the name belongs to another event loop.
        """
        if not self.reachable or self.state is not State.CONNECTING or self._connected.is_set():
            return
        broker = self._broker
        if broker is None:
            broker = _broker(self.name, asyncio.get_running_loop())
            broker.transports[self] = self._blocked_changed
            self._broker = broker
        else:
            self.reconnects += 1
        self._channel = MemoryChannel(
            broker,
            self._limit,
            take_back=self._sender.take_back,
            elsewhere=self.send,
            returned=self.returns.take,
        )
        for exchange in self._exchanges.values():
            restore(broker.declare_exchange, exchange)
        for queue in self._queues.values():
            restore(broker.declare_queue, queue, self._channel)
        for subscription in self.subscriptions:
            restore(subscription.consume, self._channel, self.reconnects)
        self._connected.set()
        self._blocked_changed()

    def lose(self) -> None:
        """Lose the connection and its confirms; the broker requeues the unacked messages."""
        if self._connected.is_set() and not self._closed:
            self._connected.clear()
            self._disconnect(f"lost the connection to {self.url}")
            self._become(State.CONNECTING)

    def _disconnect(self, why: str) -> None:
        """End the channel and its consumers; keep the broker."""
        channel, self._channel = self._channel, None
        if channel is not None:
            for subscription in self._subscriptions:
                subscription.disconnected()
            self._sender.pause(why)
            channel.end()

    def _leave(self) -> None:
        """Disconnect for good. The last transport also closes the broker."""
        if self._channel is not None:
            self._channel.settle_all()
        why = str(self._was_closed())
        self._disconnect(why)
        self._sender.close(why)
        broker, self._broker = self._broker, None
        if broker is not None:
            del broker.transports[self]
            if not broker.transports:
                with _brokers_lock:
                    _brokers.pop((id(broker.loop), broker.name), None)
                broker.close()

    def _was_closed(self) -> ConnectionLost:
        return ConnectionLost(f"the transport to {self.url} was closed")

    def _blocked_changed(self) -> None:
        """Pause or resume sending, because the broker stopped or resumed accepting messages."""
        channel = self._channel
        if channel is None:
            return
        if channel.broker.blocked:
            self._sender.pause(f"{self.url} accepts no messages (it is blocked)")
            self._become(State.BLOCKED)
        else:
            self._become(State.CONNECTED)
            channel.unblocked()
            self._sender.resume(channel)

    def _weigh(self) -> None:
        self._congest(self._sender.backlog.crowded)

    # --- topology and queues

    async def _available(self) -> MemoryChannel:
        """Return the channel of this connection; wait until connected."""
        await self._connected.wait()
        if self._closed or self._channel is None:
            raise self._was_closed()
        return self._channel

    async def declare(
        self, exchanges: Sequence[Exchange] = (), queues: Sequence[Queue] = ()
    ) -> Sequence[Exchange]:
        channel = await self._available()
        exchanges = [channel.broker.declare_exchange(each) for each in exchanges]
        self._exchanges.update((exchange.name, exchange) for exchange in exchanges)
        for queue in queues:
            channel.broker.declare_queue(queue, channel)
            self._queues[queue.name] = queue
        return exchanges

    async def type_of(self, queue: Queue) -> str:
        channel = await self._available()
        try:
            there = channel.broker.declare_queue(replace(queue, exchange=Exchange()), channel)
        except ConfigurationError:
            return "classic"
        return "quorum" if there.flags["x-queue-type"] == "quorum" else "classic"

    async def _consume(self, options: ConsumerOptions) -> MemorySubscription:
        subscription = MemorySubscription(
            options, self._max_message_size, lambda it: self._subscriptions.pop(it, None)
        )
        subscription.consume(await self._available(), self.reconnects)
        self._subscriptions[subscription] = None
        return subscription

    @property
    def subscriptions(self) -> Collection[MemorySubscription]:
        return list(self._subscriptions)

    async def inspect(self, queue: str, timeout: float = 0.04) -> QueueState | None:
        channel = self._channel
        return None if channel is None else channel.broker.inspect(queue, channel)

    async def claim(self, name: str) -> Claim | None:
        channel = self.channel
        return None if name in channel.broker.queues else MemoryClaim(name, channel)

    def reader(self, queue: str) -> Reader:
        from .reader import MemoryReader  # only tools read queues

        return MemoryReader(queue, self.channel)

    async def delete(self, queue: str) -> None:
        self._queues.pop(queue, None)
        if self._channel is not None:
            there = self._channel.broker.queues.get(queue)
            if there is not None and there.owner in (None, self._channel):
                self._channel.broker.delete_queue(there)

"""
``memory://name``: a transport without a server, for unit tests, notebooks, demos and programs of
one process. The broker behind it is in ``broker``; here is the side of the one connected.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from ...exceptions import ConfigurationError, ConnectionLost
from ...wire.message import Exchange, Queue
from ..base import Heard, Outgoing, QueueState, Received, State, Transport
from .broker import MemoryBroker
from .queue import Consumer, Entry, MemoryQueue
from .sender import Sender
from .subscription import MemorySubscription, delivering, hearing

__all__ = ["MemoryTransport"]

log = logging.getLogger(__name__)

#: Seconds that :meth:`MemoryTransport.drop_connection` keeps the transport away by default.
RECONNECT_PAUSE: Final = 0.05

# Alive while a transport is connected; by the identity of their loop, which they keep alive.
_brokers: WeakValueDictionary[tuple[int, str], MemoryBroker] = WeakValueDictionary()
_brokers_lock = threading.Lock()


def _broker(name: str, loop: asyncio.AbstractEventLoop) -> MemoryBroker:
    """The broker of *name* in *loop*; ConfigurationError if another loop has one."""
    with _brokers_lock:
        for there in list(_brokers.values()):
            if there.name == name and there.loop is not loop and not there.loop.is_closed():
                raise ConfigurationError(
                    f"{there.url} is in use in another event loop of this process, and it does not "
                    "reach from one loop to another: run both sides in one loop, or use RabbitMQ "
                    "(AMQP_URI: amqp://...). If they are not meant to meet, name them differently, "
                    "as in memory://one and memory://two"
                )
        return _brokers.setdefault((id(loop), name), MemoryBroker(name, loop))


class MemoryTransport(Transport):
    """
    A connection to the broker ``memory://name``. It lives while any transport is connected to it,
    with RabbitMQ's semantics: topic, direct and fanout exchanges, competing consumers, prefetch,
    acks, requeueing, mandatory returns, expiring messages and queues, dead letters, priorities of
    consumers. Whoever outgrows one process changes the URL.

    What it is not: nothing is kept on disk, so durable and persistent mean nothing here; nothing
    crosses a process; and it is of one event loop: where another loop of the process uses the same
    name, ``start`` raises ``ConfigurationError``. All queues are classic ones, which count no
    deliveries.

    For tests, :meth:`drop_connection` breaks the connection, and :attr:`broker` can be blocked.

    Args:
        name: transports of one name meet.
        max_message_size: bytes of body that may be sent; ``None`` for no limit.
    """

    def __init__(self, name: str = "", *, max_message_size: int | None = None) -> None:
        self.name = name
        self.url = f"memory://{name}"
        super().__init__()
        self.reconnects = 0
        self._sender = Sender(self.url, max_message_size, on_crowded=self._weigh)
        self._broker: MemoryBroker | None = None
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._subscriptions: dict[MemorySubscription, None] = {}
        #: Of this connection; also cancelled ones, whose deliveries may not be settled yet.
        self._consumers: set[Consumer] = set()
        self._connected = asyncio.Event()
        self._reachable = True
        self._reconnect: asyncio.TimerHandle | None = None
        self._closed = False

    # --- starting and ending

    @property
    def broker(self) -> MemoryBroker:
        """The broker, once connected for the first time; ``ConnectionLost`` before and after."""
        if self._broker is None:
            raise ConnectionLost(f"the transport to {self.url} is not started")
        return self._broker

    async def start(self, timeout: float | None = None) -> None:
        if self._closed:
            raise self._was_closed()
        if self.state is State.CLOSED:
            self._become(State.CONNECTING)
        if self._reachable and self._broker is None:
            try:
                self._connect()
            except ConfigurationError:
                self._become(State.CLOSED)
                raise
        if not self._connected.is_set():
            log.warning("waiting for %s: it cannot be reached", self.url)
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except TimeoutError:
            self._become(State.CLOSED)
            raise ConnectionLost(
                f"no connection to {self.url} within {timeout:g} s: it cannot be reached"
            ) from None
        except asyncio.CancelledError:
            self._become(State.CLOSED)  # nothing runs; it can be started again
            raise
        if self._closed:
            raise self._was_closed()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._reconnect is not None:
            self._reconnect.cancel()
        self._sender.close(self._was_closed())
        self._leave()
        self._subscriptions.clear()
        self._become(State.CLOSED)
        self._connected.set()  # whoever waits for it sees that it is closed

    def _connect(self) -> None:
        """
        Take up, or take up again, with the broker.

        Raises:
            ConfigurationError: it belongs to another event loop.
        """
        self._reconnect = None
        broker = self._broker
        if broker is None:
            broker = self._broker = _broker(self.name, asyncio.get_running_loop())
            broker.peers.add(self)
        else:
            self.reconnects += 1
        self._restore(broker)
        self._connected.set()
        self.blocked_changed()

    def _restore(self, broker: MemoryBroker) -> None:
        """Everything declared and subscribed, again."""
        for exchange in self._exchanges.values():
            self._try(broker.declare_exchange, exchange)
        for queue in self._queues.values():
            self._try(broker.declare_queue, queue, self)
        for subscription in list(self._subscriptions):
            self._try(self._consume, broker, subscription)

    def _try(self, restore: Callable[..., Any], *args: Any) -> None:
        try:
            restore(*args)
        except ConfigurationError as error:
            log.error("it could not be declared again: %s", error)
        except Exception:
            log.exception("%s: what was declared or subscribed could not be restored", self.url)

    def _disconnect(self) -> None:
        """The broker takes back what this connection had; the broker itself lives on."""
        if self._broker is not None:
            consumers, self._consumers = self._consumers, set()
            for subscription in self._subscriptions:
                subscription.disconnected()
            self._broker.disconnect(self, consumers)

    def _leave(self) -> None:
        """Disconnect for good; whoever is last puts out the light."""
        self._disconnect()
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.peers.discard(self)
            if not broker.peers:
                with _brokers_lock:
                    _brokers.pop((id(broker.loop), broker.name), None)
                broker.close()

    def _was_closed(self) -> ConnectionLost:
        return ConnectionLost(f"the transport to {self.url} was closed")

    # --- broken connections, for tests

    def drop_connection(self, pause: float | None = RECONNECT_PAUSE) -> None:
        """
        Break the connection, as a network does: the broker takes back what is unacked, and confirms
        that have not arrived yet are lost. It is back after *pause* seconds; with ``None``, not
        before :meth:`restore_connection`. Before ``start``: the broker cannot be reached.
        """
        self._reachable = False
        if self._reconnect is not None:
            self._reconnect.cancel()
            self._reconnect = None
        if self._broker is not None and self._connected.is_set():
            self._connected.clear()
            self._disconnect()
            self._sender.lose()
            self._become(State.CONNECTING)
        if pause is not None:
            loop = asyncio.get_running_loop()
            self._reconnect = loop.call_later(pause, self.restore_connection)

    def restore_connection(self) -> None:
        """End what :meth:`drop_connection` began."""
        self._reachable = True
        if self.state is State.CONNECTING and not self._connected.is_set():
            self._connect()

    def hold_confirms(self) -> None:
        """From here on, until the connection breaks, the broker's confirms do not arrive."""
        self._sender.mute = True

    # --- sending

    def send(self, outgoing: Outgoing) -> None:
        """
        As in :class:`~.base.Transport`.

        Raises:
            UnserializableValueError: it cannot be encoded, or is too large, and has no ``settled``
                to be told so.
        """
        self._sender.send(outgoing)

    def retract(self, outgoing: Outgoing) -> bool:
        return self._sender.retract(outgoing)

    def answer(self, consumer: Consumer, entry: Entry, reply: Outgoing) -> bool:
        """See :class:`.subscription.Host`."""
        return self._sender.answer(consumer, entry, reply)

    @property
    def subscriptions(self) -> Collection[MemorySubscription]:
        return list(self._subscriptions)

    @property
    def waiting(self) -> int:
        return len(self._sender.outbox)

    def _weigh(self) -> None:
        self.congested = self._sender.outbox.crowded

    async def drained(self) -> None:
        await self._sender.outbox.roomy()

    # --- topology and queues

    async def _available(self) -> MemoryBroker:
        """The broker, once connected."""
        await self._connected.wait()
        if self._closed or self._broker is None:
            raise self._was_closed()
        return self._broker

    async def declare(
        self, exchanges: Sequence[Exchange] = (), queues: Sequence[Queue] = ()
    ) -> None:
        broker = await self._available()
        for exchange in exchanges:
            broker.declare_exchange(exchange)
            self._exchanges[exchange.name] = exchange
        for queue in queues:
            broker.declare_queue(queue, self)
            self._queues[queue.name] = queue

    async def subscribe(
        self,
        queue: Queue,
        received: Received,
        *,
        prefetch: int = 0,
        keep: bool = False,
        gone: Callable[[], None] | None = None,
        arguments: Callable[[int], dict[str, Any]] | None = None,
    ) -> MemorySubscription:
        deliver = delivering(self, received)
        return await self._begin(
            MemorySubscription(
                self, queue, deliver, prefetch=prefetch, keep=keep, gone=gone, arguments=arguments
            )
        )

    async def listen(
        self,
        queue: Queue,
        heard: Heard,
        *,
        keep: bool = False,
        gone: Callable[[], None] | None = None,
        arguments: Callable[[int], dict[str, Any]] | None = None,
    ) -> MemorySubscription:
        deliver = hearing(heard)
        return await self._begin(
            MemorySubscription(
                self, queue, deliver, prefetch=0, keep=keep, gone=gone, arguments=arguments
            )
        )

    async def _begin(self, subscription: MemorySubscription) -> MemorySubscription:
        self._consume(await self._available(), subscription)
        self._subscriptions[subscription] = None
        return subscription

    def _consume(self, broker: MemoryBroker, subscription: MemorySubscription) -> None:
        self._consumers.add(subscription.consume(broker, self.reconnects))

    def consume_again(self, subscription: MemorySubscription) -> None:
        """The broker cancelled the consumer of *subscription*."""

        def consume(now: float) -> None:
            if self._connected.is_set() and subscription in self._subscriptions:
                self._try(self._consume, broker, subscription)

        broker = self._broker
        if broker is not None and self._connected.is_set():
            log.warning(
                "the broker cancelled the consumer of %s on %s (was the queue deleted?); "
                "consuming again",
                subscription.queue.name,
                self.url,
            )
            broker.soon(consume)

    def forget(self, subscription: MemorySubscription) -> None:
        """*subscription* was cancelled."""
        self._subscriptions.pop(subscription, None)
        self._consumers = {
            each for each in self._consumers if each.unacked or each in each.queue.consumers
        }

    async def inspect(self, queue: str, timeout: float = 0.04) -> QueueState | None:
        if self._broker is None or not self._connected.is_set():
            return None
        return self._broker.inspect(queue, self)

    async def delete(self, queue: str) -> None:
        self._queues.pop(queue, None)
        if self._broker is not None and self._connected.is_set():
            there: MemoryQueue | None = self._broker.queues.get(queue)
            if there is not None and there.owner in (None, self):
                self._broker.delete_queue(there)

    # --- state

    def blocked_changed(self) -> None:
        """See :class:`.broker.Peer`."""
        broker = self._broker
        if broker is None or not self._connected.is_set():
            return
        if broker.blocked:
            self._sender.pause()
            self._become(State.BLOCKED)
        else:
            self._become(State.CONNECTED)
            self._sender.resume(broker)

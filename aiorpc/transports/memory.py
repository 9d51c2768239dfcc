"""
``memory://name``: a transport without a server, for unit tests, notebooks, demos and programs of
one process. The broker behind it is in ``memory_broker``; here is the side of the one connected.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal
from weakref import WeakValueDictionary

from ..exceptions import (
    AioRpcError,
    ConfigurationError,
    ConnectionLost,
    UnserializableValueError,
)
from ..wire.message import Exchange, Queue
from .amqp_outbox import Outbox, settle, settle_soon
from .base import Delivery, Outgoing, QueueState, Received, State, Subscription, Transport
from .memory_broker import Consumer, Entry, MemoryBroker, MemoryQueue
from .memory_message import carried

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


class MemoryDelivery(Delivery):
    """A message that a queue handed out."""

    __slots__ = ("_consumer", "_entry", "_transport")

    def __init__(
        self, transport: MemoryTransport, consumer: Consumer, entry: Entry, now: float
    ) -> None:
        # Carried.copy, without the call
        carried = entry.carried
        self.message = message = carried.message.__copy__()  # type: ignore[attr-defined]
        if message.headers is not None:
            message.headers = carried.copy_headers(message.headers)
        self.exchange = entry.exchange
        self.routing_key = entry.routing_key
        self.redelivered = entry.redelivered
        self.received_at = now
        self._transport = transport
        self._consumer = consumer
        self._entry: Entry | None = entry  # until it is settled

    @property
    def stale(self) -> bool:
        return not self._consumer.open

    def ack(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._consumer.ack(entry)

    def reject(self, *, requeue: bool) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._consumer.reject(entry, requeue=requeue)

    def answer(self, reply: Outgoing) -> None:
        """
        As in :class:`~.base.Delivery`.

        Raises:
            RuntimeError: it was settled before.
            UnserializableValueError: the reply cannot be encoded, or is too large, and has no
                ``settled`` to be told so. The delivery can still be settled.
        """
        entry = self._entry
        if entry is None:
            raise RuntimeError("the delivery was acked, rejected or answered before")
        if self._transport.answer(self._consumer, entry, reply):
            self._entry = None


class MemorySubscription(Subscription):
    """See :meth:`.base.Transport.subscribe` for what the arguments mean."""

    def __init__(
        self,
        transport: MemoryTransport,
        queue: Queue,
        received: Received,
        *,
        prefetch: int,
        keep: bool,
        gone: Callable[[], None] | None,
        arguments: Callable[[int], dict[str, Any]] | None,
    ) -> None:
        self.queue = queue
        self._transport = transport
        self._received = received
        self._prefetch = prefetch
        self._keep = keep
        self._gone = gone
        self._arguments = arguments
        self._consumer: Consumer | None = None
        self._consumed_before = False
        self._cancelled = False

    @property
    def consuming(self) -> bool:
        return self._consumer is not None

    async def cancel(self) -> None:
        self._cancelled = True
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)
        self._transport.forget(self)

    def consume(self, broker: MemoryBroker, reconnects: int) -> Consumer:
        """
        Declare the queue and consume from it.

        Raises:
            ConfigurationError: it is there with other flags, or is somebody else's.
        """
        if self._keep and self._consumed_before and self.queue.name not in broker.queues:
            log.warning("queue %s is gone on %s; declaring it anew", self.queue.name, broker.url)
            self._tell_gone()
        queue = broker.declare_queue(self.queue, self._transport)
        arguments = {} if self._arguments is None else self._arguments(reconnects)
        self._consumed_before = True
        self._consumer = broker.consume(
            queue,
            self._deliver,
            self._on_cancelled,
            prefetch=self._prefetch,
            priority=arguments.get("x-priority", 0),
        )
        return self._consumer

    def disconnected(self) -> None:
        """The connection is lost, and the consumer with it."""
        self._consumer = None

    def _deliver(self, consumer: Consumer, entry: Entry, now: float) -> None:
        self._received(MemoryDelivery(self._transport, consumer, entry, now))

    def _on_cancelled(self) -> None:
        self._consumer = None
        if not self._cancelled:
            self._transport.consume_again(self)

    def _tell_gone(self) -> None:
        if self._gone is not None:
            try:
                self._gone()
            except Exception:
                log.exception("the owner of queue %s failed when told it is gone", self.queue.name)


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
        self.state = State.CLOSED
        self.reconnects = 0
        self._max_message_size = max_message_size or 1 << 62
        self._broker: MemoryBroker | None = None
        self._listeners: list[Callable[[State], None]] = []
        self._outbox = Outbox(f"not connected to {self.url}")
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._subscriptions: dict[MemorySubscription, None] = {}
        #: Of this connection; also cancelled ones, whose deliveries may not be settled yet.
        self._consumers: set[Consumer] = set()
        #: Sent, and its sender not told yet: with the error, and the delivery that it answers.
        self._sent: deque[tuple[Outgoing, AioRpcError | None, tuple[Consumer, Entry] | None]]
        self._sent = deque()
        self._sent_scheduled = False
        #: Answers that wait for the broker to take messages again.
        self._held: list[tuple[Consumer, Entry, Outgoing]] = []
        self._connected = asyncio.Event()
        self._reachable = True
        self._reconnect: asyncio.TimerHandle | None = None
        self._mute = False
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
        error = self._was_closed()
        if not self._mute:
            self._settle_sent(0.0)
        unsent = [outgoing for _, _, outgoing in self._held]
        unsent += [outgoing for outgoing, _, _ in self._sent]
        self._held.clear()
        self._sent.clear()
        self._leave()
        for outgoing in unsent:
            settle(outgoing, error)
        self._outbox.fail(error)
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
        self._become(State.BLOCKED if broker.blocked else State.CONNECTED)
        self._connected.set()
        self._send_waiting()

    def _restore(self, broker: MemoryBroker) -> None:
        """Everything declared and subscribed, again."""
        for exchange in self._exchanges.values():
            self._try(broker.declare_exchange, exchange)
        for queue in self._queues.values():
            self._try(broker.declare_queue, queue, self)
        for subscription in list(self._subscriptions):
            self._try(self._consume, broker, subscription)

    def _try(self, declare: Callable[..., Any], *args: Any) -> None:
        try:
            declare(*args)
        except ConfigurationError as error:
            log.error("it could not be declared again: %s", error)

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
            self._become(State.CONNECTING)
            self._sort_out_unconfirmed()
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
        self._mute = True

    def _sort_out_unconfirmed(self) -> None:
        """Send again what was not confirmed, if its sender agrees."""
        self._mute = False
        sent, self._sent = self._sent, deque()
        returning = []
        for outgoing, _, _ in sent:
            if not outgoing.confirm:
                settle_soon(outgoing, None)
                continue
            message = None if outgoing.again is None else outgoing.again(outgoing.message)
            if message is None:
                settle_soon(outgoing, _unconfirmed(outgoing))
            else:
                outgoing.message = message
                returning.append(outgoing)
        # Their deliveries went back to the queue: only the answers are sent.
        returning += [outgoing for _, _, outgoing in self._held]
        self._held.clear()
        self._outbox.put_back(returning)

    # --- sending

    def send(self, outgoing: Outgoing) -> None:
        """
        As in :class:`~.base.Transport`.

        Raises:
            UnserializableValueError: it cannot be encoded, or is too large, and has no ``settled``
                to be told so.
        """
        self._send(outgoing, None)

    def _send(self, outgoing: Outgoing, answers: tuple[Consumer, Entry] | None) -> bool:
        """Send, or keep for later; ``False`` if it can never be sent."""
        message = outgoing.message
        try:
            if len(message.body) > self._max_message_size:
                raise _too_large(outgoing, self._max_message_size)
            if self.state is not State.CONNECTED or self._broker is None:
                carried(message)
                self._keep(outgoing)
                return True
            error = self._broker.publish(
                outgoing.exchange, outgoing.routing_key, message, outgoing.mandatory
            )
        except UnserializableValueError as error:
            if outgoing.settled is None:
                raise
            settle_soon(outgoing, error)
            return False
        if outgoing.confirm or outgoing.settled is not None or error is not None:
            self._sent.append((outgoing, error, answers))
            if not self._sent_scheduled:
                self._sent_scheduled = True
                self._broker.soon(self._settle_sent)
        return True

    def _keep(self, outgoing: Outgoing) -> None:
        if self._closed:
            settle_soon(outgoing, self._was_closed())
        else:
            self._outbox.add(outgoing)

    def _settle_sent(self, now: float) -> None:
        """The broker's confirms and returns arrive."""
        self._sent_scheduled = False
        if self._mute:
            return
        for _ in range(len(self._sent)):
            outgoing, error, answers = self._sent.popleft()
            if answers is not None:
                answers[0].ack(answers[1])
            if not outgoing.confirm:
                settle(outgoing, None)  # it was written
                if error is None:
                    continue
            settle(outgoing, error)

    def _send_waiting(self) -> None:
        while self.state is State.CONNECTED and (outgoing := self._outbox.take()) is not None:
            try:
                self._send(outgoing, None)
            except UnserializableValueError as error:  # what `again` made of it
                settle(outgoing, error)

    def answer(self, consumer: Consumer, entry: Entry, reply: Outgoing) -> bool:
        """See :meth:`.base.Delivery.answer`; ``False`` if *reply* can never be sent."""
        if not consumer.open:
            return self._send(reply, None)
        if self.state is State.BLOCKED:
            self._held.append((consumer, entry, reply))
            return True
        if reply.confirm:
            return self._send(reply, (consumer, entry))
        sent = self._send(reply, None)
        if sent:
            consumer.ack(entry)
        return sent

    async def publish(self, outgoing: Outgoing, timeout: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[AioRpcError | None] = loop.create_future()
        tell = outgoing.settled

        def on_settled(error: AioRpcError | None) -> None:
            if not settled.done():
                settled.set_result(error)
            if tell is not None:
                tell(error)

        outgoing.settled = on_settled
        if timeout is not None:
            at = loop.time() + timeout
            outgoing.expires_at = min(at, outgoing.expires_at or at)
        self.send(outgoing)
        try:
            async with asyncio.timeout(timeout):
                error = await settled
        except TimeoutError:
            error = ConnectionLost(
                f"a message to exchange {outgoing.exchange!r}, key {outgoing.routing_key!r}, was "
                f"not confirmed within {timeout:g} s: {self.url} is {self.state.value}"
            )
        finally:
            if not settled.done() or settled.cancelled():
                # Nobody waits any more: it shall not leave later, nor again.
                outgoing.again = None
                self._outbox.discard(outgoing)
        if error is not None:
            raise error

    @property
    def congested(self) -> bool:
        return self._outbox.crowded

    async def drained(self) -> None:
        await self._outbox.roomy()

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
        acks: Literal["each", "joined"] = "each",
        keep: bool = False,
        gone: Callable[[], None] | None = None,
        arguments: Callable[[int], dict[str, Any]] | None = None,
    ) -> MemorySubscription:
        subscription = MemorySubscription(
            self,
            queue,
            received,
            prefetch=prefetch,
            keep=keep,
            gone=gone,
            arguments=arguments,
        )
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

    def on_state(self, listener: Callable[[State], None]) -> Callable[[], None]:
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def blocked_changed(self) -> None:
        """See :class:`.memory_broker.Peer`."""
        if self._broker is None or not self._connected.is_set():
            return
        if self._broker.blocked:
            self._become(State.BLOCKED)
            return
        self._become(State.CONNECTED)
        held, self._held = self._held, []
        for consumer, entry, reply in held:
            try:
                self.answer(consumer, entry, reply)
            except UnserializableValueError as error:
                log.error("a reply could not be sent, its request is dropped: %s", error)
                consumer.reject(entry, requeue=False)
        self._send_waiting()

    def _become(self, state: State) -> None:
        if state is self.state:
            return
        self.state = state
        for listener in list(self._listeners):
            try:
                listener(state)
            except Exception:
                log.exception("a listener failed when the transport became %s", state.value)


def _unconfirmed(outgoing: Outgoing) -> ConnectionLost:
    return ConnectionLost(
        f"the connection broke before a message to exchange {outgoing.exchange!r}, key "
        f"{outgoing.routing_key!r}, was confirmed; it may have been delivered"
    )


def _too_large(outgoing: Outgoing, limit: int) -> UnserializableValueError:
    return UnserializableValueError(
        f"a message to exchange {outgoing.exchange!r}, key {outgoing.routing_key!r}, has "
        f"{len(outgoing.message.body)} bytes, and MAX_MESSAGE_SIZE is {limit}: send less, send it "
        "in parts, or raise the limit"
    )

"""
A transport over the simulated network, with the rules of ``aiorpc.transports.amqp`` and the broker
of ``memory://``: what is sent, acked and answered takes time, and can be lost on its way.

Only ``Sender``, ``Outgoing`` and the rules to settle and re-send are aiorpc's own. The AMQP
transport is not simulated: its sockets and aiormq are tested on RabbitMQ.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from aiorpc.exceptions import (
    AioRpcError,
    ConfigurationError,
    ConnectionLost,
    Overloaded,
    UnserializableValueError,
)
from aiorpc.transports.base import QueueState, State, Transport
from aiorpc.transports.incoming import ConsumerOptions, Delivery, Subscription
from aiorpc.transports.memory.message import carried
from aiorpc.transports.memory.queue import Entry, MemoryConsumer
from aiorpc.transports.outbox import Sender
from aiorpc.transports.outgoing import (
    NO_LIMIT,
    Outgoing,
    SizeLimit,
    check_size,
    refuse,
    resend,
    settle,
    settle_soon,
)
from aiorpc.wire.copies import was_resent
from aiorpc.wire.message import Exchange, Message, Queue

from .loop import PROCESS
from .network import Link, Network

__all__ = ["SimulatedTransport"]

#: Seconds between two attempts to connect or to consume; doubled up to the last one.
BACKOFF = (0.1, 0.2, 0.5, 1.0)
#: Seconds that a request to the broker may take when the transport closes.
FAREWELL = 2.0
#: Answers that a channel without a prefetch count keeps.
UNREAD = 1000


class Publishing:
    """The channel on which a transport sends, like ``amqp.channel.Channel``."""

    def __init__(self, link: Link, limit: SizeLimit) -> None:
        self.link = link
        self.open = True
        self.unconfirmed: dict[int, Outgoing] = {}
        self.lanes = self._up, self._down = link.lanes()
        self._limit = limit
        self._published = 0
        self._settled = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self.open and not self.link.blocked and not self.link.lost.done()

    @property
    def idle(self) -> bool:
        return not self.unconfirmed

    async def drained(self) -> None:
        """A simulated socket takes everything."""

    async def all_confirmed(self) -> None:
        while self.unconfirmed and self.open:
            self._settled.clear()
            await self._settled.wait()

    def publish(self, outgoing: Outgoing) -> None:
        check_size(outgoing, self._limit)
        message = carried(outgoing.message).message
        self._published = tag = self._published + 1
        if was_resent(message):
            self.link.network.watcher.sending_again(outgoing)
        answers = outgoing.confirm or outgoing.mandatory
        if answers:
            self.unconfirmed[tag] = outgoing
        if not outgoing.confirm and outgoing.settled is not None:
            settle_soon(outgoing, None)
        self._up.send(
            "publish",
            self._at_broker,
            tag,
            outgoing.exchange,
            outgoing.routing_key,
            message,
            outgoing.mandatory,
            answers,
        )

    def _at_broker(
        self,
        tag: int,
        exchange: str,
        routing_key: str,
        message: Message,
        mandatory: bool,
        answers: bool,
    ) -> None:
        network = self.link.network
        error: AioRpcError | None
        if answers and network.watcher.refuses(self.link):
            error = Overloaded("the broker refused a message (basic.nack)")
        else:
            error = network.broker.publish(exchange, routing_key, message, mandatory)
        if answers:
            self._down.send("confirm", self._confirmed, tag, error)

    def _confirmed(self, tag: int, error: AioRpcError | None) -> None:
        outgoing = self.unconfirmed.pop(tag, None)
        if outgoing is None:
            return
        if error is None:
            if outgoing.confirm and outgoing.settled is not None:
                settle(outgoing, None)
        elif outgoing.confirm or not isinstance(error, Overloaded):
            settle(outgoing, error)
        if not self.unconfirmed:
            self._settled.set()

    def end(self, take_back: Callable[[Any], None]) -> None:
        """The link is lost: re-send the unconfirmed messages whose senders agree."""
        self.open = False
        unconfirmed, self.unconfirmed = self.unconfirmed, {}
        self._settled.set()
        again = (resend(outgoing) for outgoing in unconfirmed.values())
        take_back(outgoing for outgoing in again if outgoing is not None)


class SimulatedDelivery(Delivery, eq=False):
    """A message on a consuming channel; *entry* is ``None`` once it was settled."""

    channel: Consuming
    consumer: MemoryConsumer
    entry: Entry | None

    @property
    def stale(self) -> bool:
        return not self.channel.open or self.channel.link.lost.done()

    def ack(self) -> None:
        entry, self.entry = self.entry, None
        if entry is not None and self.channel.open:
            self.channel.up.send("ack", self.consumer.ack, entry)

    def reject(self, *, requeue: bool) -> None:
        entry, self.entry = self.entry, None
        if entry is not None and self.channel.open:
            self.channel.up.send("reject", partial(self.consumer.reject, entry, requeue=requeue))

    def requeue(self) -> None:
        self.reject(requeue=True)

    def answer(self, reply: Outgoing) -> bool:
        if self.entry is None:
            raise RuntimeError("the delivery was acked, rejected or answered before")
        current = self.channel.open
        if reply.confirm and current:
            self._answer_confirmed(reply)
        elif self.channel.answer(self.consumer, self.entry, reply):
            self.entry = None
        return current

    def _answer_confirmed(self, reply: Outgoing) -> None:
        channel = self.channel
        if not channel.sendable(reply):
            return
        entry, self.entry = self.entry, None

        def settled(error: AioRpcError | None) -> None:
            self.entry = entry
            reply.closes = apart.closes
            if error is None and self.stale:
                error = ConnectionLost(f"the delivery that {reply.description} answers is lost")
            if error is not None:
                settle(reply, error)
                return
            self.ack()
            if reply.settled is not None:
                channel.after_acks(partial(settle, reply, None))

        apart = Outgoing(
            exchange=reply.exchange,
            routing_key=reply.routing_key,
            message=reply.message,
            mandatory=reply.mandatory,
            expires_at=reply.expires_at,
            again=reply.again,
            settled=settled,
        )
        channel.elsewhere(apart)


class Consuming:
    """A channel with one consumer, like ``amqp.consumer.ConsumerChannel``."""

    def __init__(
        self, link: Link, options: ConsumerOptions, limit: SizeLimit, send: Callable[..., None]
    ) -> None:
        self.link = link
        self.options = options
        self.open = True
        self.elsewhere = send
        self.lanes = self.up, self._down = link.lanes()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.consumer: MemoryConsumer | None = None
        self._limit = limit
        self._unread: deque[Outgoing] = deque(maxlen=options.prefetch or UNREAD)
        self._held: list[tuple[MemoryConsumer, Entry, Outgoing]] = []
        self._refused: list[SimulatedDelivery] | None = None
        self._requeues = False
        self._waiting: dict[Callable[[], None], None] = {}

    # --- at the broker

    def consume(self, consumed_before: bool, reconnects: int) -> bool:
        """Declare and consume; return whether the queue was deleted meanwhile."""
        options, broker = self.options, self.link.network.broker
        gone = options.keep and consumed_before and options.queue.name not in broker.queues
        queue = broker.declare_queue(options.queue, self.link)
        arguments = {} if options.arguments is None else options.arguments(reconnects)
        self.consumer = consumer = MemoryConsumer(
            queue,
            self._deliver,
            lambda: self._down.send("cancelled", self._cancelled),
            options.prefetch or float("inf"),
            arguments.get("x-priority", 0),
        )
        self.link.consumers = [
            each for each in self.link.consumers if each.unacked or each in each.queue.consumers
        ]
        self.link.consumers.append(consumer)
        queue.add_consumer(consumer)
        return gone

    def stop_consuming(self) -> None:
        if self.consumer is not None:
            self.consumer.queue.remove_consumer(self.consumer)

    def close_at_broker(self) -> None:
        """Close the channel, as RabbitMQ does when an ack takes too long."""
        consumer = self.consumer
        if consumer is None or not self.open or not self.link.here:
            return
        self.up.sever(0.0)
        consumer.open = False
        unacked, consumer.unacked = consumer.unacked, set()
        consumer.queue.remove_consumer(consumer)
        consumer.queue.requeue(unacked)
        self._down.send("close", self.end)

    def _deliver(self, consumer: MemoryConsumer, entry: Entry) -> None:
        self._down.send(
            "deliver", self._delivered, consumer, entry, entry.carried.copy(), entry.redelivered
        )

    # --- in the process

    def _delivered(
        self, consumer: MemoryConsumer, entry: Entry, message: Message, redelivered: bool
    ) -> None:
        if not self.open:
            return
        if self.options.listens and self._refused is None:
            try:
                self.options.handler(message)
            finally:
                self.up.send("ack", consumer.ack, entry)
            return
        delivery = SimulatedDelivery(
            message, entry.exchange, entry.routing_key, redelivered, self, consumer, entry
        )
        if self._refused is not None:
            self._refused.append(delivery)
            if self._requeues:
                self.requeue_refused()
            return
        self.options.handler(delivery)

    def refuse(self) -> None:
        self._refused = []

    def requeue_refused(self) -> None:
        self._requeues = True
        refused, self._refused = self._refused or [], []
        for delivery in refused:
            self.options.requeue(delivery)

    def _cancelled(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def sendable(self, reply: Outgoing) -> bool:
        try:
            check_size(reply, self._limit)
            carried(reply.message)
        except UnserializableValueError as error:
            refuse(reply, error)
            return False
        return True

    def answer(self, consumer: MemoryConsumer, entry: Entry, reply: Outgoing) -> bool:
        """Publish *reply*, then ack; return whether the delivery settles."""
        if not self.open:
            self.elsewhere(reply)
            return True
        if not self.sendable(reply):
            return False
        if self.link.blocked:
            self._held.append((consumer, entry, reply))
            return True
        broker, message = self.link.network.broker, carried(reply.message).message
        self.up.send("answer", broker.publish, reply.exchange, reply.routing_key, message, False)
        self._unread.append(reply)
        self.up.send("ack", consumer.ack, entry)
        return True

    def unblocked(self) -> None:
        held, self._held = self._held, []
        for consumer, entry, reply in held:
            self.answer(consumer, entry, reply)

    def after_acks(self, function: Callable[[], None]) -> None:
        """Call *function* when the broker has read the acks, or the channel has ended."""
        self._waiting[function] = None

        def told() -> None:
            if function in self._waiting:
                del self._waiting[function]
                function()

        self.up.send("read", lambda: self._down.send("read", told))

    def end(self) -> None:
        """The link is lost, or the broker closed the channel: keep the answers it may not have."""
        if not self.open:
            return
        self.open = False
        self._cancelled()
        held, self._held = self._held, []
        for _, _, reply in held:
            settle(reply, ConnectionLost(f"{reply.description} was not sent yet"))
            self.elsewhere(reply)
        unread, self._unread = list(self._unread), deque(maxlen=self._unread.maxlen)
        for reply in unread:
            settle(reply, ConnectionLost(f"{reply.description} may not have arrived"))
        waiting, self._waiting = list(self._waiting), {}
        for function in waiting:
            function()
        self.link.closed(self.lanes)


class SimulatedSubscription(Subscription):
    """A consumer that survives its link, like ``amqp.subscription.AmqpSubscription``."""

    def __init__(self, transport: SimulatedTransport, options: ConsumerOptions) -> None:
        super().__init__(options)
        self._transport = transport
        self.channel: Consuming | None = None
        self._consuming = False
        self._consumed_before = False
        self._tried_on: Link | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        self._cancelling: asyncio.Task[None] | None = None

    @property
    def consuming(self) -> bool:
        return self._consuming and self.channel is not None and self.channel.open

    async def ready(self) -> None:
        try:
            await asyncio.wait((self._ready,))
            self._ready.result()
        except BaseException:
            await self.cancel()
            raise

    def tried(self, link: Link) -> bool:
        return self._tried_on is link or self._task.done()

    async def cancel(self) -> None:
        if self._cancelling is None:
            self._cancelling = asyncio.create_task(self._cancel())
        await asyncio.shield(self._cancelling)

    async def _cancel(self) -> None:
        channel, was_consuming = self.channel, self._consuming
        if channel is not None:
            channel.refuse()
        await self.stop()
        if channel is not None and channel.open:
            if was_consuming:
                with suppress(ConnectionError, TimeoutError):
                    await self._farewell(channel)
            channel.requeue_refused()
        if not self._ready.done():
            self._ready.set_exception(ConnectionLost("the subscription was cancelled"))
            self._ready.exception()
        self._transport.forget(self)

    async def _farewell(self, channel: Consuming) -> None:
        done = asyncio.get_running_loop().create_future()

        def told() -> None:
            if not done.done():
                done.set_result(None)

        def cancel() -> None:
            channel.stop_consuming()
            channel._down.send("cancel-ok", told)

        channel.up.send("cancel", cancel)
        async with asyncio.timeout(FAREWELL):
            await asyncio.wait((done, channel.link.lost), return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """End the task without a message to the broker."""
        self._consuming = False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _set_tried(self, link: Link) -> None:
        self._tried_on = link
        self._transport.tried.set()

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                link = await self._transport.available()
            except ConnectionLost as lost:
                if not self._ready.done():
                    self._ready.set_exception(lost)
                    self._ready.exception()
                return
            try:
                await self._consume(link)
            except ConfigurationError as error:
                if not self._ready.done():
                    self._ready.set_exception(error)
                    return
            except (ConnectionError, TimeoutError):
                pass
            else:
                attempt = 0
                if not self._ready.done():
                    self._ready.set_result(None)
                self._set_tried(link)
                assert self.channel is not None
                await asyncio.wait((self.channel.ended, link.lost), return_when="FIRST_COMPLETED")
            finally:
                self._consuming = False
                self._set_tried(link)
            await asyncio.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)])
            attempt += 1

    async def _consume(self, link: Link) -> None:
        transport = self._transport
        channel = Consuming(link, self.options, transport.limit, transport.send)
        self.channel = channel
        transport.channels[channel] = None
        consume = partial(channel.consume, self._consumed_before, transport.reconnects)
        done = asyncio.get_running_loop().create_future()

        def at_broker() -> None:
            try:
                channel._down.send("consume-ok", told, consume(), None)
            except ConfigurationError as error:
                channel._down.send("consume-ok", told, False, error)

        def told(gone: bool, error: Exception | None) -> None:
            if not done.done():
                done.set_result((gone, error))
            if gone:
                self._declared_again(transport.url)

        channel.up.send("consume", at_broker)
        async with asyncio.timeout(10):
            await asyncio.wait((done, link.lost), return_when="FIRST_COMPLETED")
        if not done.done():
            raise ConnectionError("the link was lost")
        _, error = done.result()
        if error is not None:
            channel.end()
            raise error
        self._consuming = self._consumed_before = True


class SimulatedTransport(Transport):
    """A connection of the current process to the simulated broker, which reconnects."""

    def __init__(self, network: Network, *, max_message_size: int | None = None) -> None:
        self.url = "memory://simulated"
        self.limit = SizeLimit(max_message_size or NO_LIMIT)
        super().__init__(
            Sender(f"not connected to {self.url}", limit=self.limit, on_change=self._weigh)
        )
        self.network = network
        self.process = PROCESS.get()
        self.reconnects = 0
        self.link: Link | None = None
        self.publishing: Publishing | None = None
        #: All channels with a consumer, also of cancelled consumers.
        self.channels: dict[Consuming, None] = {}
        #: Set when a subscription has tried to consume.
        self.tried = asyncio.Event()
        self._available = asyncio.Event()
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._subscriptions: dict[SimulatedSubscription, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None
        self._closed = False
        self._left: asyncio.Task[None] | None = None

    # --- the connection

    async def start(self, timeout: float | None = None) -> None:
        if self._task is None:
            self._started = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self._started))
        assert self._started is not None
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wait((self._started,))
        except BaseException as error:
            await self._end()
            self._become(State.CLOSED)
            if not isinstance(error, TimeoutError):
                raise
            raise ConnectionLost(f"no connection to {self.url} within {timeout:g} s") from None
        if self._closed:
            raise ConnectionLost(f"the transport to {self.url} was closed")

    async def aclose(self) -> None:
        if self._left is None:
            self._left = asyncio.create_task(self._leave())
        await asyncio.shield(self._left)

    async def _leave(self) -> None:
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._sender.flushed()
        for subscription in list(self._subscriptions):
            await subscription.stop()
        link = self.link
        if link is not None and not link.lost.done():
            await self._say_goodbye(link)
        await self._end()
        why = f"the transport to {self.url} was closed"
        if link is not None:
            if not link.lost.done():
                link.lost.set_result(None)
            self._lose(why)
            link.gone()
        self._sender.close(why)
        self._subscriptions.clear()
        self._become(State.CLOSED)
        self._available.set()

    async def _say_goodbye(self, link: Link) -> None:
        """Wait until the broker has read everything."""
        channels = [self.publishing, *(each for each in self.channels if each.open)]
        read = asyncio.get_running_loop().create_future()
        left = len(channels)

        def told() -> None:
            nonlocal left
            left -= 1
            if not left and not read.done():
                read.set_result(None)

        for channel in channels:
            assert channel is not None
            up, down = channel.lanes
            up.send("goodbye", down.send, "goodbye", told)
        await asyncio.wait((read, link.lost), timeout=FAREWELL, return_when="FIRST_COMPLETED")

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._started is not None and not self._started.done():
            self._started.set_result(None)

    async def available(self) -> Link:
        """Return the link; wait until the transport is connected."""
        while True:
            await self._available.wait()
            if self._closed:
                raise ConnectionLost(f"the transport to {self.url} was closed")
            if self.link is not None:
                return self.link

    async def _run(self, started: asyncio.Future[None]) -> None:
        self._become(State.CONNECTING)
        attempt = 0
        while True:
            link = await self.network.connect(self.process)
            link.on_lost, link.on_blocked = partial(self._lost, link), self._blocked_changed
            try:
                await self._resume(link)
                if not started.done():
                    started.set_result(None)
                attempt = 0
                await asyncio.wait((link.lost,))
            except (ConnectionError, TimeoutError):
                link.cut()
            except BaseException:
                if link is not self.link:
                    link.gone()
                raise
            await asyncio.wait((link.lost,))
            self._lost(link)
            self.reconnects += 1
            await asyncio.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)] * link.random())
            attempt += 1

    async def _resume(self, link: Link) -> None:
        await link.request("declare", partial(self._restore, link))
        self.publishing = Publishing(link, self.limit)
        self.link = link
        self._available.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while not (link.lost.done() or all(s.tried(link) for s in self._subscriptions)):
                    self.tried.clear()
                    await self.tried.wait()
        if link.lost.done():
            raise ConnectionError("the link was lost")
        if link.blocked:
            self._become(State.BLOCKED)
        else:
            self._become(State.CONNECTED)
            self._sender.resume(self.publishing)

    def _restore(self, link: Link) -> None:
        broker = self.network.broker
        for exchange in self._exchanges.values():
            broker.declare_exchange(exchange)
        for queue in self._queues.values():
            with suppress(ConfigurationError):
                broker.declare_queue(queue, link)

    def _lost(self, link: Link) -> None:
        self.tried.set()
        if link is self.link:
            self._lose(f"lost the connection to {self.url}")
            if not self._closed:
                self._become(State.CONNECTING)

    def _lose(self, why: str) -> None:
        publishing, self.publishing = self.publishing, None
        self.link = None
        if not self._closed:
            self._available.clear()
        self._sender.pause(why)
        if publishing is not None:
            publishing.end(self._sender.take_back)
        for channel in list(self.channels):
            channel.end()
        self.channels.clear()

    def _blocked_changed(self) -> None:
        link = self.link
        if link is None or self.state not in (State.CONNECTED, State.BLOCKED):
            return
        if link.blocked:
            self._sender.pause(f"{self.url} accepts no messages")
            self._become(State.BLOCKED)
        elif self.publishing is not None:
            self._become(State.CONNECTED)
            for channel in list(self.channels):
                channel.unblocked()
            self._sender.resume(self.publishing)

    def _weigh(self) -> None:
        self._congest(self._sender.outbox.crowded)

    # --- topology and queues

    async def declare(
        self, exchanges: Sequence[Exchange] = (), queues: Sequence[Queue] = ()
    ) -> Sequence[Exchange]:
        def declare() -> list[Exchange]:
            made = [broker.declare_exchange(exchange) for exchange in exchanges]
            for queue in queues:
                broker.declare_queue(queue, link)
            return made

        broker = self.network.broker
        while True:
            link = await self.available()
            try:
                made: list[Exchange] = await link.request("declare", declare)
                break
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(BACKOFF[0])
        self._exchanges.update((exchange.name, exchange) for exchange in made)
        self._queues.update((queue.name, queue) for queue in queues)
        return made

    async def _consume(self, options: ConsumerOptions) -> SimulatedSubscription:
        if self._closed:
            raise ConnectionLost(f"the transport to {self.url} was closed")
        subscription = SimulatedSubscription(self, options)
        self._subscriptions[subscription] = None
        await subscription.ready()
        return subscription

    def forget(self, subscription: SimulatedSubscription) -> None:
        self._subscriptions.pop(subscription, None)

    @property
    def subscriptions(self) -> Collection[SimulatedSubscription]:
        return list(self._subscriptions)

    async def inspect(self, queue: str, timeout: float = 0.04) -> QueueState | None:
        link = self.link
        if link is None:
            return None
        look = partial(self.network.broker.inspect, queue, link)
        try:
            state: QueueState | None = await link.request("inspect", look, timeout)
        except (ConnectionError, TimeoutError):
            return None
        return state

    async def delete(self, queue: str) -> None:
        self._queues.pop(queue, None)
        link, broker = self.link, self.network.broker

        def delete() -> None:
            there = broker.queues.get(queue)
            if there is not None and there.owner in (None, link):
                broker.delete_queue(there)

        if link is not None:
            with suppress(ConnectionError, TimeoutError):
                await link.request("delete", delete, FAREWELL)

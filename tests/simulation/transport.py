"""
A transport over the simulated network, with the rules of ``aiorpc.transports.amqp`` and the broker
of ``memory://``: what is sent, acked and answered takes time, and can be lost on its way.

Only ``Sender``, ``Outgoing`` and the rules to settle and re-send are aiorpc's own. The AMQP
transport is not simulated: its sockets and aiormq are tested on RabbitMQ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial

from aiorpc.exceptions import ConfigurationError, ConnectionLost
from aiorpc.transports.base import QueueState, State, Transport
from aiorpc.transports.claims import Claim
from aiorpc.transports.incoming import ConsumerOptions, Subscription
from aiorpc.transports.outbox import Sender
from aiorpc.transports.outgoing import NO_LIMIT, SizeLimit
from aiorpc.wire.message import Exchange, Queue

from .channels import Consuming, Publishing
from .claims import SimulatedClaim
from .loop import PROCESS
from .network import Link, Network

__all__ = ["SimulatedTransport"]

#: Seconds between two attempts to connect or to consume; doubled up to the last one.
BACKOFF = (0.1, 0.2, 0.5, 1.0)
#: Seconds that a request to the broker may take when the transport closes.
FAREWELL = 2.0


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
        #: The channels of claims.
        self.claims: list[Publishing] = []
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._subscriptions: dict[SimulatedSubscription, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None
        self._closed = False
        self._left: asyncio.Task[None] | None = None

    # --- the connection

    async def start(self, timeout: float | None = None, *, patient: bool = False) -> None:
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
        for claimed in self.claims:
            claimed.end(lambda returning: list(returning))
        for channel in list(self.channels):
            channel.end()
        self.claims.clear()
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

    async def claim(self, name: str) -> Claim | None:
        link, publishing = self.link, self.publishing
        if link is None or publishing is None:
            raise ConnectionLost(f"{name} cannot be claimed without a connection to {self.url}")
        # On a channel of its own: its messages fail with it, and are not sent again.
        claim = await SimulatedClaim.of(name, link, Publishing(link, self.limit))
        if claim is not None:
            self.claims.append(claim.publishing)
        return claim

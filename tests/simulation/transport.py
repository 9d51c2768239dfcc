"""
A transport over the simulated network and the broker of ``memory://``: what is sent, acked and
answered takes time, and can be lost on its way.

The channels, their lane, ``Sender`` and ``Outgoing`` are those of ``aiorpc.transports.amqp``. The
transport and its subscriptions follow the supervisor and ``AmqpSubscription``, which need aiormq:
they are tested on RabbitMQ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from aiorpc.exceptions import ConfigurationError, ConnectionLost
from aiorpc.transports.amqp.channel import Channel
from aiorpc.transports.amqp.consumer import ConsumerChannel
from aiorpc.transports.backlog import Sender
from aiorpc.transports.base import QueueState, Reader, State, Transport
from aiorpc.transports.claims import Claim
from aiorpc.transports.incoming import ConsumerOptions, Subscription
from aiorpc.transports.outgoing import NO_LIMIT, SizeLimit
from aiorpc.wire.message import Exchange, Queue

from .channels import connect, consuming, publishing
from .claims import SimulatedClaim
from .determinism import OrderedSet
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
        self.channel: ConsumerChannel | None = None
        self._consuming = False
        self._consumed_before = False
        self._tried_on: Link | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        self._cancelling: asyncio.Task[None] | None = None
        self._closing = OrderedSet()

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
            if was_consuming and channel.link.answers:
                await channel.link.farewell(peer_of(channel).basic_cancel)
            elif was_consuming:
                channel.cancel_unanswered("")
            channel.requeue_refused()
            channel.when_idle(partial(self._close_soon, channel))
        if not self._ready.done():
            self._ready.set_exception(ConnectionLost("the subscription was cancelled"))
            self._ready.exception()
        self._transport.forget(self)

    def _close_soon(self, channel: ConsumerChannel) -> None:
        if channel.open and channel.link.answers:
            task = asyncio.create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        """End the task without a message to the broker."""
        self._consuming = False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def close(self) -> None:
        """End all tasks, because the connection closes."""
        await self.stop()
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

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
                ends: tuple[asyncio.Future[Any], ...] = self.channel.ended, self.channel.cancelled
                await asyncio.wait(ends, return_when="FIRST_COMPLETED")
            finally:
                self._consuming = False
                self._set_tried(link)
            await asyncio.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)])
            attempt += 1

    async def _consume(self, link: Link) -> None:
        transport, channel = self._transport, self.channel
        if channel is None or not channel.open or channel.link is not link:
            self.channel = channel = transport.open_consumer(self.options, link)
        if channel.cancelled.done():
            channel.cancelled = channel.loop.create_future()
        gone = partial(self._declared_again, transport.url)
        try:
            await peer_of(channel).consume(
                self.options, self._consumed_before, transport.reconnects, gone
            )
        except ConfigurationError:
            channel.lost()
            raise
        self._consuming = self._consumed_before = True


def peer_of(channel: Channel) -> Any:
    """Return what stands for aiormq's channel."""
    return channel.amqp


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
        self.publishing: Channel | None = None
        #: Set when a subscription has tried to consume.
        self.tried = asyncio.Event()
        self._available = asyncio.Event()
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._subscriptions: dict[SimulatedSubscription, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None
        self._closed = self._resumed = False
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
        link = self.link
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                if link is not None and link.answers:
                    await self._sender.flushed()
                    for channel in list(link.attached):
                        await channel.all_confirmed()
                    link.lane.flush()
        for subscription in list(self._subscriptions):
            await subscription.close()
        if link is not None and link.answers:
            await self._say_goodbye(link)
        await self._end()
        why = f"the transport to {self.url} was closed"
        if link is not None:
            link.lose(why)
            self._lost(link)
            link.gone()
        self._sender.close(why)
        self._subscriptions.clear()
        self._become(State.CLOSED)
        self._available.set()

    async def _say_goodbye(self, link: Link) -> None:
        """Wait until the broker has read everything."""
        peers = list(link.peers.values())
        read = asyncio.get_running_loop().create_future()
        left = len(peers)

        def told() -> None:
            nonlocal left
            left -= 1
            if not left and not read.done():
                read.set_result(None)

        for peer in peers:
            peer.up.send("goodbye", peer.down.send, "goodbye", told)
        if peers:
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
            link = await self.network.connect(self.process, connect)
            link.on_lost = partial(self._losing, link)
            link.on_blocked = partial(self._blocked_changed, link)
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
            await asyncio.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)] * link.random())
            attempt += 1

    async def _resume(self, link: Link) -> None:
        await link.request("declare", partial(self._restore, link))
        self.publishing = publishing(link, self.limit, self._sender.take_back, self.returns.take)
        self.link = link
        self._available.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while not (link.lost.done() or all(s.tried(link) for s in self._subscriptions)):
                    self.tried.clear()
                    await self.tried.wait()
        if link.lost.done():
            raise ConnectionError("the link was lost")
        self._resumed = True
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

    def _losing(self, link: Link) -> None:
        """Change the state now; the task handles the loss some turns later."""
        self.tried.set()
        if link is self.link and not self._closed:
            self._resumed = False
            self._become(State.CONNECTING)

    def _lost(self, link: Link) -> None:
        if self.link is not link:
            return
        self.link = self.publishing = None
        self._resumed = False
        if self._closed:
            self._sender.pause(f"the transport to {self.url} was closed")
            return
        self._available.clear()
        self.reconnects += 1
        self._sender.pause(f"lost the connection to {self.url}")
        self._become(State.CONNECTING)

    def _blocked_changed(self, link: Link) -> None:
        if link is not self.link or not self._resumed:
            return
        if link.blocked:
            self._sender.pause(f"{self.url} accepts no messages")
            self._become(State.BLOCKED)
        elif self.publishing is not None:
            self._become(State.CONNECTED)
            self._sender.resume(self.publishing)

    def open_consumer(self, options: ConsumerOptions, link: Link) -> ConsumerChannel:
        """Open the channel of a consumer on *link*."""
        return consuming(
            link, options, self.limit, self._sender.take_back, self.send, self.returns.take
        )

    def _weigh(self) -> None:
        self._congest(self._sender.backlog.crowded)

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

    async def type_of(self, queue: Queue) -> str:
        return "classic"

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

    def reader(self, queue: str) -> Reader:
        raise NotImplementedError("nothing that is simulated reads a queue without consuming it")

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
        link = self.link
        if link is None:
            raise ConnectionLost(f"{name} cannot be claimed without a connection to {self.url}")
        return await SimulatedClaim.of(name, link)

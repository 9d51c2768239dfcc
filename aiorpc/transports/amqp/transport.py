"""
RabbitMQ: ``amqp://`` and ``amqps://``. A transport that connects, and connects again.

One task supervises the connection: connect (``dialer``) -> topology -> subscriptions -> what
waited meanwhile -> until it is lost -> again, after a jittered pause. All that happens on one
connection is in ``link``, on one channel in ``channel`` and ``consumer``; how bytes
move is in ``lane``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ...config import BrokerUrl, Settings
from ...exceptions import ConfigurationError, ConnectionLost
from ...wire.message import Exchange, Queue
from ..base import Heard, Outgoing, QueueState, Received, State, Subscription, Transport
from .backoff import Backoff
from .channel import Channel
from .consumer import ConsumerChannel, ListenerChannel
from .dialer import Dialer
from .errors import Refused, quietly, reason
from .link import CLOSE_TIMEOUT, Link
from .sender import Sender
from .subscription import AmqpSubscription
from .topology import Inspector, Topology, delete_queue, misdeclared

__all__ = ["AmqpTransport"]

log = logging.getLogger(__name__)

#: Seconds that subscriptions may take to come back before messages are sent without them.
_SUBSCRIBE_TIMEOUT = 10.0


class AmqpTransport(Transport):
    """
    Args:
        settings: the broker's URLs, TLS, heartbeat, and size limit.
        name: shows in the broker's list of connections.

    Raises:
        ConfigurationError: an ``AMQP_URI`` or ``AMQP_SSL`` that makes no sense.
    """

    def __init__(self, settings: Settings, *, name: str = "aiorpc") -> None:
        super().__init__()
        self.name = name
        self.reconnects = 0
        self.max_message_size = settings.max_message_size
        self._settings = settings
        self.url = settings.broker_urls[0].redacted()
        self._sender = Sender(
            self.url, settings.max_message_size, returned=self._returned, on_crowded=self._weigh
        )
        self._dialer = Dialer(
            settings.broker_urls, name=name, link=self._new_link, failed=self._sender.pause
        )
        self._topology = Topology()
        self._subscriptions: set[AmqpSubscription] = set()
        self._inspector = Inspector(lambda: self._link)
        #: The connection, from when its topology is declared until it is lost.
        self._link: Link | None = None
        self._available: asyncio.Future[Link] | None = None
        self._tried: dict[AmqpSubscription, asyncio.Future[None]] = {}
        self._supervisor: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    # --- starting and ending

    async def start(self, timeout: float | None = None) -> None:
        if self._closing is not None:
            raise ConnectionLost(f"the transport to {self.url} was closed")
        if self._supervisor is None:
            self._started = asyncio.get_running_loop().create_future()
            self._supervisor = asyncio.create_task(
                self._supervise(self._started), name=f"aiorpc: {self.name} to {self.url}"
            )
        assert self._started is not None
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._started)
        except TimeoutError:
            await self._give_up()
            raise ConnectionLost(
                f"no connection to {self.url} within {timeout:g} s: {self._dialer.trouble}"
            ) from None
        except BaseException:
            await self._give_up()
            raise

    async def _give_up(self) -> None:
        """Starting failed: leave nothing running, but let it be tried again."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        self._fail_start("starting it was given up")
        self._become(State.CLOSED)

    def _fail_start(self, why: str) -> None:
        """Tell whoever waits in ``start``."""
        if self._started is not None and not self._started.done():
            self._started.set_exception(ConnectionLost(f"the transport to {self.url}: {why}"))
            self._started.exception()  # whoever waits has it; nobody has to

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"aiorpc: close {self.name}")
        # Shielded: a caller that stops waiting must not leave half of it running.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        was_started = self._supervisor is not None
        self._dialer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._finish_sending()
        await self._inspector.close()
        for subscription in list(self._subscriptions):
            await subscription.stop()
        self._subscriptions.clear()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        if self._available is not None:
            self._available.cancel()
        self._fail_start("it was closed")
        self._sender.close(f"the transport to {self.url} was closed")
        self._become(State.CLOSED)
        if was_started:
            log.info("%s: closed the connection to %s", self.name, self.url)

    async def _finish_sending(self) -> None:
        """Let out what was sent and acked, and wait for the confirms."""
        link = self._link
        if link is None or not link.answers:
            return
        await self._sender.flushed()
        # Also those of subscriptions that were cancelled: answers may be under way on them.
        for channel in list(link.attached):
            if isinstance(channel, Channel):
                await channel.all_confirmed()
        await link.lane.written()

    def _abort(self) -> None:
        """Drop the socket, as a broken network would. For tests."""
        if self._link is not None:
            self._link.abort()

    def drop_connection(self, pause: float | None = 0.05) -> None:
        self._dialer.forbid(pause)
        self._abort()

    def restore_connection(self) -> None:
        self._dialer.allow()

    # --- sending

    def send(self, outgoing: Outgoing) -> None:
        """
        As in :class:`~.base.Transport`.

        Raises:
            UnserializableValueError: it cannot be encoded, or is too large, and has no ``settled``
                to be told so.
        """
        direct = self._sender.direct
        if direct is not None and outgoing.settled is None:
            direct.publish(outgoing)  # the usual way, a step shorter
        else:
            self._sender.send(outgoing)

    def retract(self, outgoing: Outgoing) -> bool:
        outgoing.retracted()
        return self._sender.outbox.discard(outgoing)

    def condition(self) -> str:
        told = super().condition()
        return (
            told
            if self.state in (State.CONNECTED, State.BLOCKED)
            else f"{told} ({self._dialer.trouble})"
        )

    @property
    def subscriptions(self) -> Collection[Subscription]:
        return list(self._subscriptions)

    @property
    def waiting(self) -> int:
        return len(self._sender.outbox)

    def _weigh(self) -> None:
        """Something that decides whether we are congested has changed."""
        link = self._link
        by_link = link is not None and link.lane.congested
        self.congested = by_link or self._sender.outbox.crowded

    async def drained(self) -> None:
        while self.congested:
            if self._sender.outbox.crowded:
                await self._sender.outbox.roomy()
            elif self._link is not None:
                await self._link.lane.drained()

    # --- topology and queues

    async def declare(
        self, exchanges: Sequence[Exchange] = (), queues: Sequence[Queue] = ()
    ) -> None:
        while True:
            link = await self.available()
            try:
                await self._topology.declare(link, exchanges, queues)
            except Refused as refused:
                names = [f"exchange {each.name!r}" for each in exchanges]
                names += [f"queue {each.name!r}" for each in queues]
                raise misdeclared(f"{', '.join(names)} on {link.url}", refused) from None
            except (OSError, TimeoutError) as error:
                if not link.lost.done():
                    raise ConnectionLost(f"{link.url}: {reason(error)}") from error
            else:
                return

    async def subscribe(
        self,
        queue: Queue,
        received: Received,
        *,
        prefetch: int = 0,
        keep: bool = False,
        gone: Callable[[], None] | None = None,
        arguments: Callable[[int], dict[str, Any]] | None = None,
    ) -> Subscription:
        consumer = partial(ConsumerChannel, received=received)
        return await self._consume(queue, consumer, prefetch, keep, gone, arguments)

    async def listen(
        self,
        queue: Queue,
        heard: Heard,
        *,
        keep: bool = False,
        gone: Callable[[], None] | None = None,
        arguments: Callable[[int], dict[str, Any]] | None = None,
    ) -> Subscription:
        listener = partial(ListenerChannel, heard=heard)
        return await self._consume(queue, listener, 0, keep, gone, arguments)

    async def _consume(
        self,
        queue: Queue,
        consumer: Callable[..., ConsumerChannel],
        prefetch: int,
        keep: bool,
        gone: Callable[[], None] | None,
        arguments: Callable[[int], dict[str, Any]] | None,
    ) -> Subscription:
        if self._closing is not None:
            raise ConnectionLost(f"the transport to {self.url} was closed")
        with quietly():
            subscription = AmqpSubscription(
                self,
                self._sender.take_back,
                queue,
                consumer,
                prefetch=prefetch,
                keep=keep,
                gone=gone,
                arguments=arguments,
            )
        self._subscriptions.add(subscription)
        await subscription.ready()
        return subscription

    async def inspect(self, queue: str, timeout: float = 0.04) -> QueueState | None:
        return await self._inspector.inspect(queue, timeout)

    async def delete(self, queue: str) -> None:
        self._topology.forget(queue)
        link = self._link
        if link is None:
            return
        await link.farewell(lambda: delete_queue(link, queue))

    # --- what subscriptions need: see subscription.Host

    async def available(self) -> Link:
        """The link, once there is one whose topology is declared."""
        if self._closing is not None:
            raise ConnectionLost(f"the transport to {self.url} was closed")
        if self._available is None or _is_lost(self._available):
            # Lost, and the supervisor does not know it yet; it must not be had again and again.
            self._available = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.shield(self._available)
        except asyncio.CancelledError:
            if self._available is not None and self._available.cancelled():
                raise ConnectionLost(f"the transport to {self.url} was closed") from None
            raise

    def tried(self, subscription: AmqpSubscription, link: Link) -> None:
        """*subscription* consumes on *link*, or could not."""
        waiting = self._tried.get(subscription)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def ended(self, subscription: AmqpSubscription) -> None:
        """*subscription* was cancelled."""
        self._subscriptions.discard(subscription)
        waiting = self._tried.get(subscription)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)  # nobody needs to wait for it to come back

    # --- the supervisor

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        with quietly():
            self._become(State.CONNECTING)
            backoff = Backoff()
            while True:
                try:
                    link = await self._dialer.dial(backoff, first=not started.done())
                except ConfigurationError as error:
                    started.set_exception(error)
                    return
                self.url = link.url.redacted()
                try:
                    if await self._resume(link):
                        backoff.reset()
                        if not started.done():
                            started.set_result(None)
                        await self._tend(link)
                except Exception:
                    # A bug of ours shall cost a connection, and not the process its broker.
                    log.exception("%s: lost its way with %s; connecting anew", self.name, self.url)
                finally:
                    self._disconnected(link)
                    await link.close()
                await asyncio.sleep(backoff.next())

    def _new_link(self, url: BrokerUrl) -> Link:
        return Link(
            self._settings,
            url,
            name=self.name,
            on_lost=self._on_lost,
            on_blocked=self._on_blocked,
            on_congested=self._weigh,
        )

    async def _resume(self, link: Link) -> bool:
        """Take everything up again on *link*; whether that went well."""
        try:
            await self._topology.restore(link)
            await self._sender.open(link)
        except (Refused, OSError) as error:
            log.debug("%s: could not take up again: %s", self.name, error)
            return False
        self._link = link
        self._weigh()
        loop = asyncio.get_running_loop()
        self._tried = {each: loop.create_future() for each in self._subscriptions}
        if self._available is None or self._available.done():
            self._available = loop.create_future()
        self._available.set_result(link)
        # A reply to what is sent before its queue is declared again would be lost.
        with suppress(TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT):
                for tried in list(self._tried.values()):
                    await _either(tried, link.lost)
        if link.lost.done():
            return False
        log.info("%s: connected to %s", self.name, self.url)
        self._become(State.CONNECTED if link.blocked_reason is None else State.BLOCKED)
        self._sender.resume()
        return True

    async def _tend(self, link: Link) -> None:
        """Return when *link* is lost; until then, replace the publishing channel when it closes."""
        while True:
            publishing = self._sender.channel
            assert publishing is not None
            await _either(link.lost, publishing.ended)
            if link.lost.done():
                return
            log.warning(
                "%s: %s closed the channel that we publish on (%s); opening another",
                self.name,
                self.url,
                publishing.ended.result(),
            )
            try:
                await self._topology.restore(link)  # it may have been an exchange of ours
                await self._sender.open(link)
            except (Refused, OSError) as error:
                log.debug("%s: no channel to publish on: %s", self.name, error)
                link.abort()
                await link.lost
                return
            self._sender.resume()

    def _disconnected(self, link: Link) -> None:
        self._sender.drop()
        if self._link is not link:
            return  # it never came to be used
        self._link = None
        self._weigh()
        if self._available is None or self._available.done():
            self._available = asyncio.get_running_loop().create_future()
        if self._closing is not None:
            return
        self.reconnects += 1
        why = link.lost.result() if link.lost.done() else "it was closed"
        self._dialer.trouble = f"lost the connection to {self.url}: {why}"
        self._sender.pause(self._dialer.trouble)
        log.warning(
            "%s: %s; connecting again (%d messages wait)",
            self.name,
            self._dialer.trouble,
            len(self._sender.outbox),
        )
        self._become(State.CONNECTING)

    def _on_lost(self, link: Link) -> None:
        """At once, for whoever looks; the supervisor sees to it some turns of the loop later."""
        if link is self._link and self._closing is None:
            self._become(State.CONNECTING)

    def _on_blocked(self, link: Link) -> None:
        if link is not self._link:
            return
        if link.blocked_reason is None:
            # Those of subscriptions that were cancelled meanwhile, too: they owe answers.
            for channel in list(link.attached):
                if isinstance(channel, ConsumerChannel):
                    channel.unblocked()
        if self.state not in (State.CONNECTED, State.BLOCKED):
            return
        if link.blocked_reason is not None:
            why = f"{self.url} takes no messages ({link.blocked_reason or 'an alarm'})"
            self._sender.pause(why)
            log.warning("%s: %s", self.name, why)
            self._become(State.BLOCKED)
            return
        log.info("%s: %s takes messages again", self.name, self.url)
        self._become(State.CONNECTED)
        self._sender.resume()


def _is_lost(available: asyncio.Future[Link]) -> bool:
    return available.done() and not available.cancelled() and available.result().lost.done()


async def _either(one: asyncio.Future[Any], other: asyncio.Future[Any]) -> None:
    """Return when one of them is done; neither is cancelled with us."""
    await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)

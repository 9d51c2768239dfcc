"""
RabbitMQ: ``amqp://`` and ``amqps://``. The public side of the modules in this folder.

``supervisor`` keeps the connection and uses ``dialer`` to connect. ``link`` is one connection, and
``lane`` is its socket; ``channel`` and ``consumer`` are channels of a link. A ``subscription`` is a
consumer that survives its connection. ``topology`` declares exchanges and queues. ``resend``
decides which messages are re-sent after a channel ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import aiormq

from ...config import Settings
from ...exceptions import AioRpcError, ConfigurationError, ConnectionLost
from ...logs import logger
from ...wire.message import Exchange, Queue
from ..backlog import Sender
from ..backoff import Backoff
from ..base import (
    REQUEUE,
    Claim,
    QueueState,
    Reader,
    Received,
    State,
    Subscription,
    Transport,
)
from ..incoming import ConsumerOptions
from ..outgoing import NO_LIMIT, SizeLimit
from .channel import Channel
from .claims import Claims
from .consumer import ConsumerChannel
from .errors import Refused, quietly, reason
from .inspector import Inspector
from .link import CLOSE_TIMEOUT, Link
from .listener import ListenerChannel
from .subscription import AmqpSubscription
from .supervisor import Supervisor
from .topology import Topology, delete_queue, misdeclared, type_of, unknown_type

__all__ = ["AmqpTransport"]

log = logger(__name__)

T = TypeVar("T")


#: The limits by URL and MAX_MESSAGE_SIZE: all transports learn from one refusal of a broker.
LIMITS: dict[tuple[str, int], SizeLimit] = {}


class AmqpTransport(Transport):
    """
    Args:
        settings: the broker's URLs, TLS, heartbeat and size limit.
        name: shown in RabbitMQ's list of connections.

    Raises:
        ConfigurationError: ``AMQP_URI`` or ``AMQP_SSL`` is invalid.
    """

    def __init__(self, settings: Settings, *, name: str = "aiorpc") -> None:
        self.name = name
        self.max_message_size = settings.max_message_size or NO_LIMIT
        self.url = settings.broker_urls[0].redacted()
        size = self.max_message_size
        self._limit = LIMITS.setdefault((self.url, size), SizeLimit(size))
        super().__init__(
            Sender(
                f"not connected to {self.url} yet",
                limit=self._limit,
                on_change=self._weigh,
            )
        )
        self._topology = Topology()
        self._subscriptions: set[AmqpSubscription] = set()
        self.supervisor = Supervisor(
            settings,
            name=name,
            topology=self._topology,
            sender=self._sender,
            open_publishing=self._open_publishing,
            become=self._supervised,
            resubscribed=self._resubscribed,
            on_congested=self._weigh,
        )
        self._inspector = Inspector(self.supervisor)
        self._claims = Claims(self.supervisor, self.publish)
        self._closing: asyncio.Task[None] | None = None

    # --- the connection

    async def start(self, timeout: float | None = None, *, patient: bool = False) -> None:
        self.supervisor.dialer.patient = patient
        await self.supervisor.start(timeout)

    def _supervised(self, state: State) -> None:
        self.url = self.supervisor.url
        self._become(state)

    async def _resubscribed(self, link: Link) -> None:
        for subscription in list(self._subscriptions):
            await subscription.tried(link)

    async def aclose(self) -> None:
        if self._closing is None:
            self.supervisor.closing = True
            self._closing = asyncio.create_task(self._close(), name=f"aiorpc: close {self.name}")
        # Shielded: if the caller is cancelled, closing still completes.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        was_running = self.supervisor.running
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._finish_sending()
        await self._inspector.close()
        for subscription in list(self._subscriptions):
            await subscription.stop()
        self._subscriptions.clear()
        await self.supervisor.stop()
        self._sender.close(f"the transport to {self.url} was closed")
        self._become(State.CLOSED)
        if was_running:
            log.info("%s: closed the connection to %s", self.name, self.url)

    async def _finish_sending(self) -> None:
        """Write all messages and acks, and wait for the confirms."""
        link = self.supervisor.link
        if link is None or not link.answers:
            return
        await self._sender.flushed()
        # A cancelled subscription's channel may still have answers to confirm.
        for channel in list(link.attached):
            await channel.all_confirmed()
        await link.lane.written()

    async def _open_publishing(self, link: Link) -> Channel:
        return Channel(
            link,
            await link.channel(),
            max_message_size=self.max_message_size,
            limit=self._limit,
            take_back=self._sender.take_back,
            returned=self.returns.take,
            refused=self.refusals.tell,
        )

    def condition(self) -> str:
        condition = super().condition()
        if self.state in (State.CONNECTED, State.BLOCKED):
            return condition
        return f"{condition} ({self.supervisor.dialer.trouble})"

    @property
    def subscriptions(self) -> Collection[Subscription]:
        return list(self._subscriptions)

    def _weigh(self) -> None:
        """Update ``congested`` after a change of the link, its congestion or the backlog's."""
        link = self.supervisor.link
        by_link = link is not None and link.lane.congested
        self._congest(by_link or self._sender.backlog.crowded)

    # --- topology and queues

    async def declare(
        self, exchanges: Sequence[Exchange] = (), queues: Sequence[Queue] = ()
    ) -> Sequence[Exchange]:
        def declared(link: Link) -> Awaitable[Sequence[Exchange]]:
            return self._topology.declare(link, exchanges, queues)

        return await self._on_link(declared, exchanges, queues)

    async def type_of(self, queue: Queue) -> str:
        return await self._on_link(partial(type_of, queue=queue), (), (queue,), patient=True)

    async def _on_link(
        self,
        ask: Callable[[Link], Awaitable[T]],
        exchanges: Sequence[Exchange],
        queues: Sequence[Queue],
        *,
        patient: bool = False,
    ) -> T:
        """
        Ask the broker on a link, and again while the link is lost or a queue unavailable; with
        *patient*, also if the broker does not answer.
        """
        backoff = Backoff()
        logged = ""
        while True:
            link = await self.supervisor.available()
            trouble: AioRpcError
            try:
                return await ask(link)
            except Refused as refused:
                trouble = _misdeclared(link, exchanges, queues, refused)
                if not refused.unavailable:
                    raise trouble from None
            except (OSError, TimeoutError) as error:
                of_queues = [each.exchange for each in queues]
                if found := unknown_type(link, [*exchanges, *of_queues]):
                    raise _misdeclared(link, exchanges, queues, found) from None
                if link.lost.done():
                    continue
                trouble = ConnectionLost(f"{_named(link, exchanges, queues)}: {reason(error)}")
                if not (patient and isinstance(error, TimeoutError)):
                    raise trouble from error
            if logged != str(trouble):
                logged = str(trouble)
                log.error("%s; trying again", trouble)
            await asyncio.sleep(backoff.next())

    async def _consume(self, options: ConsumerOptions) -> Subscription:
        if self.supervisor.closing:
            raise ConnectionLost(f"the transport to {self.url} was closed")
        opened: Callable[..., ConsumerChannel] = partial(ConsumerChannel, received=options.handler)
        if options.listens:
            opened = partial(ListenerChannel, heard=options.handler)
        with quietly():
            subscription = AmqpSubscription(
                self.supervisor,
                options,
                partial(
                    opened,
                    max_message_size=self.max_message_size,
                    limit=self._limit,
                    prefetch=options.prefetch,
                    requeue=options.requeue,
                    take_back=self._sender.take_back,
                    elsewhere=self.send,
                    returned=self.returns.take,
                ),
                ended=self._subscriptions.discard,
            )
        self._subscriptions.add(subscription)
        await subscription.ready()
        return subscription

    async def inspect(self, queue: str, timeout: float = 0.04) -> QueueState | None:
        return await self._inspector.inspect(queue, timeout)

    async def claim(self, name: str) -> Claim | None:
        return await self._claims.claim(name)

    def reader(self, queue: str) -> Reader:
        from .reader import AmqpReader, ReaderChannel  # only tools read queues

        link = self.supervisor.link
        if link is None:
            raise ConnectionLost(f"queue {queue!r} cannot be read: {self.condition()}")

        def opened(amqp: aiormq.Channel, received: Received) -> ReaderChannel:
            return ReaderChannel(
                link,
                amqp,
                max_message_size=NO_LIMIT,
                limit=self._limit,
                take_back=self._sender.take_back,
                received=received,
                prefetch=0,
                requeue=REQUEUE,
                elsewhere=self.send,
                returned=self.returns.take,
            )

        return AmqpReader(queue, link, opened, self.inspect)

    async def delete(self, queue: str) -> None:
        self._topology.forget(queue)
        link = self.supervisor.link
        if link is not None:
            await link.farewell(lambda: delete_queue(link, queue))


def _misdeclared(
    link: Link, exchanges: Sequence[Exchange], queues: Sequence[Queue], refused: Refused
) -> ConfigurationError:
    return misdeclared(_named(link, exchanges, queues), refused)


def _named(link: Link, exchanges: Sequence[Exchange], queues: Sequence[Queue]) -> str:
    names = [f"exchange {each.name!r}" for each in exchanges]
    names += [f"queue {each.name!r}" for each in queues]
    return f"{', '.join(names)} on {link.url}"

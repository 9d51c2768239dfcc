"""
Declaring exchanges and queues, looking at queues, deleting them. Each on a channel of its own,
since the broker answers an error by closing the channel; or ahead, on the channel that needs the
queue anyway. May import aiormq.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

import aiormq
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.base import Frame

from ...exceptions import ConfigurationError
from ...wire.message import Exchange, Queue
from ..base import QueueState
from .errors import Refused, errors, quietly, refusal
from .link import CLOSE_TIMEOUT, REPLY_TIMEOUT, Link

__all__ = [
    "Inspector",
    "Topology",
    "answered",
    "declare_ahead",
    "declare_queue",
    "delete_queue",
    "misdeclared",
    "queue_exists",
]

log = logging.getLogger(__name__)

#: Seconds in which a channel that is being closed says why: a few turns of the loop.
_CLOSED_WITHIN = 1.0


class Topology:
    """What was declared, to be declared again after every reconnect."""

    def __init__(self) -> None:
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}

    async def declare(
        self, link: Link, exchanges: Iterable[Exchange], queues: Iterable[Queue]
    ) -> None:
        """
        Declare these, and remember them.

        Raises:
            Refused: one of them is there with other flags, or not ours to declare.
            ConnectionError, TimeoutError: the link is gone.
        """
        exchanges, queues = tuple(exchanges), tuple(queues)
        async with link.passing_channel() as channel:
            for exchange in exchanges:
                await _declare_exchange(channel, exchange)
            for queue in queues:
                await _declare_queue(channel, queue)
        self._exchanges.update((exchange.name, exchange) for exchange in exchanges)
        self._queues.update((queue.name, queue) for queue in queues)

    async def restore(self, link: Link) -> None:
        """Declare everything again; what the broker refuses is logged, and the rest goes on."""
        for exchange in list(self._exchanges.values()):
            await self._try(link, f"exchange {exchange.name!r}", (exchange,), ())
        for queue in list(self._queues.values()):
            await self._try(link, f"queue {queue.name!r}", (), (queue,))

    async def _try(
        self, link: Link, what: str, exchanges: tuple[Exchange, ...], queues: tuple[Queue, ...]
    ) -> None:
        try:
            await self.declare(link, exchanges, queues)
        except Refused as refused:
            log.error("%s could not be declared again on %s: %s", what, link.url, refused)

    def forget(self, queue: str) -> None:
        """Do not declare *queue* again."""
        self._queues.pop(queue, None)


async def declare_queue(link: Link, queue: Queue) -> None:
    """
    Declare *queue* with its exchange and binding.

    Raises:
        Refused, ConnectionError, TimeoutError: as :meth:`Topology.declare`.
    """
    async with link.passing_channel() as channel:
        await _declare_queue(channel, queue)


async def queue_exists(link: Link, queue: str) -> bool:
    """
    Whether *queue* is there.

    Raises:
        Refused: it is there, and nobody but another connection may look at it (405).
        ConnectionError, TimeoutError: the link is gone.
    """
    try:
        async with link.passing_channel() as channel:
            await channel.queue_declare(queue, passive=True)
    except Refused as refused:
        if refused.code == 404:
            return False
        raise
    return True


async def delete_queue(link: Link, queue: str) -> None:
    """
    Delete *queue*, if it is there.

    Raises:
        Refused, ConnectionError, TimeoutError: it could not be deleted.
    """
    async with link.passing_channel() as channel:
        await channel.queue_delete(queue, timeout=CLOSE_TIMEOUT)


async def declare_ahead(channel: aiormq.Channel, queue: Queue) -> None:
    """
    Write what declares *queue*, with its exchange and binding, and do not wait: the broker says
    nothing where all is well, and else closes *channel*, which whatever is asked of it next finds.
    See :func:`answered`.
    """
    frames = [*_exchange_frames(queue.exchange, ahead=True), *_queue_frames(queue, ahead=True)]
    await channel.write_queue.put(
        ChannelFrame.marshall(channel_number=channel.number, frames=frames)
    )


@asynccontextmanager
async def answered(channel: aiormq.Channel) -> AsyncGenerator[None]:
    """
    For the block, in which the broker may close *channel* at any moment: its reason is raised,
    whether it came before, between or after what the block asks of the channel.

    Raises:
        Refused, ConnectionError, TimeoutError: as :meth:`Topology.declare`.
    """
    try:
        with quietly(), errors():
            async with asyncio.timeout(REPLY_TIMEOUT):
                yield
    except ConnectionError:
        # aiormq tells who comes too late only that the channel is closed, or about to be.
        closing = channel.closing
        await asyncio.wait([closing], timeout=_CLOSED_WITHIN)
        if closing.done() and not closing.cancelled():
            refused = refusal(closing.exception())
            if refused.code:
                raise refused from None
        raise


async def _declare_exchange(channel: aiormq.Channel, exchange: Exchange) -> None:
    for frame in _exchange_frames(exchange):
        await channel.rpc(frame)


async def _declare_queue(channel: aiormq.Channel, queue: Queue) -> None:
    await _declare_exchange(channel, queue.exchange)
    for frame in _queue_frames(queue):
        await channel.rpc(frame)


def _exchange_frames(exchange: Exchange, *, ahead: bool = False) -> Iterator[Frame]:
    if exchange.name:  # the default exchange cannot be declared
        yield commands.Exchange.Declare(
            exchange=exchange.name,
            exchange_type=exchange.type,
            durable=exchange.durable,
            auto_delete=exchange.auto_delete,
            passive=exchange.passive,
            arguments=dict(exchange.arguments),
            nowait=ahead,
        )


def _queue_frames(queue: Queue, *, ahead: bool = False) -> Iterator[Frame]:
    arguments = dict(queue.arguments)
    if queue.expires is not None:
        arguments["x-expires"] = round(queue.expires * 1000)
    yield commands.Queue.Declare(
        queue=queue.name,
        durable=queue.durable,
        exclusive=queue.exclusive,
        auto_delete=queue.auto_delete,
        arguments=arguments,
        nowait=ahead,
    )
    if queue.exchange.name:  # every queue is bound to the default exchange by its name
        yield commands.Queue.Bind(
            queue=queue.name,
            exchange=queue.exchange.name,
            routing_key=queue.routing_key,
            nowait=ahead,
        )


def misdeclared(what: str, refused: Refused) -> ConfigurationError:
    """*refused* in words: what was being declared, and what to do about it."""
    advice = {
        406: "it exists with other flags or arguments, and RabbitMQ never changes those: use the "
        "same ones, or delete it first",
        403: "the user lacks the permission to configure it, or its name is reserved",
        404: "what it is bound to, or consumes from, does not exist",
        405: "another connection has it for itself alone",
    }.get(refused.code, "the broker refuses it")
    return ConfigurationError(f"{what}: {advice} ({refused})")


class Inspector:
    """Looks at queues, with one channel that is opened again when a missing queue has closed it."""

    def __init__(self, link: Callable[[], Link | None]) -> None:
        self._link = link
        self._channel: aiormq.Channel | None = None
        self._channel_link: Link | None = None
        self._looks: dict[str, asyncio.Task[QueueState | None]] = {}
        self._lock = asyncio.Lock()

    async def inspect(self, queue: str, timeout: float) -> QueueState | None:
        """What the broker says of *queue*; ``None`` if it does not say within *timeout* seconds."""
        if self._link() is None:
            return None
        look = self._looks.get(queue)
        if look is None:
            look = self._looks[queue] = asyncio.create_task(self._look(queue))
            look.add_done_callback(lambda _: self._looks.pop(queue, None))
        # Not cancelled with its caller: others may wait for the same look, and a call broken off
        # halfway would cost the channel.
        done, _ = await asyncio.wait([look], timeout=timeout)
        return look.result() if done and not look.cancelled() else None

    async def close(self) -> None:
        """End the looks that are still going on."""
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def _look(self, queue: str) -> QueueState | None:
        try:
            async with self._lock:
                link = self._link()
                if link is None:
                    return None
                channel = await self._ready(link)
                with quietly(), errors():
                    declared = await channel.queue_declare(
                        queue, passive=True, timeout=REPLY_TIMEOUT
                    )
        except Refused as refused:
            return QueueState(queue, exists=False) if refused.code == 404 else None
        except (ConnectionError, TimeoutError):
            return None
        return QueueState(
            queue,
            exists=True,
            messages=declared.message_count or 0,
            consumers=declared.consumer_count or 0,
        )

    async def _ready(self, link: Link) -> aiormq.Channel:
        channel = self._channel
        if channel is None or channel.is_closed or self._channel_link is not link:
            channel = self._channel = await link.channel()
            self._channel_link = link
        return channel

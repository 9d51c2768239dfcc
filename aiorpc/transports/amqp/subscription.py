"""
A subscription: a consumer that comes back. One task of its own declares, consumes, waits until that
ends, and begins again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ...exceptions import ConnectionLost
from ...wire.message import Queue
from ..base import Outgoing, Subscription
from .backoff import Backoff
from .channel import Unconfirmed
from .consumer import ConsumerChannel
from .errors import Refused
from .lane import never_called
from .link import Link
from .topology import answered, declare_ahead, declare_queue, misdeclared, queue_exists

__all__ = ["AmqpSubscription", "Host"]

log = logging.getLogger(__name__)

#: Seconds after which a queue is bound again. Nobody tells a consumer that its exchange or its
#: binding was deleted: it would wait for ever, in good health, and its callers find no service.
BIND_EVERY = 15.0


class Host(Protocol):
    """What a subscription needs of its transport."""

    reconnects: int
    max_message_size: int | None

    async def available(self) -> Link:
        """The link, once there is one with its topology declared."""
        ...

    def tried(self, subscription: AmqpSubscription, link: Link) -> None:
        """The subscription consumes on *link*, or could not."""

    def ended(self, subscription: AmqpSubscription) -> None:
        """It will not come back."""

    def send(self, outgoing: Outgoing) -> None:
        """As :meth:`.base.Transport.send`."""


class AmqpSubscription(Subscription):
    """
    See :meth:`.base.Transport.subscribe` for what the arguments mean; *consumer* makes the channel,
    anew on each connection.
    """

    def __init__(
        self,
        host: Host,
        unconfirmed: Unconfirmed,
        queue: Queue,
        consumer: Callable[..., ConsumerChannel],
        *,
        prefetch: int,
        keep: bool,
        gone: Callable[[], None] | None,
        arguments: Callable[[int], dict[str, Any]] | None,
    ) -> None:
        self.queue = queue
        self._host = host
        self._unconfirmed = unconfirmed
        self._consumer = consumer
        self._prefetch = prefetch
        self._keep = keep
        self._gone = gone
        self._arguments = arguments
        self._channel: ConsumerChannel | None = None
        self._channels: set[ConsumerChannel] = set()
        self._consuming = False
        self._consumed_before = False
        self._tag = ""
        self._closing: set[asyncio.Task[None]] = set()
        self._cancelled: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"aiorpc: consume {queue.name}")

    @property
    def consuming(self) -> bool:
        return self._consuming and self._channel is not None and self._channel.open

    async def ready(self) -> None:
        """
        Return when it consumes for the first time.

        Raises:
            ConfigurationError: it never will.
        """
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            await self.cancel()
            raise

    def open_channels(self) -> list[ConsumerChannel]:
        """Those on which something may still be under way."""
        return [channel for channel in self._channels if channel.open]

    async def cancel(self) -> None:
        if self._cancelled is None:
            self._cancelled = asyncio.create_task(self._cancel())
        # Shielded: whoever stops waiting for it does not leave a consumer behind.
        await asyncio.shield(self._cancelled)

    async def stop(self) -> None:
        """End its tasks without a word to the broker: the connection is being closed."""
        self._consuming = False
        tasks = [self._task, *self._closing]
        if self._cancelled is not None:
            tasks.append(self._cancelled)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._ready.done():
            self._ready.set_exception(ConnectionLost("the transport was closed"))
            self._ready.exception()  # whoever waits has it; nobody has to

    async def _cancel(self) -> None:
        channel, was_consuming = self._channel, self._consuming
        if channel is not None:
            channel.refuse()
        self._consuming = False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if channel is not None and channel.open:
            if was_consuming and channel.link.answers:
                await channel.link.farewell(partial(channel.amqp.basic_cancel, self._tag))
            elif was_consuming:
                channel.cancel_unanswered(self._tag)
            channel.give_back()
            channel.when_idle(lambda: self._close_soon(channel))
        if not self._ready.done():
            self._ready.set_exception(ConnectionLost("the subscription was cancelled"))
            self._ready.exception()
        self._host.ended(self)

    def _close_soon(self, channel: ConsumerChannel) -> None:
        """
        Nothing is left to settle on a cancelled consumer's channel. While the broker blocks it
        stays open: what is delivered until it reads our cancel has to go back.
        """
        if channel.open and channel.link.answers:
            task = asyncio.create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # --- the task

    async def _run(self) -> None:
        backoff = Backoff()
        told = ""
        while True:
            try:
                link = await self._host.available()
            except ConnectionLost as lost:
                if not self._ready.done():
                    self._ready.set_exception(lost)
                return
            try:
                await self._consume(link)
            except Refused as refused:
                error = misdeclared(f"queue {self.queue.name!r} on {link.url}", refused)
                if not self._ready.done():
                    self._ready.set_exception(error)
                    return
                if told != str(error):
                    told = str(error)
                    log.error("%s; trying again", error)
            except OSError as failure:
                log.debug("cannot consume from %s yet: %s", self.queue.name, failure)
            except Exception as failure:
                if not self._ready.done():
                    self._ready.set_exception(failure)
                    return
                log.exception("consuming from %s failed; trying again", self.queue.name)
            else:
                told = ""
                backoff.reset()
                if not self._ready.done():
                    self._ready.set_result(None)
                self._host.tried(self, link)
                await self._ended()
            finally:
                self._consuming = False
                self._host.tried(self, link)
            await asyncio.sleep(backoff.next())

    async def _consume(self, link: Link) -> None:
        gone = (
            self._keep and self._consumed_before and not await queue_exists(link, self.queue.name)
        )
        channel = self._channel
        fresh = channel is None or not channel.open or channel.link is not link
        if gone or not fresh:
            # On a channel of its own: what is under way on ours shall outlive a refusal.
            await declare_queue(link, self.queue)
        if gone:
            # Not before: what somebody awaits here from now on finds the queue.
            log.warning("queue %s was gone on %s; it is declared anew", self.queue.name, link.url)
            self._tell_gone()
        if channel is None or fresh:
            channel = await self._open(link)
        if channel.cancelled.done():
            channel.cancelled = channel.loop.create_future()
        arguments = self._arguments(self._host.reconnects) if self._arguments else None
        async with answered(channel.amqp):
            if fresh and not gone:
                await declare_ahead(channel.amqp, self.queue)
            if fresh and self._prefetch:
                await channel.amqp.basic_qos(prefetch_count=self._prefetch)
            consuming = await channel.amqp.basic_consume(
                self.queue.name, never_called, arguments=arguments
            )
        self._tag = consuming.consumer_tag or ""
        self._consuming = self._consumed_before = True

    def _tell_gone(self) -> None:
        if self._gone is None:
            return
        try:
            self._gone()
        except Exception:
            log.exception("who was told that queue %s is gone failed", self.queue.name)

    async def _open(self, link: Link) -> ConsumerChannel:
        amqp = await link.channel()
        channel = self._consumer(
            link,
            amqp,
            max_message_size=self._host.max_message_size,
            unconfirmed=self._unconfirmed,
            elsewhere=self._host.send,
        )
        self._channels = {each for each in self._channels if each.open} | {channel}
        self._channel = channel
        return channel

    async def _ended(self) -> None:
        """Return when the consumer is no more, and say why, unless the whole connection went."""
        channel = self._channel
        assert channel is not None
        either: list[asyncio.Future[Any]] = [channel.ended, channel.cancelled]
        while not (await _first_of(either, BIND_EVERY)):
            await self._bind_again(channel.link)
        if not channel.ended.done():
            log.warning(
                "the broker cancelled the consumer of %s on %s (was the queue deleted?); "
                "consuming again",
                self.queue.name,
                channel.link.url,
            )
        elif (refused := channel.ended.result()) is not None:
            log.warning(
                "the broker closed the channel that consumes from %s on %s: %s; what was not "
                "settled comes back, consuming again",
                self.queue.name,
                channel.link.url,
                refused,
            )

    async def _bind_again(self, link: Link) -> None:
        if not link.answers:
            return
        try:
            await declare_queue(link, self.queue)
        except (Refused, OSError, TimeoutError) as error:
            log.debug("cannot bind %s again: %s", self.queue.name, error)


async def _first_of(futures: list[asyncio.Future[Any]], timeout: float) -> bool:
    """Whether one of *futures* is done, now or within *timeout* seconds."""
    done, _ = await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)

"""
A consumer that survives its connection. One task declares, consumes, waits until the consumer ends,
and consumes again. Does I/O through ``link`` and ``topology``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import aiormq

from ...context import new_id
from ...exceptions import ConnectionLost
from ...logs import logger
from ..backoff import Backoff
from ..incoming import ConsumerOptions, Subscription
from .consumer import ConsumerChannel
from .errors import Refused, fail
from .kept_queue import KeptQueue
from .lane import never_called
from .link import Link
from .methods import Consume
from .supervisor import Supervisor
from .topology import (
    accept_queue,
    declare_ahead,
    declare_queue,
    misdeclared,
    unknown_type,
)

__all__ = ["AmqpSubscription"]

log = logger(__name__)

#: Seconds after which a queue is bound again. The broker does not notify a consumer when its
#: exchange or binding is deleted. Without a new binding the consumer would get no more messages.
BIND_EVERY = 15.0
#: Seconds after which a channel has proved itself. If the broker closes it sooner, the pauses grow.
PROVEN = 10.0
_TIMED_OUT = (
    ". A method or handler ran for longer than the broker's consumer_timeout: give its calls a "
    "shorter timeout, or raise consumer_timeout"
)
_SILENT = "the broker does not answer, perhaps because the queue's node is down"


class AmqpSubscription(Subscription):
    """
    Args:
        supervisor: provides the link to consume on.
        opened: wraps each new aiormq channel in a channel of ours.
        ended: called when the subscription will not consume again.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        options: ConsumerOptions,
        opened: Callable[[Link, aiormq.Channel], ConsumerChannel],
        *,
        ended: Callable[[AmqpSubscription], None],
    ) -> None:
        super().__init__(options)
        self._supervisor = supervisor
        self._opened = opened
        self._on_ended = ended
        self._channel: ConsumerChannel | None = None
        #: The queue as it is declared: it may exist with other flags.
        self._declared = options.queue
        self._kept = KeptQueue(options)
        self._consuming = False
        self._tag = ""
        self._logged = ""
        self._tried_on: Link | None = None
        self._tried_next: asyncio.Future[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._cancelled: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"aiorpc: consume {self.queue.name}")

    @property
    def consuming(self) -> bool:
        return self._consuming and self._channel is not None and self._channel.open

    async def ready(self) -> None:
        """
        Return when the subscription consumes for the first time.

        Raises:
            ConfigurationError: the broker refuses the queue; the subscription is cancelled.
            ConnectionLost: the transport closes, or the subscription is cancelled.
        """
        try:
            await asyncio.wait([self._ready])
            self._ready.result()
        except BaseException:
            await self.cancel()
            raise

    async def tried(self, link: Link) -> None:
        """Return after an attempt to consume on *link*, a cancellation, or the loss of *link*."""
        while not (self._tried_on is link or self._task.done() or link.lost.done()):
            self._tried_next = asyncio.get_running_loop().create_future()
            either: list[asyncio.Future[Any]] = [self._tried_next, link.lost, self._task]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    def _set_tried(self, link: Link) -> None:
        self._tried_on = link
        if self._tried_next is not None and not self._tried_next.done():
            self._tried_next.set_result(None)

    async def cancel(self) -> None:
        if self._cancelled is None:
            self._cancelled = asyncio.create_task(self._cancel())
        # Shielded: if the caller is cancelled, the broker's consumer is still cancelled.
        await asyncio.shield(self._cancelled)

    async def stop(self) -> None:
        """End the tasks without a message to the broker: the connection closes soon."""
        self._consuming = False
        tasks = [self._task, *self._closing]
        if self._cancelled is not None:
            tasks.append(self._cancelled)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._ready.done():
            fail(self._ready, ConnectionLost("the transport was closed"))

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
            channel.requeue_refused()
            channel.when_idle(lambda: self._close_soon(channel))
        if not self._ready.done():
            fail(self._ready, ConnectionLost("the subscription was cancelled"))
        self._on_ended(self)

    def _close_soon(self, channel: ConsumerChannel) -> None:
        """
        Close the channel of a cancelled consumer without unsettled deliveries. A channel of a
        blocked connection stays open: deliveries may arrive until the broker reads the cancel, and
        must be requeued.
        """
        if channel.open and channel.link.answers:
            task = asyncio.create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # --- the task

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                link = await self._supervisor.available()
            except ConnectionLost as lost:
                if not self._ready.done():
                    fail(self._ready, lost)
                return
            try:
                await self._consume_or_refuse(link)
            except Refused as refused:
                if self._accepts_existing(refused):
                    continue
                error = misdeclared(f"queue {self.queue.name!r} on {link.url}", refused)
                if not (self._ready.done() or refused.unavailable):
                    fail(self._ready, error)
                    return
                self._log_once(str(error))
            except OSError as failure:
                log.debug("cannot consume from %s yet: %s", self.queue.name, failure)
                if isinstance(failure, TimeoutError) and not link.lost.done():
                    self._log_once(f"queue {self.queue.name!r} on {link.url}: {_SILENT}")
            except Exception as failure:
                if not self._ready.done():
                    fail(self._ready, failure)
                    return
                log.exception("consuming from %s failed; trying again", self.queue.name)
            else:
                self._logged = ""
                if not self._ready.done():
                    self._ready.set_result(None)
                self._set_tried(link)
                if await self._proved():
                    backoff.reset()
            finally:
                self._consuming = False
                self._set_tried(link)
            await asyncio.sleep(backoff.next())

    def _log_once(self, trouble: str) -> None:
        """Log *trouble*, unless it is the same as before."""
        if self._logged != trouble:
            self._logged = trouble
            log.error("%s; trying again", trouble)

    def _accepts_existing(self, refused: Refused) -> bool:
        """Return whether to try again at once, with the queue or exchange that exists."""
        there = accept_queue(self._declared, refused)
        accepted = there is not self._declared
        deleted = refused.code == 404 and there.passive and not self.queue.passive
        if deleted:
            there = replace(there, passive=False)
        self._declared = there
        return accepted

    async def _consume_or_refuse(self, link: Link) -> None:
        try:
            await self._consume(link)
        except OSError:
            if refused := unknown_type(link, [self.queue.exchange]):
                raise refused from None
            raise

    async def _consume(self, link: Link) -> None:
        self._declared, gone = await self._kept.checked(link, self._declared)
        channel = self._channel
        fresh = channel is None or not channel.open or channel.link is not link
        if gone or not fresh:
            # On a separate channel: a refusal must not end the deliveries on this channel.
            await declare_queue(link, self._declared)
        if gone:
            self.queue = self._declared
            # After the declaration: replies to messages that the callback sends need the queue.
            self._declared_again(link.url)
        if channel is None or fresh:
            channel = await self._open(link)
        if channel.cancelled.done():
            channel.cancelled = channel.loop.create_future()
        options = self.options
        arguments = options.arguments(self._supervisor.reconnects) if options.arguments else None
        self._tag = tag = f"aiorpc-{new_id()}"
        # aiormq (7.2) confirms a cancel by the broker only if it knows the consumer.
        channel.amqp.consumers[tag] = never_called
        consume = Consume(queue=self.queue.name, consumer_tag=tag, arguments=arguments)

        async def requests(amqp: aiormq.Channel) -> None:
            if fresh and not gone:
                await declare_ahead(amqp, self._declared)
            if fresh and options.prefetch:
                await amqp.basic_qos(prefetch_count=options.prefetch)
            await amqp.rpc(consume)

        await channel.request(requests)
        self._consuming = self._kept.consumed = True

    async def _open(self, link: Link) -> ConsumerChannel:
        amqp = await link.channel()
        self._channel = channel = self._opened(link, amqp)
        return channel

    async def _proved(self) -> bool:
        """
        Return when the consumer has ended: whether the broker kept its channel open for ``PROVEN``
        seconds, or did not close it. Log why the consumer ended, unless the connection was lost.
        """
        consuming = time.monotonic()
        channel = self._channel
        assert channel is not None
        either: list[asyncio.Future[Any]] = [channel.ended, channel.cancelled]
        while not (await _first_of(either, BIND_EVERY)):
            await self._bind_again(channel.link)
        if not channel.ended.done():
            self._cancelled_by_broker(channel.link.url)
            self._kept.lost = True
        elif (refused := channel.ended.result()) is not None:
            log.warning(
                "the broker closed the channel that consumes from %s on %s: %s; it redelivers "
                "the unsettled messages; consuming again%s",
                self.queue.name,
                channel.link.url,
                refused,
                _TIMED_OUT if refused.is_consumer_timeout else "",
            )
            return time.monotonic() > consuming + PROVEN
        return True

    async def _bind_again(self, link: Link) -> None:
        if not link.answers:
            return
        try:
            await declare_queue(link, self._declared)
            await self._kept.delete_old(link)
        except (Refused, OSError, TimeoutError) as error:
            if not (isinstance(error, Refused) and self._accepts_existing(error)):
                log.debug("cannot bind %s again: %s", self.queue.name, error)


async def _first_of(futures: list[asyncio.Future[Any]], timeout: float) -> bool:
    """Return whether one of *futures* is done within *timeout* seconds."""
    done, _ = await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)

"""
Keeps the connection to RabbitMQ. One task connects, restores the consumers, waits until the
connection is lost, and connects again after a jittered pause.

Owns the task and the current :class:`~.link.Link`; does I/O through the dialer and the link only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from ...config import BrokerUrl, Settings
from ...exceptions import ConfigurationError, ConnectionLost
from ...logs import logger
from ..backlog import Sender
from ..backoff import Backoff
from ..base import State
from .channel import Channel
from .dialer import Dialer
from .errors import Refused, fail, quietly, unanswered
from .link import Link
from .topology import Topology

__all__ = ["Supervisor"]

log = logger(__name__)

#: Seconds that subscriptions may take to consume again before messages are sent without them.
_SUBSCRIBE_TIMEOUT = 10.0
#: Seconds after which a connection has proved itself: if the broker refuses it sooner, the pauses
#: before the next attempts grow.
_PROVEN = 10.0
_CLOSED = "%s: %s closed the publishing channel: %s"


class Supervisor:
    """
    Args:
        settings: the broker's URLs, and how to connect to them.
        name: the connection's name, for the log and for RabbitMQ's list of connections.
        topology: the exchanges and queues to declare on each new connection.
        sender: the sender to pause while no connection accepts messages.
        open_publishing: opens a channel to send on. Raises ``Refused`` or ``OSError``.
        become: called with each new state.
        resubscribed: returns when every subscription has tried to consume on the new link.
        on_congested: called when the link or its congestion changes.

    Attributes:
        dialer: opens connections. Tests may replace its ``connect``.
        link: the connection, after its topology is declared and until it is lost; else ``None``.
        publishing: the channel to send on, once connected; the channel may have ended.
        reconnects: the number of lost connections so far.
        url: the URL of the last connected node, without the password.
        closing: set by the transport when it closes: a lost connection is then expected.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        topology: Topology,
        sender: Sender,
        open_publishing: Callable[[Link], Awaitable[Channel]],
        become: Callable[[State], None],
        resubscribed: Callable[[Link], Awaitable[None]],
        on_congested: Callable[[], None],
    ) -> None:
        self.dialer = Dialer(
            settings.broker_urls, name=name, connect=self._connect, failed=sender.pause
        )
        self.link: Link | None = None
        self.publishing: Channel
        self.reconnects = 0
        self.url = settings.broker_urls[0].redacted()
        self.closing = False
        self._settings = settings
        self._name = name
        self._topology = topology
        self._sender = sender
        self._open_publishing = open_publishing
        self._become = become
        self._resubscribed = resubscribed
        self._on_congested = on_congested
        self._resumed = False
        self._task: asyncio.Task[None] | None = None
        self._cancelled = WeakSet[asyncio.Task[None]]()
        self._started: asyncio.Future[None] | None = None
        self._available: asyncio.Future[Link] | None = None

    @property
    def running(self) -> bool:
        """Whether ``start`` was called, and did not fail, and ``stop`` was not called."""
        return self._task is not None

    async def start(self, timeout: float | None) -> None:
        """
        Connect; return when connected. See :meth:`..base.Transport.start`.

        Raises:
            ConfigurationError: the broker refuses us permanently.
            ConnectionLost: *timeout* seconds passed, or the transport closes.
        """
        if self.closing:
            raise self._closed()
        if self._task is None:
            self._started = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(
                self._run(self._started), name=f"aiorpc: {self._name} to {self.url}"
            )
        assert self._started is not None
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wait([self._started])
            self._started.result()
        except BaseException as error:
            # No task runs after a failed start; ``start`` can be called again.
            await self._end("start was cancelled")
            self._become(State.CLOSED)
            if not isinstance(error, TimeoutError):
                raise
            raise unanswered(self.url, timeout, self.dialer.trouble) from None

    async def stop(self) -> None:
        """Close the connection and end the task. Bounded; idempotent."""
        self.closing = True
        await self._end("it was closed")
        if self._available is not None:
            self._available.cancel()

    async def _end(self, why: str) -> None:
        if (task := self._task) is not None:
            await _cancelled(task, self._cancelled)
            self._task = None if self._task is task else self._task
        if self._started is not None and not self._started.done():
            fail(self._started, ConnectionLost(f"the transport to {self.url}: {why}"))

    async def available(self) -> Link:
        """
        Return the link; wait until the transport is connected and its topology is declared.

        Raises:
            ConnectionLost: the transport closes.
        """
        if self.closing:
            raise self._closed()
        if self._available is None or _is_lost(self._available):
            # The supervisor's task notices a lost link some loop turns later than this caller.
            self._available = asyncio.get_running_loop().create_future()
        available = self._available
        # Awaited through `wait`: ``stop`` cancels the future, but must not cancel this caller.
        await asyncio.wait([available])
        if available.cancelled():
            raise self._closed()
        return available.result()

    def _closed(self) -> ConnectionLost:
        return ConnectionLost(f"the transport to {self.url} was closed")

    # --- the task

    async def _run(self, started: asyncio.Future[None]) -> None:
        with quietly():
            self._become(State.CONNECTING)
            backoff = Backoff()
            while True:
                try:
                    link = await self.dialer.dial(backoff, first=not started.done())
                except ConfigurationError as error:
                    fail(started, error)
                    return
                self.url = link.url.redacted()
                try:
                    if await self._resume(link):
                        if not started.done():
                            started.set_result(None)
                        if await self._tend(link):
                            backoff.reset()
                except (Refused, OSError) as error:
                    log.debug("%s: cannot use %s: %s", self._name, self.url, error)
                    if self.link is link:
                        link.lane.abort()
                        await asyncio.wait([link.lost])  # not cancelled with this task
                except Exception:
                    # A bug in aiorpc may end one connection, but must not end the reconnecting.
                    log.exception("%s: error on the connection to %s", self._name, self.url)
                finally:
                    self._lost(link)
                    await link.close()
                await asyncio.sleep(backoff.next())

    async def _connect(self, url: BrokerUrl) -> Link:
        link = Link(
            self._settings,
            url,
            name=self._name,
            on_lost=self._losing,
            on_blocked=self._blocked_changed,
            on_congested=self._on_congested,
        )
        await link.open()
        return link

    async def _resume(self, link: Link) -> bool:
        """Declare, consume and send again on *link*. Return whether *link* is not lost."""
        await self._topology.restore(link)
        self.publishing = await self._open_publishing(link)
        self.link = link
        self._on_congested()
        if self._available is None or self._available.done():
            self._available = asyncio.get_running_loop().create_future()
        self._available.set_result(link)
        # A reply to a request that is sent before its reply queue is declared would be lost.
        with suppress(TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT):
                await self._resubscribed(link)
        if link.lost.done():
            return False
        log.info("%s: connected to %s", self._name, self.url)
        self._resumed = True
        self._become(State.CONNECTED if link.blocked_reason is None else State.BLOCKED)
        self._sender.resume(self.publishing)
        return True

    async def _tend(self, link: Link) -> bool:
        """Replace publishing channels until *link* is lost; return whether it proved itself."""
        resumed, reasons = time.monotonic(), _Reasons()
        while True:
            ended = self.publishing.ended
            either: list[asyncio.Future[Any]] = [link.lost, ended]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if link.lost.done():
                return link.refused is None or time.monotonic() > resumed + _PROVEN
            why = ended.result()
            log.log(reasons.level(str(why)), _CLOSED, self._name, self.url, why)
            await self._topology.restore(link)  # the cause may be a deleted exchange of ours
            self.publishing = await self._open_publishing(link)
            self._sender.resume(self.publishing)

    def _lost(self, link: Link) -> None:
        if self.link is not link:
            return  # it failed before it could be used
        self.link = None
        self._resumed = False
        self._on_congested()
        if self._available is None or self._available.done():
            self._available = asyncio.get_running_loop().create_future()
        if self.closing:
            # Messages written after our connection.close are lost; so they wait, and then fail.
            self._sender.pause(f"the transport to {self.url} was closed")
            return
        self.reconnects += 1
        why = link.lost.result() if link.lost.done() else "it was closed"
        self.dialer.trouble = f"lost the connection to {self.url}: {why}"
        self._sender.pause(self.dialer.trouble)
        log.warning(
            "%s: %s; reconnecting (%d messages wait)",
            self._name,
            self.dialer.trouble,
            len(self._sender.backlog),
        )
        self._become(State.CONNECTING)

    # --- what the link reports

    def _losing(self, link: Link) -> None:
        """Change the state now; the supervisor's task handles the loss some loop turns later."""
        if link is self.link and not self.closing:
            self._resumed = False
            self._become(State.CONNECTING)

    def _blocked_changed(self, link: Link) -> None:
        if link is not self.link or not self._resumed:
            return
        if link.blocked_reason is not None:
            why = f"{self.url} accepts no messages ({link.blocked_reason or 'an alarm'})"
            self._sender.pause(why)
            log.warning("%s: %s", self._name, why)
            self._become(State.BLOCKED)
        else:
            log.info("%s: %s accepts messages again", self._name, self.url)
            self._become(State.CONNECTED)
            self._sender.resume(self.publishing)


class _Reasons:
    """How to log why the broker closes channels. It may refuse each message of many callers."""

    def __init__(self) -> None:
        self._last, self._last_at = "", 0.0

    def level(self, reason: str) -> int:
        """Return DEBUG if *reason* was a WARNING within the last ``_PROVEN`` seconds."""
        now = time.monotonic()
        if reason == self._last and now < self._last_at + _PROVEN:
            return logging.DEBUG
        self._last, self._last_at = reason, now
        return logging.WARNING


async def _cancelled(task: asyncio.Task[None], before: WeakSet[asyncio.Task[None]]) -> None:
    """
    Cancel *task* once, and wait. A second cancel would interrupt the close of its link, so *before*
    keeps it. ``task.cancelling()`` would also count an ``asyncio.timeout`` that expires now.
    """
    if task not in before:
        before.add(task)
        task.cancel()
    await asyncio.wait([task])


def _is_lost(available: asyncio.Future[Link]) -> bool:
    return available.done() and not available.cancelled() and available.result().lost.done()

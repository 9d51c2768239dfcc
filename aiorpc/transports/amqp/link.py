"""
One connection to one broker, from the handshake to its end. It never reconnects: the supervisor
opens another link. Does I/O; may import aio-pika and aiormq.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import aio_pika
import aiormq
import aiormq.abc
from yarl import URL

from ...config import BrokerUrl, Settings, ssl_context, tls_server_hostname
from ...logs import logger
from .errors import Refused, connection_refusal, errors, quietly, reason
from .lane import Endpoint, Lane

__all__ = [
    "CLOSE_TIMEOUT",
    "CONNECT_TIMEOUT",
    "REPLY_TIMEOUT",
    "Attached",
    "Link",
]

log = logger(__name__)

#: Seconds for one attempt to connect, handshake included.
CONNECT_TIMEOUT = 10.0
#: Seconds to wait for the broker's answer when a connection is closed.
CLOSE_TIMEOUT = 2.0
#: Seconds to close a connection when its broker does not answer.
_LOST_TIMEOUT = 0.2
#: Channels per connection where the broker sets no limit: a channel number has 16 bits.
_MOST_CHANNELS = 0xFFFF
#: AMQP's reply code ``not-allowed``.
_NOT_ALLOWED = 530
#: AMQP's reply code for a connection that the broker closes because of an operator, not of a frame.
_CONNECTION_FORCED = 320
#: Seconds to wait for the broker's answer to an AMQP method. A working queue answers much sooner.
REPLY_TIMEOUT = 10.0


class Attached(Protocol):
    """A channel of ours on the connection."""

    def lost(self) -> None:
        """Called when the connection is lost."""

    def unblocked(self) -> None:
        """Called when the broker accepts messages again."""

    async def all_confirmed(self) -> None:
        """Return when the broker has confirmed all messages, or the channel has ended."""


class Link:
    """
    Attributes:
        lost: done when the connection is lost or closed; its result says why.
        refused: why the broker closed the connection, if a frame of ours may be the reason.
        blocked_reason: the broker's reason why it accepts no messages now; else ``None``.
        attached: our open channels.
    """

    def __init__(
        self,
        settings: Settings,
        url: BrokerUrl,
        *,
        name: str,
        on_lost: Callable[[Link], None],
        on_blocked: Callable[[Link], None],
        on_congested: Callable[[], None],
    ) -> None:
        self.url = url
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.refused: Refused | None = None
        self.blocked_reason: str | None = None
        self.attached: set[Attached] = set()
        self._on_lost = on_lost
        self._on_blocked = on_blocked
        self.congestion_changed = on_congested
        self._farewells: set[asyncio.Task[None]] = set()
        self._passing: set[asyncio.Future[None]] = set()  # one for each passing channel
        #: Loop time of the last farewell that the broker did not answer, until it sends something.
        self._silent_since: float | None = None
        self._said = ""  # the broker's words when it closed the connection, if any arrived
        heartbeat = settings.heartbeat_for(url)
        endpoint = Endpoint(
            url.host, url.port, ssl_context(settings, url), tls_server_hostname(settings, url)
        )
        self.lane = Lane(self, endpoint, heartbeat)
        self._timeout = url.connect_timeout or CONNECT_TIMEOUT
        method = settings.login_method_for(url).lower()
        self._connection = _Connection(
            URL(url.to_url(heartbeat=heartbeat, auth=method), encoded=True),
            self.lane.factory,
            client_properties={"connection_name": name, "product": "aiorpc"},
        )

    # --- its life

    async def open(self) -> None:
        """
        Connect, within ``connect_timeout`` of the URL, or else :data:`CONNECT_TIMEOUT` seconds.

        Raises:
            ConfigurationError: the broker refuses us permanently.
            OSError: the broker could not be reached; a ``TimeoutError`` is one.
        """
        with errors():  # the outer block handles a cancel during the clean-up
            try:
                with quietly(), errors():
                    async with asyncio.timeout(self._timeout):
                        await self._connection.connect()
            except BaseException as error:
                await self._clean_up(error)
                raise
        transport = self._connection.transport
        assert transport is not None
        self._amqp = transport.connection
        self._amqp.closing.add_done_callback(self._closed)
        self.lane.connected(self._amqp)

    async def _clean_up(self, error: BaseException) -> None:
        """Clean up after *error* ended the handshake. Raise if the refusal is permanent."""
        self.lane.abort()
        self.lane.stop()
        try:
            await self._connection.close()
        finally:
            said = self._said
            self._lose(reason(error))
        if isinstance(error, asyncio.CancelledError):
            return
        # The cause of an error from errors() is aiormq's error.
        refused = connection_refusal(error.__cause__ or error, self.url, said)
        if refused is not None:
            raise refused from error
        if said:  # aiormq's error does not quote the broker
            raise ConnectionError(said) from error

    async def close(self) -> None:
        """Close the connection, or clean up a lost one. Bounded; idempotent."""
        with quietly():
            self.lane.stop()
            if not self.answers:
                self.lane.abort()
            closing = asyncio.ensure_future(self._connection.close())
            # In a separate task: cancelling a close would leave aiormq half closed.
            patience = CLOSE_TIMEOUT if self.answers else _LOST_TIMEOUT
            try:
                done, _ = await asyncio.wait([closing], timeout=patience)
                if not done:
                    self.lane.abort()
                    await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)
            finally:
                self.lane.abort()
                for task in (closing, *self._farewells):
                    task.cancel()
                self._lose("it was closed")
            # `gather`: awaiting each task could not tell our cancellation from the task's.
            await asyncio.gather(closing, *self._farewells, return_exceptions=True)

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame, as negotiated; 0 for no limit."""
        return self._amqp.connection_tune.frame_max or 0

    # --- channels

    async def channel(self, passed: asyncio.Future[None] | None = None) -> aiormq.Channel:
        """
        Open a channel of aiormq. Channels of aio-pika (10.2) leave callbacks on their connection
        until it ends, and we open many short-lived channels.

        Args:
            passed: a future that is done when the channel has closed, if it closes soon.

        Raises:
            Refused, ConnectionError: the channel cannot be opened.
            TimeoutError: the broker does not answer.
        """
        with quietly(), errors():
            async with asyncio.timeout(REPLY_TIMEOUT):
                number = await self._free_channel_number()
                if passed is not None:
                    self._passing.add(passed)
                channel = await self._amqp.channel(number, publisher_confirms=False)
        assert isinstance(channel, aiormq.Channel)
        return channel

    async def _free_channel_number(self) -> int:
        """
        Return a number that is not in use, at most the broker's ``channel_max``. aiormq (7.2)
        ignores that limit, and RabbitMQ closes the connection for a larger number.
        """
        channels = self._amqp.channels
        limit = self._amqp.connection_tune.channel_max or _MOST_CHANNELS
        while not self.lost.done():
            number = max(channels, default=0) + 1
            if number > limit:
                number = next((each for each in range(1, limit + 1) if each not in channels), 0)
            if number:
                return number
            ending: set[asyncio.Future[Any]] = {*self._passing, *self._farewells}
            if not ending:
                raise Refused(
                    _NOT_ALLOWED,
                    f"all {limit} channels that the broker permits per connection (channel_max) "
                    "are open",
                )
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        raise ConnectionError("the connection was closed")

    @asynccontextmanager
    async def passing_channel(self) -> AsyncGenerator[aiormq.Channel]:
        """Open a channel for the block. Errors in the block may close the channel."""
        passed: asyncio.Future[None] = self.lane.loop.create_future()
        try:
            channel = await self.channel(passed)
            try:
                with quietly(), errors():
                    async with asyncio.timeout(REPLY_TIMEOUT):
                        yield channel
            finally:
                if not channel.is_closed:
                    await self.farewell(channel.close)
        finally:
            self._passing.discard(passed)
            passed.set_result(None)

    @property
    def answers(self) -> bool:
        """
        Whether we expect the broker to answer. The broker reads nothing from a blocked connection,
        not even a close.
        """
        if self._silent_since is not None and self.lane.heard_at > self._silent_since:
            self._silent_since = None
        return not (
            self.lost.done() or self.blocked_reason is not None or self._silent_since is not None
        )

    async def farewell(self, words: Callable[[], Awaitable[object]]) -> None:
        """
        Send a request whose answer is optional, and wait at most :data:`CLOSE_TIMEOUT` seconds.
        Ignore errors. After a timeout, skip later farewells until the broker sends something.
        """
        if self.answers:
            # In a separate task: if a channel.close is cancelled, aiormq (7.2) sends another close,
            # and RabbitMQ then closes the whole connection.
            await asyncio.wait([self.farewell_soon(words)])

    def farewell_soon(self, words: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        """Send a request whose answer is optional. Return the task that waits for the answer."""
        farewell = asyncio.create_task(self._say(words))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)
        return farewell

    async def _say(self, words: Callable[[], Awaitable[object]]) -> None:
        with quietly(), suppress(Exception), errors():
            async with asyncio.timeout(CLOSE_TIMEOUT) as patience:
                try:
                    await words()
                finally:
                    if patience.expired():
                        self._silent_since = self.lane.loop.time()

    # --- what the lane reports

    def blocked(self, why: str) -> None:
        self.blocked_reason = why
        self._on_blocked(self)

    def unblocked(self) -> None:
        self.blocked_reason = None
        for attached in list(self.attached):
            attached.unblocked()
        self._on_blocked(self)

    def hung_up(self, code: int, why: str) -> None:
        if code not in (0, _CONNECTION_FORCED):
            self.refused = Refused(code, why)
        self._said = why
        self._lose(why)

    def socket_lost(self, error: BaseException | None) -> None:
        self._lose(reason(error) if error else "the broker closed the connection")

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        self.socket_lost(None if closing.cancelled() else closing.exception())

    def _lose(self, why: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(why)
        self._on_lost(self)
        for attached in list(self.attached):
            try:
                attached.lost()
            except Exception:
                log.exception("error while a channel to %s ended", self.url)
        self.attached.clear()


class _Connection(aio_pika.Connection):
    """aio-pika's connection, with a socket that the lane opens."""

    def __init__(
        self, url: URL, factory: aiormq.TransportFactory, *, client_properties: dict[str, Any]
    ) -> None:
        super().__init__(url, client_properties=client_properties)
        self.kwargs["transport_factory"] = factory

"""
Cancels calls for their callers: running calls, and calls whose request has not arrived yet. Awaits
only the subscription.

A caller does not know which instance of a service has its call. So it sends the cancellation to a
fanout exchange, and every instance gets it. A cancellation may arrive before its request. Then the
instance remembers the cancellation until the deadline of the call.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Generic, TypeAlias, TypeVar

from ..exceptions import ConfigurationError
from ..extensions import Host, Submission
from ..logs import logger
from ..wire.message import Message
from ..wire.names import STREAM, cancel_queue
from ..wire.requests import decode_cancellation

__all__ = ["Cancellations", "Key"]

log = logger("aiorpc.rpc")

#: The identity of a call on the wire: its ``reply_to`` and its ``correlation_id``.
Key: TypeAlias = tuple[str | None, str | None]


T = TypeVar("T", bound=Submission)

#: The maximum number of remembered early cancellations; the oldest are forgotten first. Every
#: instance gets every cancellation, so most cancellations are for calls of other instances.
MOST = 10_000


class Cancellations(Generic[T]):
    """
    The cancellable calls of one service in this process.

    Attributes:
        running: the running calls.
        early: calls that were cancelled before their request arrived. The value is the time at
            which to forget the call.
        queue: the queue of this instance for messages of callers; empty if there is none.
        other: handles the messages that are not cancellations.
    """

    queue = ""
    other: Callable[[Message], None] | None = None

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.running: dict[Key, T] = {}
        self.early: OrderedDict[Key, float] = OrderedDict()
        self._refused: ConfigurationError | None = None

    @asynccontextmanager
    async def listening(self, host: Host) -> AsyncGenerator[None]:
        """
        Receive cancellations from callers inside the block. If the user of the broker may not
        declare the queue for them, callers can neither cancel calls nor read streams.
        """
        async with AsyncExitStack() as self._stack:
            await self._listen(host)
            yield

    async def ensure(self, host: Host) -> None:
        """Listen if the broker refused that before, or log why callers cannot cancel calls."""
        if self._refused is not None and self._refused.may_pass:  # a permission that came now
            await self._listen(host)
        if self._refused is not None:
            text = "%s: callers cannot cancel calls, nor read streams: %s"
            log.warning(text, host.service_name, self._refused)

    async def _listen(self, host: Host) -> None:
        queue = cancel_queue(host.service_name)
        try:
            listening = await host.transport.listen(queue, self.received)
        except ConfigurationError as error:
            self._refused = error
        else:
            await self._stack.enter_async_context(listening)
            self.queue, self._refused = queue.name, None

    def came_before(self, key: Key) -> bool:
        """Return whether the call was cancelled before its request arrived. True only once."""
        return self.early.pop(key, 0.0) > self._clock()

    def received(self, message: Message) -> None:
        """Handle one cancellation."""
        try:
            if message.headers and STREAM in message.headers and self.other is not None:
                self.other(message)
                return
            key, lifetime = decode_cancellation(message)
        except Exception as exc:  # noqa: BLE001 - a peer can send anything
            log.warning("a message of a caller cannot be read and is ignored: %s", exc)
            return
        running = self.running.get(key)
        if running is not None:
            running.cancel()
            return
        now = self._clock()
        while self.early:
            oldest = next(iter(self.early))
            if self.early[oldest] > now and len(self.early) < MOST:
                break
            del self.early[oldest]
        self.early[key] = now + lifetime

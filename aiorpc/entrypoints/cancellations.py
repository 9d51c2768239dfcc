"""
Calls that their callers cancel: those that run here, and those whose request has not arrived yet.
Awaits only the subscription.

A caller does not know which instance of a service has its call. So it sends the cancellation to a
fanout exchange that every instance listens to. A cancellation may overtake its request, which waits
in a queue or is on its way. It is then remembered until the deadline of the call.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeAlias, TypeVar

from ..extensions import Host, Submission
from ..wire.message import Message
from ..wire.names import cancel_queue
from ..wire.requests import decode_cancellation

__all__ = ["Cancellations", "Key"]

log = logging.getLogger("aiorpc.rpc")

#: A call as the wire knows it: its ``reply_to`` and its ``correlation_id``.
Key: TypeAlias = tuple[str | None, str | None]


T = TypeVar("T", bound=Submission)

#: How many early cancellations are remembered; the oldest are forgotten first. The fanout reaches
#: every instance, so most of them are for calls that run elsewhere.
MOST = 10_000


class Cancellations(Generic[T]):
    """
    The calls of one service in this process that can be cancelled.

    Attributes:
        running: the calls that run.
        early: the calls that were cancelled before their request arrived, with the time at which
            each is forgotten.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.running: dict[Key, T] = {}
        self.early: OrderedDict[Key, float] = OrderedDict()

    @asynccontextmanager
    async def listening(self, host: Host) -> AsyncGenerator[None]:
        """Cancel calls as their callers ask, inside the block."""
        async with await host.transport.listen(cancel_queue(host.service_name), self.received):
            yield

    def came_before(self, key: Key) -> bool:
        """Whether the call was cancelled before its request arrived. True once."""
        return self.early.pop(key, 0.0) > self._clock()

    def received(self, message: Message) -> None:
        """Handle one cancellation."""
        try:
            key, lifetime = decode_cancellation(message)
        except Exception as exc:  # noqa: BLE001 - whatever a peer sent to that exchange
            log.warning("a message that cancels a call cannot be read: %s", exc)
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

"""
Calls that their callers take back: which are here, and which have been withdrawn before they came.

A cancelled call is announced on a fanout exchange, since its caller does not know which instance
has it. The announcement may overtake the request, which waits in a queue or is on its way: then a
tombstone waits for it, until nobody could want the call any more.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeAlias, TypeVar

from ..extensions import Host
from ..wire.cancellations import decode_cancellation
from ..wire.message import Message
from ..wire.names import cancel_queue

__all__ = ["Withdrawals"]

log = logging.getLogger("aiorpc.rpc")

#: A call as the wire knows it: its ``reply_to`` and its ``correlation_id``.
Key: TypeAlias = tuple[str | None, str | None]


class Withdrawable(Protocol):
    """A call that runs."""

    def withdraw(self) -> None: ...


T = TypeVar("T", bound=Withdrawable)

#: The most tombstones that are kept: the oldest go first. A fanout reaches every instance, so most
#: of them are for calls that run elsewhere.
MOST = 10_000


class Withdrawals(Generic[T]):
    """
    The calls of one service in this process; *T* is what stands for one that runs.

    Attributes:
        running: those that run, by key.
        tombstones: those that were taken back and have not come yet, by key, with the time until
            which that matters.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.running: dict[Key, T] = {}
        self.tombstones: OrderedDict[Key, float] = OrderedDict()

    @asynccontextmanager
    async def heard(self, host: Host) -> AsyncGenerator[None]:
        """Hear announcements inside the block."""
        subscription = await host.transport.listen(cancel_queue(host.service_name), self.received)
        try:
            yield
        finally:
            await subscription.cancel()

    def withdrawn(self, key: Key) -> bool:
        """Whether the call was taken back before it came. True once."""
        return self.tombstones.pop(key, 0.0) > self._clock()

    def received(self, message: Message) -> None:
        """Handle one announcement."""
        try:
            key, lifetime = decode_cancellation(message)
        except Exception as exc:  # noqa: BLE001 - whatever a peer put on that exchange
            log.warning("an announcement of a cancelled call cannot be read: %s", exc)
            return
        running = self.running.get(key)
        if running is not None:
            running.withdraw()
            return
        now = self._clock()
        while self.tombstones:
            oldest = next(iter(self.tombstones))
            if self.tombstones[oldest] > now and len(self.tombstones) < MOST:
                break
            del self.tombstones[oldest]
        self.tombstones[key] = now + lifetime

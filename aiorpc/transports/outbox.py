"""
Messages that wait for a connection, and the settling of messages. No I/O.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from copy import copy

import msgspec

from ..exceptions import AioRpcError, ConnectionLost
from .base import Outgoing

__all__ = ["Outbox", "settle", "settle_soon"]

log = logging.getLogger(__name__)

#: What may wait, in messages and in bytes of body. Past it a message is refused with an error.
MAX_MESSAGES = 100_000
MAX_BYTES = 256 << 20
#: Senders that can wait should do so from here on.
MANY_MESSAGES = 10_000
MANY_BYTES = 16 << 20
#: Seconds between two looks for what expired, at the least.
_SWEEP = 0.02


def settle(outgoing: Outgoing, error: AioRpcError | None) -> None:
    """Tell the sender. Whatever it raises is logged."""
    try:
        outgoing.conclude(error)
    except Exception:
        log.exception("the sender of a message failed when it was told its outcome")


def settle_soon(outgoing: Outgoing, error: AioRpcError | None) -> None:
    """The same in the next turn of the loop: never inside ``send``."""
    if outgoing.settled is not None or error is not None:
        asyncio.get_running_loop().call_soon(settle, outgoing, error)


class Outbox:
    """
    Messages in the order in which they are to leave, bounded; each leaves or expires.

    Args:
        on_crowded: told when ``crowded`` changes.

    Attributes:
        why: completes "it was not sent: ...", for the errors of those that never leave.
    """

    def __init__(self, why: str, on_crowded: Callable[[], None]) -> None:
        self.why = why
        self._on_crowded = on_crowded
        # By identity, so that retracting one of very many is cheap.
        self._waiting: OrderedDict[int, Outgoing] = OrderedDict()
        self._bytes = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        #: Whether senders that can wait should.
        self.crowded = False
        self._roomy = asyncio.Event()
        self._roomy.set()

    def __len__(self) -> int:
        return len(self._waiting)

    async def roomy(self) -> None:
        """Return when it is crowded no more."""
        await self._roomy.wait()

    def add(self, outgoing: Outgoing) -> None:
        """Put it at the end; if there is no room left, settle it with ``ConnectionLost``."""
        size = len(outgoing.message.body)
        if len(self._waiting) >= MAX_MESSAGES or self._bytes + size > MAX_BYTES:
            settle_soon(
                outgoing,
                ConnectionLost(
                    f"{self._described(outgoing)} was not sent: {self.why}, and "
                    f"{len(self._waiting)} messages ({self._bytes >> 20} MiB) wait already"
                ),
            )
            return
        if id(outgoing) in self._waiting:
            outgoing = copy(outgoing)  # sent twice: then it waits twice
        self._waiting[id(outgoing)] = outgoing
        self._added(outgoing)

    def put_back(self, returning: Iterable[Outgoing]) -> None:
        """Put *returning* in front of everything, in their order, whatever room there is."""
        for outgoing in reversed(list(returning)):
            if id(outgoing) in self._waiting:
                outgoing = copy(outgoing)  # sent twice: then it waits twice
            self._waiting[id(outgoing)] = outgoing
            self._waiting.move_to_end(id(outgoing), last=False)
            self._added(outgoing)

    def take(self) -> Outgoing | None:
        """The next one that is still worth sending; its ``expiration`` says what time is left."""
        now = asyncio.get_running_loop().time()
        while self._waiting:
            _, outgoing = self._waiting.popitem(last=False)
            self._removed(outgoing)
            if outgoing.expires_at is None:
                return outgoing
            if outgoing.expires_at > now:
                _shorten(outgoing, now)
                return outgoing
            settle(outgoing, self._expired(outgoing))
        return None

    def discard(self, outgoing: Outgoing) -> bool:
        """Take *outgoing* out without settling it; whether it was there."""
        if self._waiting.pop(id(outgoing), None) is None:
            return False
        self._removed(outgoing)
        return True

    def fail(self, error: AioRpcError) -> None:
        """Settle everything with *error*."""
        waiting, self._waiting = self._waiting, OrderedDict()
        self._bytes = 0
        self._ease()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._sweep_at = math.inf
        for outgoing in waiting.values():
            settle(outgoing, error)

    def _ease(self) -> None:
        if self.crowded:
            self.crowded = False
            self._roomy.set()
            self._on_crowded()

    def _added(self, outgoing: Outgoing) -> None:
        self._bytes += len(outgoing.message.body)
        many = len(self._waiting) > MANY_MESSAGES or self._bytes > MANY_BYTES
        if many and not self.crowded:
            self.crowded = True
            self._roomy.clear()
            self._on_crowded()
        if outgoing.expires_at is not None and outgoing.expires_at < self._sweep_at:
            self._sweep_by(outgoing.expires_at)

    def _removed(self, outgoing: Outgoing) -> None:
        self._bytes -= len(outgoing.message.body)
        few = len(self._waiting) <= MANY_MESSAGES // 2 and self._bytes <= MANY_BYTES // 2
        if few:
            self._ease()

    def _sweep_by(self, at: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        loop = asyncio.get_running_loop()
        self._sweep_at = at
        self._sweep = loop.call_at(max(at, loop.time() + _SWEEP), self._settle_expired)

    def _settle_expired(self) -> None:
        self._sweep, self._sweep_at = None, math.inf
        now = asyncio.get_running_loop().time()
        expiring = [each for each in self._waiting.values() if each.expires_at is not None]
        for outgoing in expiring:
            if (outgoing.expires_at or 0) <= now and self.discard(outgoing):
                settle(outgoing, self._expired(outgoing))
        times = [each.expires_at for each in expiring if each.expires_at and each.expires_at > now]
        if times:
            self._sweep_by(min(times))

    def _expired(self, outgoing: Outgoing) -> ConnectionLost:
        return ConnectionLost(
            f"{self._described(outgoing)} was not sent within its time: {self.why}"
        )

    @staticmethod
    def _described(outgoing: Outgoing) -> str:
        return f"a message to exchange {outgoing.exchange!r}, key {outgoing.routing_key!r},"


def _shorten(outgoing: Outgoing, now: float) -> None:
    """Let ``expiration`` end no later than the message: part of it was spent waiting."""
    expiration = outgoing.message.expiration
    if expiration is None or outgoing.expires_at is None:
        return
    left = max(1, math.ceil((outgoing.expires_at - now) * 1000))
    if left < expiration:
        outgoing.message = msgspec.structs.replace(outgoing.message, expiration=left)

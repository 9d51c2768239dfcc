"""
The caller's side of one stream: receives its items, and tells the service how many the program
took. Awaits the end of the stream; sends through the transport.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..exceptions import AioRpcError, ConnectionLost, MalformedReply, RpcTimeout, Unroutable
from ..transports.base import Outgoing, State, Transport
from ..wire.message import Message
from ..wire.streams import (
    ALIVE,
    END,
    ITEMS,
    OPEN,
    encode_taken,
    position_of,
    silence_of,
    stream_kind,
)
from .pending import Pending

__all__ = ["Inflow", "PendingStream"]

#: Bytes of taken items after which the service is told.
REPORT_BYTES = 1 << 18


class Inflow:
    """The items of one stream that have arrived, and not been taken."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        #: Set when an item arrived, and when the stream ended.
        self.news = asyncio.Event()
        self.took: Callable[[], None] | None = None
        #: The error that ended the stream after its first item.
        self.error: Exception | None = None


class PendingStream(Pending, eq=False, kw_only=True):
    """A call that waits for the items and the end of a stream."""

    confirm_cancel = True

    inflow: Inflow
    transport: Transport
    #: Cancels the call of a stream.
    cancel: Callable[[Pending], None]
    #: The number of items that the service may send ahead of the program.
    window: int
    #: Seconds between two signs of life.
    alive_every: float
    #: Seconds of silence after which the service is lost.
    silence: float = 0.0
    received: int = 0
    taken: int = 0
    #: The number of taken items that the service knows, and the number at which to tell it.
    reported: int = 0
    check_at: int = 0
    #: For each message with items: their number up to its end, and its bytes.
    arrived: deque[tuple[int, int]] | None = None
    unreported_bytes: int = 0
    #: The queue of the service's instance; ``None`` until its method runs.
    control: str | None = None
    ended: bool = False
    heard_at: float = 0.0
    wrote_at: float = 0.0
    timer: asyncio.TimerHandle | None = None
    unlisten: Callable[[], None] | None = None

    # From the service

    def absorb(self, message: Message) -> bool:
        """Take a *message* of the stream. Return False for the last one, which is a reply."""
        self.heard_at = monotonic()
        kind = stream_kind(message)
        if kind == ITEMS:
            if self._in_order(message):
                self._add(message)
        elif kind == OPEN:
            self._begin(message)
        elif kind == END:
            if not self._in_order(message):
                return True
            self.ended = True
            self.call.tell("aiorpc.stream.end")
            return False
        elif kind == ALIVE:
            sent = position_of(message)  # -1 from an earlier version of aiorpc
            if sent > self.received:
                self.fail(f"item {self.received} did not arrive, of {sent} that were sent")
        else:
            return False
        return True

    def _in_order(self, message: Message) -> bool:
        position = position_of(message)
        if position == self.received:
            return True
        self.fail(f"item {self.received} did not arrive, item {position} did")
        return False

    def _add(self, message: Message) -> None:
        try:
            items = self.calls.wire.replies.decode(message)
            if type(items) is not list:
                raise MalformedReply(f"the items are a {type(items).__name__}, not an array")
        except Exception as exc:  # noqa: BLE001 - a peer can send anything
            self._end(exc)
            return
        if not self.received:
            self.call.tell("aiorpc.stream.first_item")
        self.received += len(items)
        if self.arrived is None:
            self.arrived = deque()
        self.arrived.append((self.received, len(message.body)))
        if len(self.arrived) == 1:
            self._check_next()
        self.inflow.items.extend(items)
        self.inflow.news.set()

    def _begin(self, opened: Message) -> None:
        if self.control is not None:
            return
        self.control = opened.reply_to or ""
        self.silence = silence_of(opened, self.alive_every)
        self.inflow.took = self.took
        self.unlisten = self.transport.on_state(self._on_state)
        self.wrote_at = self.heard_at
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.alive_every, self._stay_alive)

    # To the service

    def took(self) -> None:
        """The program took one item."""
        self.taken += 1
        if self.taken >= self.check_at:
            self._check()

    def _check(self) -> None:
        arrived = self.arrived
        while arrived and arrived[0][0] <= self.taken:
            self.unreported_bytes += arrived.popleft()[1]
        half = max(1, self.window // 2)
        if self.taken - self.reported >= half or self.unreported_bytes >= REPORT_BYTES:
            self._report()
        self._check_next()

    def _check_next(self) -> None:
        due = self.reported + max(1, self.window // 2)
        self.check_at = min(due, self.arrived[0][0]) if self.arrived else due

    def _report(self) -> None:
        self.reported, self.unreported_bytes = self.taken, 0
        self.wrote_at = monotonic()
        if self.control is not None and not self.future.done():
            message = encode_taken(self.calls.reply_to, self.correlation_id, self.taken)
            self.transport.send(
                Outgoing(
                    exchange="",
                    routing_key=self.control,
                    message=message,
                    mandatory=True,
                    settled=self._reached,
                )
            )

    def _reached(self, error: AioRpcError | None) -> None:
        if isinstance(error, Unroutable):
            why = "its process has ended, and the process's queue is gone. Open the stream again"
            self.fail(f"the service cannot be reached any more: {why}")
        elif error is not None:
            self.fail(f"the service cannot be reached any more ({error})")

    def _stay_alive(self) -> None:
        now, every = monotonic(), self.alive_every
        self.timer = asyncio.get_running_loop().call_later(every, self._stay_alive)
        if now - self.heard_at > self.silence:
            self.fail(f"the service was silent for {now - self.heard_at:.0f} s")
        elif now - self.wrote_at >= every / 2:
            self._report()

    def _on_state(self, state: State) -> None:
        if state not in (State.CONNECTED, State.BLOCKED):
            self.fail("the connection was lost")

    # The end

    def fail(self, why: str) -> None:
        """End the stream here, and cancel it at the service."""
        text = f"{self.call}: the stream ended after {self.received} items: {why}"
        self._end(ConnectionLost(text))

    def _end(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.cancel(self)

    def expired(self) -> None:
        """The timers call this when the deadline has passed."""
        if self.control is None:
            Pending.expired(self)
        else:
            waited = monotonic() - self.began_at
            self._end(
                RpcTimeout(
                    f"{self.call}: the stream was not at its end after {waited:.3g} s, and "
                    f"{self.received} items: pass a longer timeout to with_options(); None for no "
                    "limit"
                )
            )

    def close(self) -> None:
        """Stop the timer of this stream."""
        if self.timer is not None:
            self.timer.cancel()
        if self.unlisten is not None:
            self.unlisten()

    async def wait(self) -> None:
        """
        Wait for the end of the stream.

        Raises:
            Exception: the error with which it ended; see ``MethodProxy.stream``.
        """
        try:
            await self.future
        except asyncio.CancelledError:
            self.cancel(self)
            raise
        finally:
            self.close()
        if not self.ended:
            raise MalformedReply(
                f"{self.call} answered with one result, and not with a stream: its service does "
                "not know streams (Nameko, or an older aiorpc). The method ran; await the call "
                "instead"
            )

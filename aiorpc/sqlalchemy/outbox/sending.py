"""
Sends the messages of rows: those of one key one after the other, all others at once. Awaits the
broker's confirms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import msgspec

from ...entrypoints.retry import Retry
from ...exceptions import (
    AioRpcError,
    ConnectionLost,
    Unroutable,
    UnserializableValueError,
)
from ...transports.base import Outgoing, State, Transport
from ...transports.codec.properties import MalformedContent
from ...wire.message import Exchange, Message
from .claims import Batch, Unsent, now
from .tables import OutboxRow

__all__ = ["SENDING", "Sending"]

#: Seconds to wait for the confirms of a batch. Then its other rows are given back.
SENDING = 10.0
#: Characters of a reason that are kept.
_MOST_REASON = 1000


class Sending:
    """
    Sends the rows of one batch, and notes in the batch what became of them.

    Args:
        events: the exchange for events of the service.
        retry: when a message is sent again that the broker refuses.

    Attributes:
        unsure: the number of rows that the broker has neither confirmed nor refused.
    """

    def __init__(self, transport: Transport, events: Exchange, retry: Retry, batch: Batch) -> None:
        self._transport = transport
        self._events = events
        self._retry = retry
        self._batch = batch
        self._flying: dict[int, Outgoing] = {}
        self._chains = list(_chains(batch))
        self._going = len(self._chains)
        self._done = asyncio.Event()
        self._held = 0
        self.unsure = 0

    async def run(self) -> None:
        """Return when the rows are sent, when the connection is lost, or when the time is over."""
        forget = self._transport.on_state(self._state_changed)
        self._state_changed(self._transport.state)
        try:
            async with asyncio.timeout(SENDING):
                await self._transport.drained()
                for chain in () if self._done.is_set() else self._chains:
                    self._next(chain)
                await self._done.wait()
        except TimeoutError:
            pass
        finally:
            forget()
            for outgoing in self._flying.values():
                self._transport.retract(outgoing)
            batch = self._batch
            self.unsure = len(batch.rows) - len(batch.sent) - len(batch.failed) - self._held

    def _state_changed(self, state: State) -> None:
        """Give the rows back when the connection is lost: another process may have one."""
        if state not in (State.CONNECTED, State.BLOCKED):
            self._done.set()

    def _next(self, chain: Iterator[OutboxRow]) -> None:
        """Send the next row of *chain*."""
        row = next(chain, None)
        if row is None:
            self._end()
            return
        try:
            message = _sent_late(row)
        except MalformedContent as error:
            self._settled(chain, row, UnserializableValueError(str(error)))
            return
        outgoing = self._flying[row.id] = Outgoing(
            exchange=row.exchange,
            routing_key=row.routing_key,
            message=message,
            mandatory=row.mandatory,
            again=_same,
            settled=partial(self._settled, chain, row),
        )
        self._transport.send(outgoing)

    def _end(self) -> None:
        self._going -= 1
        if not self._going:
            self._done.set()

    def _settled(
        self, chain: Iterator[OutboxRow], row: OutboxRow, error: AioRpcError | None
    ) -> None:
        self._flying.pop(row.id, None)
        if error is None or self._is_unheard(row, error):
            self._batch.sent.add(row.id)
            self._next(chain)
            return
        connected = self._transport.state is State.CONNECTED
        if not isinstance(error, ConnectionLost) or connected:  # the broker refuses this message
            self._batch.failed[row.id] = self._failure(row, error)
            self._held += sum(1 for _ in chain)  # the later rows of the key must not go
        self._end()

    def _is_unheard(self, row: OutboxRow, error: AioRpcError) -> bool:
        """Whether no service handles the event: its exchange is deleted with its last handler."""
        return (
            isinstance(error, Unroutable)
            and not row.mandatory
            and self._events.auto_delete
            and row.exchange == self._events.name
        )

    def _failure(self, row: OutboxRow, error: AioRpcError) -> Unsent:
        reason = f"{type(error).__name__}: {error}"[:_MOST_REASON]
        at = row.attempts - self._retry.immediate
        if isinstance(error, UnserializableValueError) or at >= len(self._retry.delays):
            return Unsent(reason, None)
        return Unsent(reason, 0 if at < 0 else now() + self._retry.delays[at])


def _chains(batch: Batch) -> Iterator[Iterator[OutboxRow]]:
    """Yield the rows that go one after the other: those of one key."""
    by_key: dict[str, list[OutboxRow]] = {}
    for row in batch.rows:
        if row.order_key is None:
            yield iter((row,))
        else:
            by_key.setdefault(row.order_key, []).append(row)
    yield from map(iter, by_key.values())


def _sent_late(row: OutboxRow) -> Message:
    """Return the message of *row*, with an ``expiration`` that began when the row was written."""
    message = row.message
    if message.expiration is not None:
        left = max(1, message.expiration - max(0, now() - row.written_at))
        message = msgspec.structs.replace(message, expiration=left)
    return message


def _same(message: Message) -> Message:
    """Re-send *message* unchanged after a lost connection."""
    return message

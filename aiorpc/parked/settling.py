"""
Replays and purges parked messages. Awaits the transport; no other I/O.

A replay publishes a copy, and acks the parked message when the broker has confirmed the copy. So a
message is in a queue at every moment, and if this process ends in between, twice: at most the
messages of one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial

import msgspec

from ..exceptions import AioRpcError, ConnectionLost, Unroutable, UnserializableValueError
from ..transports.base import Outgoing, Reader, Transport
from ..wire.message import Message
from ..wire.parked import replayed
from .messages import ParkedMessage, Selection
from .reading import batches, count

__all__ = ["AT_ONCE", "INTERRUPTED", "Left", "Purge", "Replay", "Settled", "Settling"]

#: Seconds to wait until the broker confirms the replayed messages of one batch.
CONFIRMING = 30.0

#: Messages that are on their way at a time: a batch, with a channel. When a quorum queue has yet to
#: take 32 acks of a channel, RabbitMQ (3.10 to 4.3) keeps later ones, and loses them if the channel
#: closes.
AT_ONCE = 30

#: Why the rest was not tried after a signal.
INTERRUPTED = "the command was interrupted"

#: Returns the message to replay in place of the given one; ``None``: leave it where it is.
Edit = Callable[[ParkedMessage, Message], Awaitable[Message | None]]


class Left(msgspec.Struct):
    """A wanted message that stays in its parked queue, and why."""

    position: int
    id: str
    reason: str


class Settled(msgspec.Struct):
    """
    What happened to the messages of one parked queue.

    Attributes:
        queue: the parked queue.
        messages: how many it had at the beginning. Messages that come later are left alone.
        read: how many of them were read.
        wanted: how many of those were selected.
        done: how many were replayed or purged; in a dry run, how many would be.
        failed: the selected messages that stay.
        missing: the names of the selection that no message has.
        to: the exchanges and routing keys that were replayed to, with the number of messages.
        ended: why the rest was not tried; empty if all were.
        left: how many messages the queue has at the end. They failed, were not selected, or arrived
            during the walk; or another command gave them back.
    """

    queue: str
    messages: int = 0
    read: int = 0
    wanted: int = 0
    done: int = 0
    failed: list[Left] = []
    missing: list[str] = []
    to: dict[str, int] = {}
    ended: str = ""
    left: int = 0


class Settling:
    """Walks through the messages of one queue once, and settles the wanted ones."""

    def __init__(
        self, transport: Transport, queue: str, wanted: Selection, *, dry: bool = False
    ) -> None:
        self.transport = transport
        self.wanted = wanted
        self.dry = dry
        self.stopped = False
        self.settled = Settled(queue)
        self.changed: Callable[[], None] = lambda: None
        self._names = set(wanted.names)

    def stop(self) -> None:
        """Settle no more batches. Those that are on their way are waited for."""
        self.stopped = True

    async def run(self) -> Settled:
        """
        Settle the wanted messages. A lost connection ends it, and :attr:`Settled.ended` says so.

        Raises:
            ConfigurationError: the queue cannot be read.
        """
        settled = self.settled
        try:
            settled.messages = await count(self.transport, settled.queue) or 0
            if settled.messages:
                async with self.transport.reader(settled.queue) as reader:
                    await self._walk(reader)
                settled.left = await count(self.transport, settled.queue) or 0
        except ConnectionLost as error:
            settled.ended = str(error)
        settled.missing = sorted(self._names)
        return settled

    async def _walk(self, reader: Reader) -> None:
        most = min(self.settled.messages, self.wanted.last or self.settled.messages)
        async with aclosing(batches(reader, most, AT_ONCE)) as reading:
            async for batch in reading:
                chosen = list(filter(self._takes, batch))
                self.settled.read += len(batch)
                self.settled.wanted += len(chosen)
                batch.clear()
                await self._settle(chosen)
                chosen.clear()
                self.changed()
                if self.stopped:
                    self.settled.ended = INTERRUPTED
                    return
                if self.wanted.names and not self._names:
                    return  # each name names one message

    def _takes(self, message: ParkedMessage) -> bool:
        if not self.wanted.takes(message):
            return False
        name = self.wanted.named(message)
        if name is not None and name not in self._names:
            return False  # another message has the same contents, or the same id
        self._names.discard(name or "")
        return True

    def _require_current(self, message: ParkedMessage) -> None:
        if message.delivery.stale:
            raise ConnectionLost(f"the connection to {self.transport.url} was lost")

    async def _settle(self, chosen: list[ParkedMessage]) -> None:
        raise NotImplementedError


def _ack(messages: Iterable[ParkedMessage]) -> None:
    """Ack *messages* in one turn of the loop, so that the transport joins their acks."""
    for each in messages:
        each.delivery.ack()


class Purge(Settling):
    """Deletes the wanted messages of one parked queue."""

    async def _settle(self, chosen: list[ParkedMessage]) -> None:
        if not self.dry:
            for each in chosen:
                self._require_current(each)
            _ack(chosen)
        self.settled.done += len(chosen)


class Replay(Settling):
    """
    Sends the wanted messages of one parked queue to where they came from.

    Args:
        publish: send them to their exchanges and routing keys, not only to their queue.
        edit: changes each message before.
    """

    def __init__(
        self,
        transport: Transport,
        queue: str,
        wanted: Selection,
        *,
        dry: bool = False,
        publish: bool = False,
        edit: Edit | None = None,
    ) -> None:
        super().__init__(transport, queue, wanted, dry=dry)
        self.edit = edit
        self._publish = publish
        self._unsettled: dict[ParkedMessage, Outgoing] = {}
        self._confirmed: list[ParkedMessage] = []
        self._all_settled = asyncio.Event()

    async def _settle(self, chosen: list[ParkedMessage]) -> None:
        try:
            for each in chosen:
                await self._send(each)
            await self._confirmed_all()
        finally:
            for outgoing in self._unsettled.values():
                self.transport.retract(outgoing)
            self._unsettled.clear()
            _ack(self._confirmed)
            self._confirmed.clear()

    async def _confirmed_all(self) -> None:
        while self._unsettled:
            self._all_settled.clear()
            try:
                async with asyncio.timeout(CONFIRMING):
                    await self._all_settled.wait()
            except TimeoutError:
                raise ConnectionLost(
                    f"{len(self._unsettled)} replayed messages are not confirmed within "
                    f"{CONFIRMING:g} s: {self.transport.condition()}. They stay parked, and may "
                    "have arrived too"
                ) from None

    async def _send(self, parked: ParkedMessage) -> None:
        if parked.unreadable:
            return self._fail(parked, f"it cannot be read: {parked.unreadable}")
        try:
            exchange, key, message = replayed(parked.message, parked.parking, publish=self._publish)
        except ValueError as error:
            return self._fail(parked, f"where it came from is not known: {error}")
        if self.edit is not None:
            edited = await self.edit(parked, message)
            if edited is None:
                return self._fail(parked, "it was not edited, and is left where it is")
            message = edited
        place = f"exchange {exchange!r}, key {key!r}" if exchange else f"queue {key}"
        if self.dry:
            return self._done(place)
        self._require_current(parked)
        outgoing = Outgoing(
            exchange=exchange,
            routing_key=key,
            message=message,
            mandatory=True,
            expires_at=asyncio.get_running_loop().time() + CONFIRMING,
            settled=partial(self._sent, parked, place),
        )
        try:
            self.transport.send(outgoing)
        except UnserializableValueError as error:
            return self._fail(parked, str(error))
        self._unsettled[parked] = outgoing

    def _sent(self, parked: ParkedMessage, place: str, error: AioRpcError | None) -> None:
        if self._unsettled.pop(parked, None) is None:
            return
        if not self._unsettled:
            self._all_settled.set()
        if error is None:
            self._confirmed.append(parked)
            self._done(place)
        elif isinstance(error, Unroutable):
            self._fail(parked, f"no queue takes it: {place}. {self._remedy(parked)}")
        else:
            self._fail(parked, str(error))

    def _remedy(self, parked: ParkedMessage) -> str:
        remedy = "Start the service that declares the queue"
        if self._publish or parked.parking.is_request or parked.parking.exchange is None:
            return remedy
        return f"{remedy}, or add --publish to send it to exchange {parked.parking.exchange!r}"

    def _done(self, place: str) -> None:
        self.settled.done += 1
        self.settled.to[place] = self.settled.to.get(place, 0) + 1

    def _fail(self, parked: ParkedMessage, reason: str) -> None:
        self.settled.failed.append(Left(parked.position, parked.id, reason))

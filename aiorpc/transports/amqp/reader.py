"""
Reads a queue of RabbitMQ in batches. Does I/O through ``link``.

Each batch has a consumer, because a quorum queue writes each ``basic.get`` to its log. It has a
channel too, because a quorum queue keeps the order only of messages that come back from one channel
(3.10), or in one ``basic.nack`` (4.3):

* A channel that closes gives its messages back to the head of the queue. The queue counts this as a
  failed delivery.
* Since 4.3, a ``basic.nack`` does the same, and does not count. Before, it counts too, and moves
  the messages to the end of a quorum queue without a delivery limit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiormq

from ...context import new_id
from ...exceptions import ConfigurationError, ConnectionLost
from ...wire.message import Message
from ...wire.names import UNREADABLE
from ..base import Delivery, QueueState, Received
from ..reading import ANSWER_TIMEOUT, LookCost, Reader
from .consumer import ConsumerChannel
from .errors import Refused, quietly, reason
from .lane import never_called
from .link import Link
from .methods import Consume, QueueDeclare
from .topology import misdeclared, version_of

__all__ = ["AmqpReader", "ReaderChannel"]

#: Seconds without a message after which the reader asks whether the queue has more.
SILENCE = 0.2
#: From this version on, a ``basic.nack`` is not a failed delivery.
_NACK_IS_FREE = (4, 3)
#: AMQP's reply code ``access-refused``.
_NO_ACCESS = 403
#: The delivery limit of a quorum queue without an argument, from RabbitMQ 4.0 on.
_DEFAULT_LIMIT = 20


class ReaderChannel(ConsumerChannel):
    """A channel that rejects no message, not even one that cannot be read."""

    __slots__ = ()

    def malformed(self, tag: int, exchange: str, routing_key: str, reason: str) -> None:
        unreadable = Message(body=b"", headers={UNREADABLE: reason})
        self.delivered(tag, False, exchange, routing_key, unreadable)

    def give_back(self) -> None:
        """Give back all messages in one frame."""
        self.lane.flush()  # a multiple nack covers tags whose ack is not written yet
        if self.open and self.unsettled:
            self.lane.write(self.encoder.nack(max(self.unsettled), multiple=True))
            self.unsettled.clear()


class AmqpReader(Reader):
    """
    Args:
        opened: wraps an aiormq channel in a channel of ours.
        inspect: :meth:`..base.Transport.inspect`.
    """

    def __init__(
        self,
        queue: str,
        link: Link,
        opened: Callable[[aiormq.Channel, Received], ReaderChannel],
        inspect: Callable[[str, float], Awaitable[QueueState | None]],
    ) -> None:
        self.queue = queue
        self._link = link
        self._opened = opened
        self._inspect = inspect
        self._channels: list[ReaderChannel] = []
        self._taken: list[Delivery] = []
        self._news = asyncio.Event()

    async def cost(self) -> LookCost:
        # No broker can make such a queue. If the queue exists, the refusal names its argument.
        impossible = QueueDeclare(
            queue=self.queue,
            durable=True,
            arguments={"x-queue-type": "quorum", "x-delivery-limit": "?", "x-max-priority": 1},
        )
        version: tuple[int, ...] = ()
        try:
            with quietly():
                async with self._link.passing_channel() as channel:
                    version = version_of(channel)
                    if version >= _NACK_IS_FREE:
                        return LookCost(False)
                    await channel.rpc(impossible)
        except Refused as refused:
            return _cost(refused.text, version)
        except (OSError, TimeoutError) as error:
            raise ConnectionLost(f"{self._link.url}: {reason(error)}") from error
        return LookCost(None)

    async def take(self, most: int) -> list[Delivery]:
        self._taken = []
        tag = f"aiorpc-{new_id()}"
        consume = Consume(queue=self.queue, consumer_tag=tag)

        async def begin(amqp: aiormq.Channel) -> None:
            await amqp.basic_qos(prefetch_count=most)
            await amqp.rpc(consume)

        async def end(amqp: aiormq.Channel) -> None:
            await amqp.basic_cancel(tag)

        try:
            with quietly():
                channel = await self._next_channel()
                channel.amqp.consumers[tag] = never_called
                await channel.request(begin)
                await self._come(channel, most)
                await channel.request(end)
        except Refused as refused:
            raise _misread(f"queue {self.queue!r} on {self._link.url}", refused) from None
        except (OSError, TimeoutError) as error:
            raise ConnectionLost(f"{self._link.url}: {reason(error)}") from error
        return self._taken

    async def aclose(self) -> None:
        channels, self._channels = self._channels, []
        for channel in channels:  # in this order, each to its end
            if version_of(channel.amqp) >= _NACK_IS_FREE:
                channel.give_back()
            await channel.close()

    async def _next_channel(self) -> ReaderChannel:
        """Open a channel, and close those whose messages are all acked."""
        for channel in self._channels:
            if not channel.unsettled:
                await channel.close()
        self._channels = [each for each in self._channels if each.unsettled]
        self._news.clear()
        channel = self._opened(await self._link.channel(), self._took)
        channel.ended.add_done_callback(lambda _: self._news.set())
        self._channels.append(channel)
        return channel

    def _took(self, delivery: Delivery) -> None:
        self._taken.append(delivery)
        self._news.set()

    async def _come(self, channel: ReaderChannel, most: int) -> None:
        """
        Return when *most* messages have come, or the queue has no more.

        Raises:
            Refused, ConnectionError: the channel has ended, or no message comes.
        """
        silent = 0.0
        while channel.open and len(self._taken) < most:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENCE):
                    await self._news.wait()
                    silent = 0.0
                    continue
            silent += SILENCE
            state = await self._inspect(self.queue, ANSWER_TIMEOUT)
            if state is not None and not state.messages:
                return
            if silent >= ANSWER_TIMEOUT:
                raise ConnectionError(
                    f"queue {self.queue!r} delivers none of its messages: its node is down, "
                    "another consumer is its single active consumer, or it is a stream"
                )
        if not channel.open:
            raise channel.ended.result() or ConnectionError("the channel was closed")


def _misread(what: str, refused: Refused) -> ConfigurationError:
    """Return the error for *what*, from which the broker lets us not consume."""
    if "in exclusive use" in refused.text:
        advice = "another consumer has it alone, so it cannot be read: stop that consumer first"
    elif refused.code == _NO_ACCESS:
        advice = "the user lacks the permission to read it"
    else:
        return misdeclared(what, refused)
    return ConfigurationError(f"{what}: {advice} ({refused})")


def _cost(refusal: str, version: tuple[int, ...]) -> LookCost:
    """Read what the broker says about a queue that cannot be declared."""
    found = re.search(r"'x-delivery-limit'.* but current is (?:none|'(-?\d+)')", refusal)
    if found:
        default = _DEFAULT_LIMIT if version >= (4,) else None
        return LookCost(True, default if found[1] is None else int(found[1]))
    is_other = "'x-max-priority'" in refusal or "'x-queue-type'" in refusal
    return LookCost(False if is_other else None)

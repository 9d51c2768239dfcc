"""
Reads a queue in batches, for tools that look at messages. Imports no AMQP library; no I/O.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager

import msgspec

from .incoming import Delivery

__all__ = ["ANSWER_TIMEOUT", "LookCost", "Reader"]

#: Seconds to wait for each answer of the broker, and for the next message of a queue that has some.
ANSWER_TIMEOUT = 10.0


class LookCost(msgspec.Struct, frozen=True):
    """
    What a look at a message costs: a queue with a delivery limit deletes a message that is given
    back too often.

    Attributes:
        counts: whether the queue counts a message that is given back as a failed delivery; ``None``
            if the broker does not say.
        limit: the limit in the queue's arguments, or else the broker's default. -1 and ``None``: no
            limit, if no policy sets one.
    """

    counts: bool | None
    limit: int | None = None


class Reader(AbstractAsyncContextManager["Reader"]):
    """
    Takes messages from the head of one queue, on channels of its own, on one connection.

    The broker keeps each message until it is acked, and shows it to nobody else. The end of the
    reader gives the others back to their places, marked as redelivered. If its connection ends
    first, the broker gives them back; a quorum queue may change their order then. A reader is never
    moved to another connection.
    """

    #: The name of the queue.
    queue: str

    @abstractmethod
    async def cost(self) -> LookCost:
        """
        Return what it costs to give a message back.

        Raises:
            ConnectionLost: the connection is lost, or the broker does not answer.
        """

    @abstractmethod
    async def take(self, most: int) -> list[Delivery]:
        """
        Take at most *most* messages. Return fewer only if the queue has no more.

        A message of any size is read. If its properties cannot be read, it has the header
        ``UNREADABLE``, and no body.

        Raises:
            ConfigurationError: the queue does not exist, or the user may not read it.
            ConnectionLost: the connection is lost, or the broker does not answer, or it delivers
                nothing although the queue has messages.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Give back the messages that are not acked. Bounded; idempotent; never raises."""

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

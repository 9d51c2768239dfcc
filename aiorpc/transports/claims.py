"""
Rights that one connection to a broker holds at a time. Imports no AMQP library; no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import msgspec

from ..exceptions import ConnectionLost
from ..wire.message import Message, Queue
from .confirming import send_and_wait
from .outgoing import Outgoing

__all__ = ["Claim", "Got", "claim_queue"]

#: Seconds to wait for each answer of the broker.
ANSWER_TIMEOUT = 10.0


class Got(msgspec.Struct, eq=False):
    """A message that :meth:`Claim.get` took. The broker requeues it if it is not acked."""

    body: bytes
    ack: Callable[[], None]


class Claim(ABC):
    """
    A right at the broker: an exclusive queue. The broker deletes the queue when this connection
    ends, and then another connection can claim it. A claim is never moved to another connection.

    All requests of a claim use one channel of the connection that holds the right. If the
    connection is lost, they fail, and nothing is sent on the next connection. Each waits at most
    :data:`ANSWER_TIMEOUT` seconds.
    """

    #: The name of the exclusive queue.
    name: str

    @property
    @abstractmethod
    def held(self) -> bool:
        """Whether this process knows no reason why the right ended. Asks nobody."""

    @abstractmethod
    async def confirm(self) -> None:
        """
        Ask the broker whether this connection holds the right.

        Raises:
            ConnectionLost: it does not, or the broker does not answer.
        """

    @abstractmethod
    async def get(self, queue: str) -> Got | None:
        """
        Take the first message of *queue* (``basic.get``); ``None`` if *queue* is empty.

        Raises:
            ConnectionLost: the right is lost, *queue* does not exist, or nobody answers.
        """

    async def put(self, queue: str, message: Message) -> None:
        """
        Publish *message* to *queue*. Return when the broker has confirmed it.

        Raises:
            ConnectionLost: the broker did not confirm *message*, which may be in *queue*.
            Overloaded: the broker refused *message*.
            Unroutable: *queue* does not exist.
        """
        self._require_held()
        outgoing = Outgoing(exchange="", routing_key=queue, message=message, mandatory=True)
        try:
            await send_and_wait(outgoing, self._publish, ANSWER_TIMEOUT)
        except TimeoutError:
            raise ConnectionLost(
                f"{outgoing.description} was not confirmed within {ANSWER_TIMEOUT:g} s"
            ) from None

    @abstractmethod
    def _publish(self, outgoing: Outgoing) -> object: ...

    def _require_held(self) -> None:
        if not self.held:
            raise ConnectionLost(f"this connection does not hold {self.name} any more")

    @abstractmethod
    async def release(self) -> None:
        """Delete the exclusive queue. Bounded; idempotent; never raises."""


def claim_queue(name: str) -> Queue:
    """
    Return the exclusive queue of a claim. The holder consumes it, so that the broker also deletes
    it when the channel of the claim ends.
    """
    return Queue(name, durable=False, exclusive=True, auto_delete=True)

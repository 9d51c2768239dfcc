"""
What every transport does: connect and stay connected, declare, send, consume.

The hot path has no coroutines. ``send``, ``Delivery.ack`` and ``Delivery.answer`` put a message on
its way and return; deliveries come in as plain calls of a handler, in the loop's thread. So a
transport is free to join a whole loop turn's writes into one, and nobody above it notices.

A transport owns its reconnecting. What is sent while it is disconnected waits (until it expires);
what was sent and not confirmed when the connection broke is sent again, if its sender agreed.
"""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, Self

import msgspec

from ..exceptions import AioRpcError
from ..wire.message import Exchange, Message, Queue

__all__ = [
    "Delivery",
    "Outgoing",
    "QueueState",
    "Received",
    "State",
    "Subscription",
    "Transport",
]


class State(enum.Enum):
    """What a transport is doing. ``BLOCKED`` is connected, but the broker takes no messages."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BLOCKED = "blocked"
    CLOSED = "closed"


class Outgoing(msgspec.Struct, eq=False, kw_only=True):
    """
    One message on its way out.

    Attributes:
        mandatory: a message that no queue takes comes back, and settles with ``Unroutable``.
        confirm: settle when the broker has taken responsibility; without it the message settles
            when it is written, and a later return settles it a second time only with an error.
        expires_at: loop time past which it is not worth sending; ``None`` for never. One that
            expires while it waits for a connection settles with ``ConnectionLost``.
        again: called when the connection broke before the confirm came: the message to send on the
            new connection, or ``None`` to settle with ``ConnectionLost``. Without it, the same.
        settled: called at most once with ``None`` (confirmed, or written) or with the error. Never
            called inside ``send`` itself. ``Unroutable`` is also the error for an exchange that is
            not there, mandatory or not; ``UnserializableValueError`` for what AMQP cannot carry.
    """

    exchange: str
    routing_key: str
    message: Message
    mandatory: bool = False
    confirm: bool = True
    expires_at: float | None = None
    again: Callable[[Message], Message | None] | None = None
    settled: Callable[[AioRpcError | None], None] | None = None


class Delivery(ABC):
    """
    A message that reached us. The broker keeps it until it is acked or rejected, once.

    All of these return at once. If the connection that brought the message is gone, the broker has
    already taken it back: ack and reject then do nothing, knowingly. So do those that come after
    the first; an ``answer`` after them is a ``RuntimeError``.
    """

    __slots__ = ("exchange", "message", "received_at", "redelivered", "routing_key")

    message: Message
    exchange: str
    routing_key: str
    redelivered: bool
    #: Loop time at which it reached this process.
    received_at: float

    @property
    @abstractmethod
    def stale(self) -> bool:
        """Whether the connection that brought it is gone, so that the broker delivers it again."""

    @abstractmethod
    def ack(self) -> None:
        """Done: the broker may forget it."""

    @abstractmethod
    def reject(self, *, requeue: bool) -> None:
        """Give it back (*requeue*), or drop it (to the dead letters, where the queue has any)."""

    @abstractmethod
    def answer(self, reply: Outgoing) -> None:
        """
        Send *reply*, then ack, on one channel, so that the ack never overtakes the reply. With
        ``reply.confirm`` the ack waits for the reply's confirm. If the connection is gone, the
        reply alone is sent, on the next one.

        Raises:
            UnserializableValueError: AMQP cannot carry the reply, and it has no ``settled`` to be
                told so. The delivery is not settled: answer something else.
        """


#: Handles one delivery. It must not block, and whatever it raises is logged, not lost.
Received = Callable[[Delivery], None]


class QueueState(msgspec.Struct, frozen=True):
    """What a passive declare tells: ``consumers`` is 0 for a queue nobody listens to."""

    name: str
    exists: bool
    messages: int = 0
    consumers: int = 0


class Subscription(ABC):
    """A consumer on one queue; it comes back by itself after every reconnect."""

    queue: Queue

    @property
    @abstractmethod
    def consuming(self) -> bool:
        """Whether the broker has it as a consumer right now."""

    @abstractmethod
    async def cancel(self) -> None:
        """
        Take no more deliveries. Those in hand can still be settled until the transport closes.
        Idempotent; bounded, also when the broker does not answer; safe while disconnected.
        """


class Transport(ABC):
    """
    A connection to a broker that heals itself. Enter it to connect, leave it to hang up.

    Everything here belongs to one event loop.
    """

    #: The broker's URL without its password, for logs and errors.
    url: str
    state: State

    @abstractmethod
    async def start(self, timeout: float | None = None) -> None:
        """
        Connect; return when connected. Without *timeout* (seconds) wait for the broker as long as
        it takes, with one log line that says so.

        Raises:
            ConfigurationError: the broker refuses us for good: wrong user, password or vhost.
            ConnectionLost: *timeout* passed; the text says what the last attempt met.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """
        Write what has been sent, then hang up, in bounded time. What is not settled by then settles
        with ``ConnectionLost``. Idempotent.
        """

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @abstractmethod
    def send(self, outgoing: Outgoing) -> None:
        """
        Put *outgoing* on its way, now if connected, else when it is connected again.

        Raises:
            UnserializableValueError: AMQP cannot carry it, and it has no ``settled`` to be told so.
        """

    @abstractmethod
    def retract(self, outgoing: Outgoing) -> bool:
        """
        Its sender wants it no more: it does not leave any more if it still waits, nor is it sent
        again. Whether it was still waiting; then it is not settled either.
        """

    @abstractmethod
    async def publish(self, outgoing: Outgoing, timeout: float | None = None) -> None:
        """
        ``send`` and wait until it is settled. Given up or cancelled, it is retracted.

        Raises:
            Unroutable: it was mandatory, and no queue takes it.
            ConnectionLost: it could not be sent, or not confirmed, within *timeout* seconds.
        """

    @abstractmethod
    async def declare(
        self, exchanges: Sequence[Exchange] = (), queues: Sequence[Queue] = ()
    ) -> None:
        """
        Declare *exchanges*, then *queues* with their exchanges and bindings; also again after
        every reconnect, until the transport closes. Waits for a connection.

        Raises:
            ConfigurationError: the broker has it with other flags (406); the text says which.
        """

    @abstractmethod
    async def subscribe(
        self,
        queue: Queue,
        received: Received,
        *,
        prefetch: int = 0,
        acks: Literal["each", "joined"] = "each",
        keep: bool = False,
        gone: Callable[[], None] | None = None,
        arguments: Callable[[int], dict[str, Any]] | None = None,
    ) -> Subscription:
        """
        Declare *queue* with its exchange and binding, and consume from it on a channel of its own.
        Waits for a connection; comes back after reconnecting, when the broker cancels the consumer,
        and when the queue was deleted.

        Args:
            prefetch: the most deliveries that may be unsettled at a time; 0 for no limit.
            acks: ``joined`` acks may be collected and sent as one ``multiple`` ack a loop turn.
            keep: messages wait in the queue for us while we are away. On reconnecting it is looked
                for first; if it is gone, *gone* is called, once it has been declared anew.
            arguments: of ``basic.consume``, made from the number of reconnects so far.

        Raises:
            ConfigurationError: the broker has the queue with other flags (406).
        """

    @abstractmethod
    async def inspect(self, queue: str, timeout: float = 0.04) -> QueueState | None:
        """
        What the broker says of *queue*, on a channel that is for nothing else (a look at a missing
        queue closes it). ``None`` when it cannot say within *timeout* seconds, or is not connected.
        Looks at the same queue at the same time are one look. For a queue that ``expires`` a look
        is a use: it has its full time again.
        """

    @abstractmethod
    async def delete(self, queue: str) -> None:
        """Delete *queue*, if it is there and we are connected; bounded, and never an error."""

    @property
    @abstractmethod
    def subscriptions(self) -> Collection[Subscription]:
        """Those that have not been cancelled."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many messages wait for a connection, or for a broker that blocks."""

    async def caught_up(self, timeout: float) -> bool:
        """
        Return True when no message waits any more; False after *timeout* seconds, and at once where
        waiting is of no use: the broker blocks, or the transport is closed.
        """
        changed = asyncio.Event()
        stop_listening = self.on_state(lambda _: changed.set())
        try:
            async with asyncio.timeout(timeout):
                while self.waiting:
                    if self.state in (State.BLOCKED, State.CLOSED):
                        return False
                    if self.state is State.CONNECTED:
                        await asyncio.sleep(0.005)  # they leave in batches
                    else:
                        changed.clear()
                        await changed.wait()
        except TimeoutError:
            return False
        finally:
            stop_listening()
        return True

    @property
    @abstractmethod
    def congested(self) -> bool:
        """Whether more is waiting to be written than is good: senders that can wait should."""

    @abstractmethod
    async def drained(self) -> None:
        """Return when it is no longer congested."""

    @abstractmethod
    def drop_connection(self, pause: float | None = 0.05) -> None:
        """
        For tests: break the connection, as a network does. What is unacked goes back to its queue,
        and confirms that have not come yet are lost. It comes back after *pause* seconds; with
        ``None``, not before :meth:`restore_connection`.
        """

    @abstractmethod
    def restore_connection(self) -> None:
        """End what :meth:`drop_connection` began. Idempotent."""

    @abstractmethod
    def on_state(self, listener: Callable[[State], None]) -> Callable[[], None]:
        """Call *listener* at every change of state; returns the way to stop that."""

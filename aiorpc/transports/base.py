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
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, Self

import msgspec

from ..exceptions import AioRpcError, ConnectionLost
from ..wire.message import Exchange, Message, Queue

__all__ = [
    "Delivery",
    "Heard",
    "Outgoing",
    "QueueState",
    "Received",
    "Returned",
    "State",
    "Subscription",
    "Transport",
]

log = logging.getLogger(__name__)


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
        closes: how often the broker closed the channel that it was on; the transport's own.

    Who sends very many may derive from it, and override ``conclude`` and ``once_more`` in place of
    passing two callbacks with each. Without ``settled``, ``conclude`` hears of errors only.
    """

    exchange: str
    routing_key: str
    message: Message
    mandatory: bool = False
    confirm: bool = True
    expires_at: float | None = None
    again: Callable[[Message], Message | None] | None = None
    settled: Callable[[AioRpcError | None], None] | None = None
    closes: int = 0

    def conclude(self, error: AioRpcError | None) -> None:
        """Tell the sender; an error that has no sender to be told to is logged."""
        if self.settled is not None:
            self.settled(error)
        elif error is not None:
            # Thousands may end so when a connection breaks, and that has its own line.
            level = logging.DEBUG if isinstance(error, ConnectionLost) else logging.WARNING
            log.log(level, "a message whose sender does not wait was not delivered: %s", error)

    def once_more(self) -> Message | None:
        """What to send in its place on the next connection; ``None`` if nothing."""
        return None if self.again is None else self.again(self.message)

    def retracted(self) -> None:
        """Its sender wants it no more: it is not sent again."""
        self.again = None


class Delivery(msgspec.Struct, eq=False):
    """
    A message that reached us. The broker keeps it until it is acked or rejected, once. Abstract: a
    struct, since one is made for every message.

    All of these return at once. If the connection that brought the message is gone, the broker has
    already taken it back: ack and reject then do nothing, knowingly. So do those that come after
    the first; an ``answer`` after them is a ``RuntimeError``.

    Attributes:
        received_at: loop time at which it reached this process.
    """

    message: Message
    exchange: str
    routing_key: str
    redelivered: bool
    received_at: float

    @property
    def stale(self) -> bool:
        """Whether the connection that brought it is gone, so that the broker delivers it again."""
        raise NotImplementedError

    def ack(self) -> None:
        """Done: the broker may forget it."""
        raise NotImplementedError

    def reject(self, *, requeue: bool) -> None:
        """Give it back (*requeue*), or drop it (to the dead letters, where the queue has any)."""
        raise NotImplementedError

    def answer(self, reply: Outgoing) -> bool:
        """
        Send *reply*, then ack, on one channel, so that the ack never overtakes the reply. With
        ``reply.confirm`` the ack waits for the reply's confirm, and ``reply.settled`` is called
        when the broker has the ack: what it does may end this process. If the connection is gone,
        the reply alone is sent, on the next one; then it returns False, since somebody is given
        the message again.

        Raises:
            UnserializableValueError: AMQP cannot carry the reply, and it has no ``settled`` to be
                told so. The delivery is not settled: answer something else.
        """
        raise NotImplementedError


#: Handles one delivery. It must not block, and whatever it raises is logged, not lost.
Received = Callable[[Delivery], None]
#: Handles one message that is acked without its doing; as above.
Heard = Callable[[Message], None]
#: Takes a mandatory message that came back, and the error that says why.
Returned = Callable[[Message, AioRpcError], None]


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
    #: Whether more waits to be written than is good: senders that can wait should. It is kept, and
    #: not worked out, since it is asked before every message.
    congested: bool = False

    def __init__(self) -> None:
        self.state = State.CLOSED
        self._listeners: list[Callable[[State], None]] = []
        self._returns: dict[str, Returned] = {}

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

    async def publish(self, outgoing: Outgoing, timeout: float | None = None) -> None:
        """
        ``send`` and wait until it is settled. Given up or cancelled, it is retracted.

        Raises:
            Unroutable: it was mandatory, and no queue takes it.
            ConnectionLost: it could not be sent, or not confirmed, within *timeout* seconds.
        """
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[AioRpcError | None] = loop.create_future()
        tell = outgoing.settled

        def on_settled(error: AioRpcError | None) -> None:
            if not settled.done():
                settled.set_result(error)
            if tell is not None:
                tell(error)

        outgoing.settled = on_settled
        if timeout is not None:
            at = loop.time() + timeout
            outgoing.expires_at = min(at, outgoing.expires_at or at)
        self.send(outgoing)
        error: AioRpcError | None
        try:
            async with asyncio.timeout(timeout):
                error = await settled
        except TimeoutError:
            error = ConnectionLost(
                f"a message to exchange {outgoing.exchange!r}, key {outgoing.routing_key!r}, was "
                f"not confirmed within {timeout:g} s: {self.condition()}"
            )
        finally:
            if not settled.done() or settled.cancelled():
                self.retract(outgoing)  # nobody waits any more: not later, and not again
        if error is not None:
            raise error

    def condition(self) -> str:
        """How it is, for people: completes "not confirmed in time: ..."."""
        match self.state:
            case State.CONNECTED:
                return f"{self.url} is connected and did not answer"
            case State.BLOCKED:
                return f"{self.url} takes no messages for now (a memory or disk alarm)"
            case _:
                return f"not connected to {self.url}"

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
            keep: messages wait in the queue for us while we are away. On reconnecting it is looked
                for first; if it is gone, *gone* is called, once it has been declared anew.
            arguments: of ``basic.consume``, made from the number of reconnects so far.

        Raises:
            ConfigurationError: the broker has the queue with other flags (406).
        """

    @abstractmethod
    async def listen(
        self,
        queue: Queue,
        heard: Heard,
        *,
        keep: bool = False,
        gone: Callable[[], None] | None = None,
        arguments: Callable[[int], dict[str, Any]] | None = None,
    ) -> Subscription:
        """
        As :meth:`subscribe`, for those who keep no message waiting: each is acked after *heard* has
        returned, also when it raised, within some milliseconds.
        """

    def expect_returns(self, reply_to: str, returned: Returned) -> None:
        """
        Give *returned* the mandatory messages with that ``reply_to`` that come back and that were
        sent without ``confirm`` and ``settled``: no account is kept of those.
        """
        self._returns[reply_to] = returned

    def forget_returns(self, reply_to: str) -> None:
        """End what :meth:`expect_returns` began. Idempotent."""
        self._returns.pop(reply_to, None)

    def _returned(self, message: Message, error: AioRpcError) -> None:
        returned = self._returns.get(message.reply_to or "")
        if returned is None:
            log.debug("a message came back that nobody waits for: %s", error)
        else:
            returned(message, error)

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

    def on_state(self, listener: Callable[[State], None]) -> Callable[[], None]:
        """Call *listener* at every change of state; returns the way to stop that."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def _become(self, state: State) -> None:
        if state is self.state:
            return
        self.state = state
        for listener in list(self._listeners):
            try:
                listener(state)
            except Exception:
                log.exception("a listener failed when the transport became %s", state.value)

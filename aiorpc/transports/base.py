"""
The interface of a transport: it connects and reconnects, declares, sends and consumes. This module
imports no AMQP library.

Sending and receiving need no coroutines. ``send``, ``Delivery.ack`` and ``Delivery.answer`` queue a
frame and return. The transport calls the handler of a delivery in the loop's thread. So a transport
may join all writes of a loop turn into one write.

A transport reconnects automatically. Messages sent while it is disconnected wait until they expire.
The transport re-sends a message whose confirm a lost connection prevented, if its sender agrees.
"""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from .. import figures
from ..exceptions import ConnectionLost
from ..logs import logger
from ..wire.message import Exchange, Queue
from .claims import Claim
from .confirming import send_and_wait
from .incoming import REQUEUE, ConsumerOptions, Delivery, Heard, Received, Subscription
from .outgoing import Outgoing, Refusal, Returns
from .reading import Reader

if TYPE_CHECKING:  # `import aiorpc` is quicker without the codec
    from .backlog import Sender

__all__ = [
    "REQUEUE",
    "Claim",
    "Delivery",
    "Heard",
    "Outgoing",
    "QueueState",
    "Reader",
    "Received",
    "State",
    "Subscription",
    "Transport",
]

log = logger(__name__)

T = TypeVar("T")


class State(enum.Enum):
    """A transport's state. ``BLOCKED`` is connected, but the broker accepts no messages."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BLOCKED = "blocked"
    CLOSED = "closed"


class QueueState(msgspec.Struct, frozen=True):
    """
    The broker's answer to a passive declare of a queue.

    Attributes:
        trouble: the broker's reason why it cannot use the queue now; empty if it can.
    """

    name: str
    exists: bool
    messages: int = 0
    consumers: int = 0
    trouble: str = ""


class Listeners(Generic[T]):
    """Functions that are called with each value of one kind. Their errors are logged."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[T], None]] = []

    def add(self, listener: Callable[[T], None]) -> Callable[[], None]:
        """Call *listener* with every later value; return a function that removes *listener*."""
        self._listeners.append(listener)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return remove

    def tell(self, value: T) -> None:
        """Call the listeners with *value*."""
        for listener in list(self._listeners):
            try:
                listener(value)
            except Exception:
                log.exception("a listener of the transport failed; it was told: %s", value)


class Transport(ABC):
    """
    A connection to a broker that reconnects automatically. ``async with`` connects and closes it.

    A transport belongs to one event loop, and sends through *sender*.
    """

    #: The broker's URL without its password, for logs and errors.
    url: str
    state: State
    #: Whether too many bytes or messages wait to be sent: senders should wait for ``drained``.
    congested: bool  # an attribute, not a property: every call reads it
    #: Sends a message; tells whether a message waits for a connection. See ``transports.backlog``.
    send: Callable[[Outgoing], None]
    waits: Callable[[Outgoing], bool]

    def __init__(self, sender: Sender) -> None:
        self.state = State.CLOSED
        self.congested = False
        #: Handlers of returned messages that were sent without ``confirm`` and ``settled``.
        self.returns = Returns()
        self._sender = sender
        self.send, self.waits = sender.send, sender.backlog.__contains__
        self._uncongested = asyncio.Event()
        self._uncongested.set()
        #: Set when the state changes, and when the last waiting message leaves.
        self._changed = asyncio.Event()
        self._states = Listeners[State]()
        #: Told when the broker has closed the channel to send on, perhaps because of a message.
        self.refusals = Listeners[Refusal]()
        figures.measure(self, _figures)

    # --- the connection

    @abstractmethod
    async def start(self, timeout: float | None = None, *, patient: bool = False) -> None:
        """
        Connect. Without *timeout* (seconds), wait for the broker without limit; log each reason.

        Args:
            patient: also wait for the vhost, and for the user's permission to use it.

        Raises:
            ConfigurationError: the broker refuses us: wrong user, password or vhost.
            ConnectionLost: *timeout* passed; the text has the error of the last attempt.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """
        Write all sent messages, then disconnect, in bounded time. Messages that have not settled by
        then settle with ``ConnectionLost``. Idempotent.
        """

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def condition(self) -> str:
        """Describe the transport's state, to complete "not confirmed in time: ..."."""
        return _condition(self.url, self.state)

    def on_state(self, listener: Callable[[State], None]) -> Callable[[], None]:
        """Call *listener* at every change of state; return a function that removes *listener*."""
        return self._states.add(listener)

    def _become(self, state: State) -> None:
        if state is not self.state:
            _count_loss(self.state, state)
            self.state = state
            self._changed.set()
            self._states.tell(state)

    # --- sending

    def send_unread(self, outgoing: Outgoing) -> None:
        """Send *outgoing* again, because the broker did not read it, unless it still waits."""
        self._sender.backlog.discard(outgoing)
        self.send(outgoing)

    def retract(self, outgoing: Outgoing) -> bool:
        """
        Do not send *outgoing* if it still waits, and never re-send it. Return whether it was still
        waiting. If so, *outgoing* never settles.
        """
        return self._sender.retract(outgoing)

    async def publish(self, outgoing: Outgoing, timeout: float | None = None) -> None:
        """
        Send *outgoing* and wait until it settles. Retract it on a timeout or cancellation.

        Args:
            timeout: seconds to wait for the broker's confirm; ``None`` is unlimited.

        Raises:
            Unroutable: *outgoing* is mandatory, and the broker has no queue for it.
            ConnectionLost: *outgoing* could not be sent, or was not confirmed, in time.
        """
        if timeout is not None:
            at = asyncio.get_running_loop().time() + timeout
            outgoing.expires_at = min(at, outgoing.expires_at or at)
        try:
            await send_and_wait(outgoing, self.send, timeout)
        except TimeoutError:
            self.retract(outgoing)
            raise ConnectionLost(
                f"{outgoing.description} was not confirmed within {timeout:g} s: {self.condition()}"
            ) from None
        except asyncio.CancelledError:
            self.retract(outgoing)
            raise

    @property
    def waiting(self) -> int:
        """The number of messages that wait because the transport is disconnected or blocked."""
        return len(self._sender.backlog)

    async def caught_up(self, timeout: float) -> bool:
        """
        Wait until no messages are waiting to be sent. Return False after *timeout* seconds, and at
        once if the broker blocks the connection or the transport is closed.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.waiting and self.state not in (State.BLOCKED, State.CLOSED):
                    self._changed.clear()
                    await self._changed.wait()
        return not self.waiting

    async def drained(self) -> None:
        """Return when the transport is not congested."""
        # All waiting senders wake up at once, and the first may congest the transport again.
        while self.congested:
            await self._uncongested.wait()

    def _congest(self, congested: bool) -> None:
        if not self.waiting:
            self._changed.set()
        self.congested = congested
        change = self._uncongested.clear if congested else self._uncongested.set
        change()

    # --- queues, and rights

    @abstractmethod
    async def declare(
        self, exchanges: Sequence[Exchange] = (), queues: Sequence[Queue] = ()
    ) -> Sequence[Exchange]:
        """
        Declare *exchanges*, then *queues* with their exchanges and bindings. Wait for a connection.
        The transport declares them again after every reconnect.

        Returns:
            The exchanges with the broker's flags, which can differ if ``accept_existing`` is set.

        Raises:
            ConfigurationError: an exchange or queue exists with other flags (406); the text names
                it.
        """

    @abstractmethod
    async def type_of(self, queue: Queue) -> str:
        """
        Declare *queue* without its binding. Return ``quorum`` if it is a quorum queue, else
        ``classic``: also if the broker does not say.
        """

    async def subscribe(
        self,
        queue: Queue,
        received: Received,
        *,
        prefetch: int = 0,
        keep: bool = False,
        gone: Callable[[], None] | None = None,
        requeue: Received = REQUEUE,
        arguments: Callable[[int], dict[str, Any]] | None = None,
    ) -> Subscription:
        """
        Declare *queue* with its exchange and binding, and consume from it on a separate channel.

        Wait for a connection. The transport consumes again after a reconnect, when the broker
        cancels the consumer, and when the queue was deleted.

        Args:
            prefetch: the maximum of unsettled deliveries at a time; 0 for no limit.
            keep: the queue has to survive a lost connection. If it was deleted, or its node is
                down, the transport declares it or another one, then calls *gone*.
            requeue: requeues a message that arrives while the subscription ends.
            arguments: returns the arguments of ``basic.consume``, given the number of reconnects.

        Raises:
            ConfigurationError: the broker has the queue with other flags (406).
        """
        return await self._consume(
            ConsumerOptions(queue, received, False, prefetch, keep, gone, requeue, arguments)
        )

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
        Subscribe as :meth:`subscribe` does, without acks by the handler. The transport acks each
        message some milliseconds after *heard* has returned or raised.
        """
        return await self._consume(
            ConsumerOptions(queue, heard, True, 0, keep, gone, REQUEUE, arguments)
        )

    @abstractmethod
    async def _consume(self, options: ConsumerOptions) -> Subscription: ...

    @property
    @abstractmethod
    def subscriptions(self) -> Collection[Subscription]:
        """Return the subscriptions that were not cancelled."""

    @abstractmethod
    async def inspect(self, queue: str, timeout: float = 0.04) -> QueueState | None:
        """
        Inspect *queue* on a separate channel, since a missing queue closes it. Inspections share an
        answer, and are a use of a queue that ``expires``. ``None``: none within *timeout* seconds.
        """

    @abstractmethod
    def reader(self, queue: str) -> Reader:
        """Return a reader of *queue* on the connection of now, or raise ``ConnectionLost``."""

    @abstractmethod
    async def delete(self, queue: str) -> None:
        """Delete *queue* if it exists and the transport is connected. Bounded; never raises."""

    @abstractmethod
    async def claim(self, name: str) -> Claim | None:
        """
        Claim the right *name*, an exclusive queue. Return ``None`` if another claim has it.

        Raises:
            ConnectionLost: there is no connection, or the broker does not answer.
            ConfigurationError: the user may not declare the queue (403).
        """


def _condition(url: str, state: State) -> str:
    match state:
        case State.CONNECTED:
            return f"{url} is connected and did not answer"
        case State.BLOCKED:
            return f"{url} accepts no messages now (a memory or disk alarm)"
        case _:
            return f"there is no connection to {url} ({state.value})"


def _count_loss(before: State, state: State) -> None:
    if state is State.CONNECTING and before is not State.CLOSED:
        figures.count("reconnects")


def _figures(transport: Transport) -> figures.Measured:
    if transport.state is not State.CLOSED:
        yield "connections", (transport.state.value,), 1
        yield "backlog", (), transport.waiting

"""
One small broker in this process, with RabbitMQ's semantics; its queues are in ``queue``, its
exchanges in ``exchange``.

It knows nothing of transports but that each of them owns its consumers and its exclusive queues.
Everything runs in one event loop; what is handed out is handed out in a later turn of it, never
inside ``publish``. The rules are those of https://www.rabbitmq.com/docs/ (queues, ttl, dlx,
consumer-priority, consumer-prefetch), checked against RabbitMQ 3.10 by the contract suite.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from ...exceptions import ConfigurationError, Unroutable
from ...wire.message import Exchange, Message, Queue
from ..base import QueueState
from .exchange import MemoryExchange
from .message import Carried, carried, check_short
from .queue import Consumer, Deliver, MemoryQueue, goes_round

__all__ = ["MemoryBroker", "Peer"]

log = logging.getLogger(__name__)

#: Arguments of queues that this broker obeys, or that make no difference within one process.
_KNOWN_ARGUMENTS: Final = frozenset(
    {
        "x-expires",
        "x-message-ttl",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-queue-type",
        "x-queue-mode",
        "x-queue-version",
        "x-queue-leader-locator",
        "x-quorum-initial-group-size",
    }
)


class Peer(Protocol):
    """Who is connected to the broker."""

    def blocked_changed(self) -> None:
        """The broker takes messages no more, or again; see :attr:`MemoryBroker.blocked`."""


class MemoryBroker:
    """
    What lives in ``memory://name`` in one event loop, while a transport is connected to it.

    Attributes:
        blocked: whether it takes no messages, as RabbitMQ under a memory or disk alarm.
        peers: who is connected.
        context: what handlers run in: never the context of who sent the message.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.url = f"memory://{name}"
        self.loop = loop
        self.time = loop.time
        self.context = contextvars.copy_context()
        self.peers: set[Peer] = set()
        self.exchanges: dict[str, MemoryExchange] = {}
        self.queues: dict[str, MemoryQueue] = {}
        self.blocked = False
        self._position = 0
        self._turn: deque[Callable[[float], None]] = deque()
        self._turn_handle: asyncio.Handle | None = None
        for kind in ("topic", "direct", "fanout", "headers"):
            self.exchanges[f"amq.{kind}"] = MemoryExchange(Exchange(f"amq.{kind}", kind))

    # --- turns of the loop

    def soon(self, callback: Callable[[float], None]) -> None:
        """Call *callback* with the loop's time in the next turn of the loop."""
        self._turn.append(callback)
        if self._turn_handle is None:
            self._turn_handle = self.loop.call_soon(self._run_turn, context=self.context)

    def _run_turn(self) -> None:
        self._turn_handle = None
        turn = self._turn
        now = self.loop.time()
        try:
            # What is added meanwhile is for the next turn.
            for _ in range(len(turn)):
                turn.popleft()(now)
        finally:
            if turn and self._turn_handle is None:  # KeyboardInterrupt in a handler
                self._turn_handle = self.loop.call_soon(self._run_turn, context=self.context)

    # --- messages

    def publish(
        self, exchange: str, routing_key: str, message: Message, mandatory: bool
    ) -> Unroutable | None:
        """
        Put a copy of *message* into the queues that take it. Returns what a mandatory message comes
        back with, and what any does where there is no such exchange.

        Raises:
            UnserializableValueError: AMQP cannot carry it; nothing was done.
        """
        copy = carried(message)
        queues = self._queues_for(exchange, routing_key)
        if queues:
            self._position += 1
            for queue in queues:
                queue.put(copy, exchange, routing_key, self._position)
            return None
        if exchange and exchange not in self.exchanges:
            return Unroutable(f"there is no exchange {exchange!r} on {self.url} (404 NOT_FOUND)")
        if mandatory:
            return Unroutable(
                f"no queue is bound to exchange {exchange!r} for routing key {routing_key!r} on "
                f"{self.url} (312 NO_ROUTE)"
            )
        return None

    def bury(self, exchange: str, routing_key: str, dead: Carried, reason: str) -> None:
        """Send a dead letter on its way."""
        queues = self._queues_for(exchange, routing_key)
        if reason != "rejected":
            # RabbitMQ lets no message go round by itself for ever.
            queues = tuple(queue for queue in queues if not goes_round(dead, queue.name))
        self._position += 1
        for queue in queues:
            queue.put(dead, exchange, routing_key, self._position)

    def _queues_for(self, exchange: str, routing_key: str) -> tuple[MemoryQueue, ...]:
        if not exchange:
            queue = self.queues.get(routing_key)
            if queue is not None:
                return (queue,)
            check_short(routing_key, "routing key")
            return ()
        found = self.exchanges.get(exchange)
        if found is None:
            check_short(exchange, "exchange name")
            return ()
        return found.routes.get(routing_key) or found.route(routing_key)

    # --- declarations

    def declare_exchange(self, exchange: Exchange) -> None:
        """
        Declare *exchange*.

        Raises:
            ConfigurationError: it is there with other flags, its name is reserved, or it is to be
                there already and is not.
        """
        name = exchange.name
        if not name:
            return
        there = self.exchanges.get(name)
        if exchange.passive:
            if there is None:
                raise ConfigurationError(f"there is no exchange {name!r} on {self.url} (404)")
            return
        if there is not None:
            there_flags, flags = _exchange_flags(there), _exchange_flags(exchange)
            self._refuse_difference(f"exchange {name!r}", there_flags, flags)
        elif name.startswith("amq."):
            raise ConfigurationError(
                f"exchange {name!r}: names that begin with 'amq.' are the broker's own (403)"
            )
        else:
            self.exchanges[name] = MemoryExchange(exchange)

    def declare_queue(self, queue: Queue, owner: Peer) -> MemoryQueue:
        """
        Declare *queue* with its exchange and binding.

        Raises:
            ConfigurationError: it is there with other flags, or is somebody else's.
        """
        self.declare_exchange(queue.exchange)
        there = self._accessible(queue.name, owner)
        if there is not None:
            new = MemoryQueue(self, queue, owner)
            self._refuse_difference(f"queue {queue.name!r}", _queue_flags(there), _queue_flags(new))
            there.start_expiry()
        else:
            there = self._new_queue(queue, owner)
        if queue.exchange.name:
            self.exchanges[queue.exchange.name].bind(there, queue.routing_key)
        return there

    def _accessible(self, name: str, owner: Peer) -> MemoryQueue | None:
        queue = self.queues.get(name)
        if queue is not None and queue.owner not in (None, owner):
            raise ConfigurationError(
                f"queue {name!r} on {self.url} is exclusive to another connection (405 "
                "RESOURCE_LOCKED): give this one a name of its own"
            )
        return queue

    def _new_queue(self, queue: Queue, owner: Peer) -> MemoryQueue:
        if not queue.name:
            raise ConfigurationError("a queue has no name, and brokers are not asked to invent one")
        for name in queue.arguments:
            if name.startswith("x-") and name not in _KNOWN_ARGUMENTS:
                log.warning("queue %s: argument %s has no effect on %s", queue.name, name, self.url)
        if not queue.durable and not queue.exclusive:
            log.warning(
                "queue %s is neither durable nor exclusive: RabbitMQ 4.3 refuses such queues",
                queue.name,
            )
        new = self.queues[queue.name] = MemoryQueue(self, queue, owner)
        new.start_expiry()
        return new

    def _refuse_difference(
        self, what: str, there: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> None:
        for flag in {**there, **asked}:
            if there.get(flag) != asked.get(flag):
                raise ConfigurationError(
                    f"{what} on {self.url} is there with {flag} = {there.get(flag)!r}, and was "
                    f"declared with {flag} = {asked.get(flag)!r} (406 PRECONDITION_FAILED): "
                    "declare it alike everywhere, or delete it first"
                )

    def inspect(self, name: str, peer: Peer) -> QueueState | None:
        """
        What a passive declare tells; ``None`` for a queue that is exclusive to somebody else. It is
        a use of the queue, as in RabbitMQ: ``expires`` counts from here.
        """
        queue = self.queues.get(name)
        if queue is None:
            return QueueState(name, exists=False)
        if queue.owner not in (None, peer):
            return None
        queue.drop_expired(self.loop.time())
        queue.start_expiry()
        return QueueState(name, True, len(queue.ready), len(queue.consumers))

    def delete_queue(self, queue: MemoryQueue) -> None:
        """Delete *queue* with what is in it, and cancel its consumers."""
        if queue.deleted:
            return
        queue.discard()
        del self.queues[queue.name]
        for name in queue.bound_to:
            exchange = self.exchanges.get(name)
            if exchange is not None:
                exchange.unbind(queue)
                if exchange.auto_delete and not exchange.bound:
                    del self.exchanges[name]
        consumers, queue.consumers = queue.consumers, []
        for consumer in consumers:
            consumer.gone()

    # --- peers

    def consume(
        self,
        queue: MemoryQueue,
        deliver: Deliver,
        gone: Callable[[], None],
        *,
        prefetch: int,
        priority: int,
    ) -> Consumer:
        """A new consumer on *queue*."""
        consumer = Consumer(queue, deliver, gone, prefetch, priority)
        queue.add_consumer(consumer)
        return consumer

    def disconnect(self, peer: Peer, consumers: Iterable[Consumer]) -> None:
        """*peer* is gone: what its *consumers* hold goes back, and its exclusive queues go."""
        consumers = list(consumers)
        for consumer in consumers:
            consumer.open = False
            unacked, consumer.unacked = consumer.unacked, set()
            if unacked:
                consumer.queue.requeue(unacked)
        for consumer in consumers:
            consumer.queue.remove_consumer(consumer)
        for queue in [each for each in self.queues.values() if each.owner is peer]:
            self.delete_queue(queue)

    def block(self) -> None:
        """Take no more messages, as RabbitMQ does under a memory or disk alarm: for tests."""
        self._set_blocked(True)

    def unblock(self) -> None:
        """Take messages again."""
        self._set_blocked(False)

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        for peer in list(self.peers):
            peer.blocked_changed()

    def close(self) -> None:
        """Forget everything, and leave no timer behind."""
        for queue in list(self.queues.values()):
            queue.discard()
        self.queues.clear()
        self.exchanges.clear()
        self._turn.clear()
        if self._turn_handle is not None:
            self._turn_handle.cancel()
            self._turn_handle = None


def _queue_flags(queue: MemoryQueue) -> dict[str, Any]:
    flags = {flag: getattr(queue, flag) for flag in ("durable", "exclusive", "auto_delete")}
    return {**flags, "x-queue-type": "classic", **queue.arguments}


def _exchange_flags(exchange: Exchange | MemoryExchange) -> dict[str, Any]:
    flags = {flag: getattr(exchange, flag) for flag in ("type", "durable", "auto_delete")}
    return {**flags, **exchange.arguments}

"""
A small broker in this process, with RabbitMQ's semantics: declares, routes, deletes. No I/O.

It knows only that a transport's connection owns consumers and exclusive queues. It follows
RabbitMQ's rules (https://www.rabbitmq.com/docs/: queues, ttl, dlx, consumer-priority,
consumer-prefetch). The contract suite checks the same rules on RabbitMQ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from ...exceptions import ConfigurationError, Overloaded, Unroutable
from ...logs import logger
from ...wire.message import Exchange, Message, Queue
from ..base import QueueState
from ..codec.encoder import short_string
from ..outgoing import UNROUTABLE_REMEDY, nacked
from .exchange import MemoryExchange, exchange_flags
from .message import Carried, carried
from .queue import MemoryConsumer, MemoryQueue, goes_round, queue_flags
from .turns import Turns

__all__ = ["MemoryBroker"]

log = logger(__name__)

#: Queue arguments that this broker supports, or that have no effect within one process.
_KNOWN_ARGUMENTS: Final = frozenset(
    {
        "x-expires",
        "x-message-ttl",
        "x-max-length",
        "x-overflow",
        "x-single-active-consumer",
        "x-max-priority",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-delivery-limit",
        "x-queue-type",
        "x-queue-mode",
        "x-queue-version",
        "x-queue-leader-locator",
        "x-quorum-initial-group-size",
    }
)
#: May differ in every queue, because an operator may change the default type of the vhost.
_TYPE: Final = "x-queue-type"


class MemoryBroker:
    """
    The broker behind ``memory://name`` in one event loop, while a transport is connected to it.

    Attributes:
        turns: runs the broker's work in later turns of the loop.
        blocked: whether the broker accepts no messages, as RabbitMQ under a memory or disk alarm.
        transports: the connected transports, each with a callback for changes of ``blocked``.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.url = f"memory://{name}"
        self.loop = loop
        self.turns = Turns(loop)
        self.transports: dict[object, Callable[[], None]] = {}
        self.exchanges: dict[str, MemoryExchange] = {}
        self.queues: dict[str, MemoryQueue] = {}
        self.blocked = False
        self._position = 0
        for kind in ("topic", "direct", "fanout", "headers"):
            self.exchanges[f"amq.{kind}"] = MemoryExchange(Exchange(f"amq.{kind}", kind))

    # --- messages

    def publish(
        self, exchange: str, routing_key: str, message: Message, mandatory: bool
    ) -> Unroutable | Overloaded | None:
        """
        Put a copy of *message* into the queues that are bound to its exchange and routing key.

        Returns:
            An error if the exchange does not exist, if a mandatory message reaches no queue, or if
            a full queue refuses the message.

        Raises:
            UnserializableValueError: AMQP cannot carry *message*; nothing was done.
        """
        copy = carried(message)
        queues = self._queues_for(exchange, routing_key)
        if queues:
            self._position += 1
            accepted = True
            for queue in queues:
                accepted &= queue.put(copy, exchange, routing_key, self._position)
            return None if accepted else nacked(exchange, routing_key)
        if exchange and exchange not in self.exchanges:
            return Unroutable(f"there is no exchange {exchange!r} on {self.url} (404 NOT_FOUND)")
        if mandatory:
            return Unroutable(
                f"no queue is bound to exchange {exchange!r} for routing key {routing_key!r} on "
                f"{self.url} (312 NO_ROUTE). {UNROUTABLE_REMEDY}"
            )
        return None

    def bury(self, exchange: str, routing_key: str, dead: Carried, reason: str) -> None:
        """Route a dead letter."""
        queues = self._queues_for(exchange, routing_key)
        if reason != "rejected":
            # RabbitMQ drops a dead letter that comes back to a queue without a reject.
            queues = tuple(queue for queue in queues if not goes_round(dead, queue.name))
        self._position += 1
        for queue in queues:
            queue.put(dead, exchange, routing_key, self._position)

    def _queues_for(self, exchange: str, routing_key: str) -> tuple[MemoryQueue, ...]:
        if not exchange:
            queue = self.queues.get(routing_key)
            if queue is not None:
                return (queue,)
            short_string(routing_key, "routing key")
            return ()
        found = self.exchanges.get(exchange)
        if found is None:
            short_string(exchange, "exchange name")
            return ()
        return found.route(routing_key)

    # --- declarations

    def declare_exchange(self, exchange: Exchange) -> Exchange:
        """
        Declare *exchange*, and return it with the broker's flags.

        Raises:
            ConfigurationError: the exchange exists with other flags, or its name is reserved, or a
                passive exchange does not exist.
        """
        name = exchange.name
        if not name:
            return exchange
        there = self.exchanges.get(name)
        if exchange.passive:
            if there is None:
                raise ConfigurationError(
                    f"there is no exchange {name!r} on {self.url} (404)", may_pass=True
                )
            return exchange
        if there is not None and exchange.accept_existing:
            exchange = replace(exchange, auto_delete=there.auto_delete)
        if there is not None:
            self._refuse_difference(f"exchange {name!r}", there.flags, exchange_flags(exchange))
        elif name.startswith("amq."):
            raise ConfigurationError(
                f"exchange {name!r}: names that begin with 'amq.' are reserved for the broker (403)"
            )
        else:
            self.exchanges[name] = MemoryExchange(exchange)
        return exchange

    def declare_queue(self, queue: Queue, connection: object) -> MemoryQueue:
        """
        Declare *queue* with its exchange and binding.

        Raises:
            ConfigurationError: the queue exists with other flags, or is exclusive to another
                connection, or a passive queue does not exist.
        """
        self.declare_exchange(queue.exchange)
        there = self.queues.get(queue.name)
        if there is None:
            if queue.passive:
                raise ConfigurationError(
                    f"there is no queue {queue.name!r} on {self.url} (404)", may_pass=True
                )
            there = self._new_queue(queue, connection)
        elif there.owner not in (None, connection):
            raise ConfigurationError(
                f"queue {queue.name!r} on {self.url} is exclusive to another connection (405 "
                "RESOURCE_LOCKED): give this queue another name",
                may_pass=True,
            )
        else:
            flags, asked = there.flags, {**queue_flags(queue), _TYPE: there.flags[_TYPE]}
            if queue.accept_existing:
                flags, asked = _without_arguments(flags), _without_arguments(asked)
            if not queue.passive:
                self._refuse_difference(f"queue {queue.name!r}", flags, asked)
            there.start_expiry()
        if queue.exchange.name:
            self.exchanges[queue.exchange.name].bind(there, queue.routing_key)
        return there

    def _new_queue(self, queue: Queue, connection: object) -> MemoryQueue:
        if not queue.name:
            raise ConfigurationError("a queue has no name, and the broker chooses none: name it")
        for name in queue.arguments:
            if name.startswith("x-") and name not in _KNOWN_ARGUMENTS:
                log.warning("queue %s: argument %s has no effect on %s", queue.name, name, self.url)
        if not queue.durable and not queue.exclusive:
            log.warning(
                "queue %s is neither durable nor exclusive: RabbitMQ 4.3 refuses such queues",
                queue.name,
            )
        new = MemoryQueue(self.turns, queue, connection, bury=self.bury, delete=self.delete_queue)
        self.queues[queue.name] = new
        new.start_expiry()
        return new

    def _refuse_difference(
        self, what: str, there: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> None:
        for flag in {**there, **asked}:
            if there.get(flag) != asked.get(flag):
                raise ConfigurationError(
                    f"{what} on {self.url} exists with {flag} = {there.get(flag)!r}, and was "
                    f"declared with {flag} = {asked.get(flag)!r} (406 PRECONDITION_FAILED): "
                    "declare it with the same flags everywhere, or delete it first"
                )

    def inspect(self, name: str, connection: object) -> QueueState | None:
        """
        Return the result of a passive declare; ``None`` if the queue is exclusive to another
        connection. As in RabbitMQ, this is a use of the queue: ``expires`` counts from now.
        """
        queue = self.queues.get(name)
        if queue is None:
            return QueueState(name, exists=False)
        if queue.owner not in (None, connection):
            return None
        queue.drop_expired(self.turns.time())
        queue.start_expiry()
        return QueueState(name, True, len(queue.ready), len(queue.consumers))

    def delete_queue(self, queue: MemoryQueue) -> None:
        """Delete *queue* with its messages, and cancel its consumers."""
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

    # --- connections

    def disconnect(self, connection: object, consumers: Iterable[MemoryConsumer]) -> None:
        """Requeue the unsettled messages of *consumers*; delete *connection*'s exclusive queues."""
        consumers = list(consumers)
        for consumer in consumers:
            consumer.open = False
            unacked, consumer.unacked = consumer.unacked, set()
            if unacked:
                consumer.queue.requeue(unacked)
        for consumer in consumers:
            consumer.queue.remove_consumer(consumer)
        for queue in [each for each in self.queues.values() if each.owner is connection]:
            self.delete_queue(queue)

    def set_blocked(self, blocked: bool) -> None:
        """Stop accepting messages, as RabbitMQ during a memory or disk alarm, or resume."""
        self.blocked = blocked
        for blocked_changed in list(self.transports.values()):
            blocked_changed()

    def close(self) -> None:
        """Delete all messages and queues, and cancel all timers."""
        for queue in list(self.queues.values()):
            queue.discard()
        self.queues.clear()
        self.exchanges.clear()
        self.turns.end()


def _without_arguments(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if not name.startswith("x-")}

"""
One small broker in this process, with RabbitMQ's semantics: exchanges, queues, consumers, time.

Knows nothing of transports and their connections but that each owns its consumers and exclusive
queues. Everything here runs in one event loop; what is handed out is handed out in a later turn of
it, never inside ``publish``. RabbitMQ's rules are those of https://www.rabbitmq.com/docs/ (queues,
ttl, dlx, consumer-priority, consumer-prefetch).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from ..exceptions import ConfigurationError, Unroutable
from ..wire.message import Exchange, Message, Queue
from .base import QueueState
from .memory_message import Carried, carried, deep_copy

__all__ = ["Consumer", "Entry", "MemoryBroker", "MemoryQueue", "Peer"]

log = logging.getLogger(__name__)

#: Deliveries of one queue in one turn of the loop: timers and sockets get their turn too.
MAX_BATCH: Final = 256
#: Routing keys whose queues an exchange remembers, before it begins anew.
MAX_ROUTES: Final = 4096

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


class Entry(msgspec.Struct, eq=False, gc=False):
    """One message in one queue. What is redelivered is the same entry again, in its old place."""

    carried: Carried
    exchange: str
    routing_key: str
    #: Messages are kept in the order of this, whenever they come back.
    position: int
    #: Loop time.
    expires_at: float | None
    redelivered: bool = False


class Consumer:
    """Takes the messages of one queue, as many at a time as its prefetch lets it."""

    __slots__ = ("deliver", "gone", "open", "prefetch", "priority", "queue", "unacked")

    def __init__(
        self,
        queue: MemoryQueue,
        deliver: Callable[[Consumer, Entry, float], None],
        gone: Callable[[], None],
        prefetch: int,
        priority: int,
    ) -> None:
        self.queue = queue
        #: Takes an entry, and the loop time of this turn.
        self.deliver = deliver
        #: The broker cancelled this consumer: its queue was deleted.
        self.gone = gone
        self.prefetch = prefetch
        self.priority = priority
        self.unacked: set[Entry] = set()
        #: Until its connection is lost. A cancelled one is open still: what it holds can be acked.
        self.open = True

    @property
    def roomy(self) -> bool:
        """Whether its prefetch lets it take one more."""
        return not self.prefetch or len(self.unacked) < self.prefetch

    def ack(self, entry: Entry) -> None:
        """The entry is done with."""
        try:
            self.unacked.remove(entry)
        except KeyError:
            return  # the connection went, and the queue has it back
        if self.queue.ready:
            self.queue.schedule()

    def reject(self, entry: Entry, *, requeue: bool) -> None:
        """The entry goes back to its place, or to the dead letters."""
        if entry not in self.unacked:
            return
        self.unacked.remove(entry)
        if requeue:
            self.queue.requeue((entry,))
        else:
            self.queue.drop(entry, "rejected")
            self.queue.schedule()


class MemoryQueue:
    """Messages in their order, and who takes them."""

    __slots__ = (
        "_broker",
        "_expiry",
        "_head_expiry",
        "_scheduled",
        "arguments",
        "auto_delete",
        "bound_to",
        "consumers",
        "dead_letters",
        "deleted",
        "durable",
        "exclusive",
        "expires",
        "message_ttl",
        "name",
        "owner",
        "ready",
    )

    def __init__(self, broker: MemoryBroker, queue: Queue, owner: Peer) -> None:
        self._broker = broker
        self.name = queue.name
        # RabbitMQ keeps an exclusive queue as a transient one, whatever was declared.
        self.durable = queue.durable and not queue.exclusive
        self.exclusive = queue.exclusive
        self.auto_delete = queue.auto_delete
        self.arguments = _arguments(queue)
        self.owner = owner if queue.exclusive else None
        self.ready: deque[Entry] = deque()
        #: Highest priority first; within one priority, whose turn it is.
        self.consumers: list[Consumer] = []
        self.bound_to: set[str] = set()
        self.expires = _seconds(self.arguments.get("x-expires"))
        self.message_ttl = _seconds(self.arguments.get("x-message-ttl"))
        #: Exchange and routing key (``None``: as it was) of what is dropped.
        self.dead_letters: tuple[str, str | None] | None = None
        if (exchange := self.arguments.get("x-dead-letter-exchange")) is not None:
            self.dead_letters = exchange, self.arguments.get("x-dead-letter-routing-key")
        self.deleted = False
        self._scheduled = False
        self._expiry: asyncio.TimerHandle | None = None
        self._head_expiry: asyncio.TimerHandle | None = None

    # --- messages

    def put(self, carried: Carried, exchange: str, routing_key: str, position: int) -> None:
        """Append a message."""
        expires_at = None
        expiration = carried.message.expiration
        if expiration is not None or self.message_ttl is not None:
            ttl = math.inf if expiration is None else expiration / 1000
            if self.message_ttl is not None:
                ttl = min(ttl, self.message_ttl)
            if ttl > 0:
                expires_at = self._broker.time() + ttl
            elif self.ready or not any(consumer.roomy for consumer in self.consumers):
                # It goes to a consumer that is free this instant, or to nobody.
                self.drop(Entry(carried, exchange, routing_key, position, None), "expired")
                return
        self.ready.append(Entry(carried, exchange, routing_key, position, expires_at))
        if not self._scheduled:
            self.schedule()

    def requeue(self, entries: Iterable[Entry]) -> None:
        """Put delivered entries back into their old places."""
        if self.deleted:
            return
        returning = sorted(entries, key=_position)
        for entry in returning:
            entry.redelivered = True
        ready = self.ready
        if not ready or not returning or returning[-1].position < ready[0].position:
            ready.extendleft(reversed(returning))
        else:
            merged = sorted((*ready, *returning), key=_position)
            ready.clear()
            ready.extend(merged)
        self.schedule()

    def drop(self, entry: Entry, reason: str) -> None:
        """*entry* is in the queue no more: to the dead letters with it, if there are any."""
        if self.dead_letters is not None and not self.deleted:
            exchange, routing_key = self.dead_letters
            if routing_key is None:
                routing_key = entry.routing_key
            self._broker.bury(exchange, routing_key, _dead(entry, self.name, reason), reason)

    def drop_expired(self, now: float) -> None:
        """Drop what expired at the head; behind an older message that lives it stays."""
        ready = self.ready
        while ready and (expires_at := ready[0].expires_at) is not None and expires_at <= now:
            self.drop(ready.popleft(), "expired")

    # --- handing out

    def schedule(self) -> None:
        """Hand out what can be, in the next turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._broker.soon(self._hand_out)

    def _hand_out(self, now: float) -> None:
        self._scheduled = False
        ready = self.ready
        for _ in range(min(len(ready), MAX_BATCH)):
            if ready and ready[0].expires_at is not None:
                self.drop_expired(now)
            if not ready:
                return
            consumer = self._next_consumer()
            if consumer is None:
                self._watch_head()
                return
            entry = ready.popleft()
            consumer.unacked.add(entry)
            try:
                consumer.deliver(consumer, entry, now)
            except Exception:
                log.exception(
                    "the handler of a delivery from queue %s (exchange %r, key %r) failed; unless "
                    "it was settled, the broker keeps it until the transport closes",
                    self.name,
                    entry.exchange,
                    entry.routing_key,
                )
        if ready:
            self.schedule()

    def _next_consumer(self) -> Consumer | None:
        consumers = self.consumers
        for index, consumer in enumerate(consumers):
            # Consumer.roomy, without the call
            if not consumer.prefetch or len(consumer.unacked) < consumer.prefetch:
                if len(consumers) > 1:
                    self._join(consumers.pop(index))
                return consumer
        return None

    def _join(self, consumer: Consumer) -> None:
        """Put it behind the others of its priority."""
        place = bisect_right(self.consumers, -consumer.priority, key=lambda each: -each.priority)
        self.consumers.insert(place, consumer)

    def _watch_head(self) -> None:
        """Nobody takes the head: have it dropped when it expires."""
        expires_at = self.ready[0].expires_at if self.ready else None
        if self._head_expiry is not None:
            if self._head_expiry.when() == expires_at:
                return
            self._head_expiry.cancel()
            self._head_expiry = None
        if expires_at is not None:
            self._head_expiry = self._broker.loop.call_at(
                expires_at, self._head_expired, context=self._broker.context
            )

    def _head_expired(self) -> None:
        self._head_expiry = None
        self.schedule()

    # --- consumers and life

    def add_consumer(self, consumer: Consumer) -> None:
        """Let it take part from now on."""
        self._join(consumer)
        self.stop_expiry()
        if self.ready:
            self.schedule()

    def remove_consumer(self, consumer: Consumer) -> None:
        """Give it no more; what it holds stays with it. May be the end of the queue."""
        if consumer not in self.consumers:
            return
        self.consumers.remove(consumer)
        if not self.consumers:
            if self.auto_delete:
                self._broker.delete_queue(self)
            else:
                self.start_expiry()

    def start_expiry(self) -> None:
        """From now on it has ``expires`` seconds, if nobody consumes it or declares it again."""
        self.stop_expiry()
        if self.expires is not None and not self.consumers and not self.deleted:
            self._expiry = self._broker.loop.call_later(
                self.expires, self._broker.delete_queue, self, context=self._broker.context
            )

    def stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def discard(self) -> None:
        """Forget everything: the queue is deleted."""
        self.deleted = True
        self.ready.clear()
        self.stop_expiry()
        self._watch_head()


class MemoryExchange:
    """Where messages are sent to, and the bindings by which they go on."""

    __slots__ = ("_bindings", "arguments", "auto_delete", "durable", "name", "routes", "type")

    def __init__(self, exchange: Exchange) -> None:
        self.name = exchange.name
        self.type = exchange.type
        self.durable = exchange.durable
        self.auto_delete = exchange.auto_delete
        self.arguments = dict(exchange.arguments)
        self._bindings: dict[tuple[str, str], MemoryQueue] = {}
        #: What ``route`` found, until a binding comes or goes.
        self.routes: dict[str, tuple[MemoryQueue, ...]] = {}

    @property
    def bound(self) -> bool:
        """Whether any queue is bound to it."""
        return bool(self._bindings)

    def bind(self, queue: MemoryQueue, key: str) -> None:
        """Let *queue* have what is sent under *key*."""
        self._bindings[queue.name, key] = queue
        self.routes.clear()
        queue.bound_to.add(self.name)

    def unbind(self, queue: MemoryQueue) -> None:
        """Forget all bindings of *queue*."""
        self._bindings = {at: each for at, each in self._bindings.items() if each is not queue}
        self.routes.clear()

    def route(self, routing_key: str) -> tuple[MemoryQueue, ...]:
        """The queues that take *routing_key*, each once; ``routes`` remembers them."""
        if len(self.routes) >= MAX_ROUTES:
            self.routes.clear()
        queues = self.routes[routing_key] = self._find(routing_key)
        return queues

    def _find(self, routing_key: str) -> tuple[MemoryQueue, ...]:
        bindings = self._bindings.items()
        if self.type == "topic":
            words = _words(routing_key)
            found = [queue for (_, key), queue in bindings if _matches(_words(key), words)]
        elif self.type == "direct":
            found = [queue for (_, key), queue in bindings if key == routing_key]
        else:
            # Fanout; and a headers exchange, whose binding without arguments takes everything.
            found = [queue for _, queue in bindings]
        return tuple(dict.fromkeys(found))


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
            queues = tuple(queue for queue in queues if not _goes_round(dead, queue.name))
        self._position += 1
        for queue in queues:
            queue.put(dead, exchange, routing_key, self._position)

    def _queues_for(self, exchange: str, routing_key: str) -> tuple[MemoryQueue, ...]:
        if not exchange:
            queue = self.queues.get(routing_key)
            return () if queue is None else (queue,)
        found = self.exchanges.get(exchange)
        if found is None:
            return ()
        return found.routes.get(routing_key) or found.route(routing_key)

    # --- declarations

    def declare_exchange(self, exchange: Exchange) -> None:
        """
        Declare *exchange*.

        Raises:
            ConfigurationError: it is there with other flags, or its name is reserved.
        """
        name = exchange.name
        if not name:
            return
        there = self.exchanges.get(name)
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
        """What a passive declare tells; ``None`` for a queue that is exclusive to somebody else."""
        queue = self.queues.get(name)
        if queue is None:
            return QueueState(name, exists=False)
        if queue.owner not in (None, peer):
            return None
        queue.drop_expired(self.loop.time())
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
        deliver: Callable[[Consumer, Entry, float], None],
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


# --- RabbitMQ's rules, as functions


def _position(entry: Entry) -> int:
    return entry.position


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000


def _arguments(queue: Queue) -> dict[str, Any]:
    arguments = dict(queue.arguments)
    if queue.expires is not None:
        arguments["x-expires"] = round(queue.expires * 1000)
    return arguments


def _queue_flags(queue: MemoryQueue) -> dict[str, Any]:
    flags = {flag: getattr(queue, flag) for flag in ("durable", "exclusive", "auto_delete")}
    return {**flags, "x-queue-type": "classic", **queue.arguments}


def _exchange_flags(exchange: Exchange | MemoryExchange) -> dict[str, Any]:
    flags = {flag: getattr(exchange, flag) for flag in ("type", "durable", "auto_delete")}
    return {**flags, **exchange.arguments}


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _matches(pattern: list[str], words: list[str]) -> bool:
    """Topics: ``*`` is one word, ``#`` any number of words, none included."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[at:]) for at in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])


def _dead(entry: Entry, queue: str, reason: str) -> Carried:
    """*entry* as a dead letter: it expires no more, and ``x-death`` tells where it died."""
    message = entry.carried.message
    headers = dict(message.headers or {})
    deaths = [dict(death) for death in headers.get("x-death") or ()]
    death = next((d for d in deaths if (d["queue"], d["reason"]) == (queue, reason)), None)
    if death is None:
        death = {
            "count": 0,
            "reason": reason,
            "queue": queue,
            "time": datetime.now(UTC).replace(microsecond=0),
            "exchange": entry.exchange,
            "routing-keys": [entry.routing_key],
        }
        if message.expiration is not None:
            death["original-expiration"] = str(message.expiration)
    else:
        deaths.remove(death)
    death["count"] += 1
    headers["x-death"] = [death, *deaths]
    headers.setdefault("x-first-death-reason", reason)
    headers.setdefault("x-first-death-queue", queue)
    headers.setdefault("x-first-death-exchange", entry.exchange)
    return Carried(msgspec.structs.replace(message, headers=headers, expiration=None), deep_copy)


def _goes_round(dead: Carried, queue: str) -> bool:
    """Whether *dead* has been in *queue* before, and nobody rejected it since."""
    for death in (dead.message.headers or {})["x-death"]:  # the latest first
        if death["reason"] == "rejected":
            return False
        if death["queue"] == queue:
            return True
    return False

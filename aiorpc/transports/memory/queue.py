"""
A queue of the broker in this process, and its consumers: order, prefetch, priorities, expiry,
requeueing. No I/O; timers run on the event loop.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec

from ...logs import logger
from ...wire.message import Queue
from .message import Carried, deep_copy
from .turns import Turns

__all__ = ["Deliver", "Entry", "MemoryConsumer", "MemoryQueue", "goes_round", "queue_flags"]

log = logger(__name__)

#: Deliveries of one queue in one turn of the loop, so that timers and sockets are not delayed.
MAX_BATCH: Final = 256


class Entry(msgspec.Struct, eq=False, gc=False):
    """One message in one queue. A requeued message keeps its entry and its place."""

    carried: Carried
    exchange: str
    routing_key: str
    #: The message's place in the order, also after a requeue.
    position: int
    #: Loop time.
    expires_at: float | None
    redelivered: bool = False


class MemoryConsumer(msgspec.Struct, eq=False):
    """A consumer of one queue, with at most ``prefetch`` unsettled messages."""

    queue: MemoryQueue
    deliver: Deliver
    #: Called when the queue was deleted.
    gone: Callable[[], None]
    #: ``math.inf`` for no limit.
    prefetch: float
    priority: int
    unacked: set[Entry] = msgspec.field(default_factory=set)
    #: True until the connection is lost. Deliveries of a cancelled consumer can still be acked.
    open: bool = True

    def ack(self, entry: Entry) -> None:
        """Remove the entry."""
        try:
            self.unacked.remove(entry)
        except KeyError:
            return  # the connection was lost, and the queue has requeued *entry*
        if self.queue.ready:
            self.queue.schedule()

    def reject(self, entry: Entry, *, requeue: bool) -> None:
        """Reject *entry* (to the dead-letter exchange if the queue has one), or requeue it."""
        if entry not in self.unacked:
            return
        self.unacked.remove(entry)
        if requeue:
            self.queue.requeue((entry,))
        else:
            self.queue.drop(entry, "rejected")
            self.queue.schedule()


#: Handles an entry that a queue delivers to a consumer.
Deliver: TypeAlias = Callable[[MemoryConsumer, Entry], None]


class MemoryQueue:
    """A queue: ordered messages, and the consumers that get them."""

    def __init__(
        self,
        turns: Turns,
        queue: Queue,
        connection: object,
        *,
        bury: Callable[[str, str, Carried, str], None],
        delete: Callable[[MemoryQueue], None],
    ) -> None:
        self._turns = turns
        self._bury = bury
        self._delete = delete
        self.name = queue.name
        self.flags = queue_flags(queue)
        self.auto_delete = queue.auto_delete
        self.owner = connection if queue.exclusive else None
        self.ready: deque[Entry] = deque()
        #: Highest priority first; within one priority, the next consumer first.
        self.consumers: list[MemoryConsumer] = []
        self.bound_to: set[str] = set()
        #: Milliseconds.
        self.expires: int | None = self.flags.get("x-expires")
        #: Milliseconds.
        self.message_ttl: int | None = self.flags.get("x-message-ttl")
        #: The largest number of waiting messages.
        self.max_length: int | None = self.flags.get("x-max-length")
        self._refuses = self.flags.get("x-overflow", "drop-head") != "drop-head"
        self._single_active: bool = self.flags.get("x-single-active-consumer", False)
        self._highest_priority: int | None = self.flags.get("x-max-priority")
        #: Exchange and routing key for dropped messages; ``None`` keeps the routing key.
        self.dead_letters: tuple[str, str | None] | None = None
        if (exchange := self.flags.get("x-dead-letter-exchange")) is not None:
            self.dead_letters = exchange, self.flags.get("x-dead-letter-routing-key")
        self.deleted = False
        self._scheduled = False
        self._expiry: asyncio.TimerHandle | None = None
        self._head_expiry: asyncio.TimerHandle | None = None

    # --- messages

    def put(self, carried: Carried, exchange: str, routing_key: str, position: int) -> bool:
        """
        Append a message, or drop it if it expires at once. Return False if the queue is full and
        refuses messages (``x-overflow``). Another full queue drops messages at its head.
        """
        most = self.max_length
        if most is not None and self._refuses and self._surplus(most) >= 0:
            return False
        expiration = carried.message.expiration
        ttl = self.message_ttl
        if expiration is not None and (ttl is None or expiration < ttl):
            ttl = expiration
        if ttl is None:
            expires_at = None
        elif ttl > 0:
            expires_at = self._turns.time() + ttl / 1000
        elif not self.ready and any(len(each.unacked) < each.prefetch for each in self._served):
            expires_at = None  # RabbitMQ delivers it if a consumer is free
        else:
            self.drop(Entry(carried, exchange, routing_key, position, None), "expired")
            return True
        entry = Entry(carried, exchange, routing_key, position, expires_at)
        if self._highest_priority is None:
            self.ready.append(entry)
        else:
            insort(self.ready, entry, key=self._place)
        if most is not None:
            self._drop_surplus(most)
        if not self._scheduled:
            self.schedule()
        return True

    def _place(self, entry: Entry) -> tuple[int, int]:
        """Return the key by which the messages are sorted."""
        if self._highest_priority is None:
            return 0, entry.position
        priority = min(entry.carried.message.priority or 0, self._highest_priority)
        return -priority, entry.position

    def _surplus(self, most: int) -> float:
        """Return how many messages above *most* wait, without those that a consumer gets next."""
        free = sum(each.prefetch - len(each.unacked) for each in self._served)
        return len(self.ready) - max(free, 0) - most

    def _drop_surplus(self, most: int) -> None:
        while self.ready and self._surplus(most) > 0:
            self.drop(self.ready.popleft(), "maxlen")

    def requeue(self, entries: Iterable[Entry]) -> None:
        """Put delivered entries back in their old places."""
        if self.deleted:
            return
        returning = sorted(entries, key=self._place)
        for entry in returning:
            entry.redelivered = True
        ready = self.ready
        if not ready or not returning or self._place(returning[-1]) < self._place(ready[0]):
            ready.extendleft(reversed(returning))
        else:
            merged = sorted((*ready, *returning), key=self._place)
            ready.clear()
            ready.extend(merged)
        if self.max_length is not None:
            self._drop_surplus(self.max_length)
        self.schedule()

    def drop(self, entry: Entry, reason: str) -> None:
        """Send the removed *entry* to the dead-letter exchange, if the queue has one."""
        if self.dead_letters is not None and not self.deleted:
            exchange, routing_key = self.dead_letters
            if routing_key is None:
                routing_key = entry.routing_key
            self._bury(exchange, routing_key, _dead_letter(entry, self.name, reason), reason)

    def drop_expired(self, now: float) -> None:
        """Drop expired messages at the head. Other expired messages stay until they get there."""
        ready = self.ready
        while ready and (expires_at := ready[0].expires_at) is not None and expires_at <= now:
            self.drop(ready.popleft(), "expired")

    def take(self) -> Entry | None:
        """Remove and return the first message, for ``basic.get``; ``None`` if there is none."""
        self.drop_expired(self._turns.time())
        self.start_expiry()  # RabbitMQ counts a get as a use of the queue
        return self.ready.popleft() if self.ready else None

    # --- deliveries

    def schedule(self) -> None:
        """Deliver messages in the next turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._turns.soon(self._hand_out)

    def _hand_out(self, now: float) -> None:
        self._scheduled = False
        ready = self.ready
        for _ in range(min(len(ready), MAX_BATCH)):
            if not ready:
                return
            entry = ready[0]
            if entry.expires_at is not None and entry.expires_at <= now:
                self.drop_expired(now)
                continue
            consumer = self._next_consumer()
            if consumer is None:
                self._watch_head()
                return
            ready.popleft()
            consumer.unacked.add(entry)
            try:
                consumer.deliver(consumer, entry)
            except Exception:
                log.exception(
                    "the handler of a delivery from queue %s (exchange %r, key %r) failed; if it "
                    "did not settle the delivery, the broker requeues it when the connection ends",
                    self.name,
                    entry.exchange,
                    entry.routing_key,
                )
            except BaseException:  # such as KeyboardInterrupt; other messages still wait
                self.schedule()
                raise
        if ready:
            self.schedule()

    def _next_consumer(self) -> MemoryConsumer | None:
        consumers = self._served
        for index, consumer in enumerate(consumers):
            if len(consumer.unacked) < consumer.prefetch:
                if len(consumers) > 1:
                    self._join(consumers.pop(index))
                return consumer
        return None

    @property
    def _served(self) -> list[MemoryConsumer]:
        """The consumers that get messages: with ``x-single-active-consumer``, the first one."""
        return self.consumers[:1] if self._single_active else self.consumers

    def _join(self, consumer: MemoryConsumer) -> None:
        """Put *consumer* behind the others of its priority."""
        place = bisect_right(self.consumers, -consumer.priority, key=lambda each: -each.priority)
        self.consumers.insert(place, consumer)

    def _watch_head(self) -> None:
        """Drop the head when it expires, because no consumer can get it."""
        expires_at = self.ready[0].expires_at if self.ready else None
        if self._head_expiry is not None:
            if self._head_expiry.when() == expires_at:
                return
            self._head_expiry.cancel()
            self._head_expiry = None
        if expires_at is not None:
            self._head_expiry = self._turns.at(expires_at, self._head_expired)

    def _head_expired(self) -> None:
        self._head_expiry = None
        self.schedule()

    # --- consumers and life

    def add_consumer(self, consumer: MemoryConsumer) -> None:
        """Deliver messages to *consumer* from now on."""
        if self._single_active:  # RabbitMQ ignores priorities then
            self.consumers.append(consumer)
        else:
            self._join(consumer)
        self.stop_expiry()
        if self.ready:
            self.schedule()

    def remove_consumer(self, consumer: MemoryConsumer) -> None:
        """Stop deliveries to *consumer*, which keeps its unsettled ones. May delete the queue."""
        if consumer not in self.consumers:
            return
        self.consumers.remove(consumer)
        if not self.consumers:
            if self.auto_delete:
                self._delete(self)
            else:
                self.start_expiry()

    def start_expiry(self) -> None:
        """Delete the queue after ``expires`` ms, unless a client consumes or declares it before."""
        self.stop_expiry()
        if self.expires is not None and not self.consumers and not self.deleted:
            at = self._turns.time() + self.expires / 1000
            self._expiry = self._turns.at(at, self._delete, self)

    def stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def discard(self) -> None:
        """Drop all messages and timers, because the queue is deleted."""
        self.deleted = True
        self.ready.clear()
        self.stop_expiry()
        self._watch_head()


# --- RabbitMQ's rules, as functions


def queue_flags(queue: Queue) -> dict[str, Any]:
    """Return the flags that must be equal when a queue is declared again."""
    return {
        # For RabbitMQ an exclusive queue is always transient.
        "durable": queue.durable and not queue.exclusive,
        "exclusive": queue.exclusive,
        "auto_delete": queue.auto_delete,
        "x-queue-type": "classic",
        **({} if queue.expires is None else {"x-expires": round(queue.expires * 1000)}),
        **queue.arguments,
    }


def _dead_letter(entry: Entry, queue: str, reason: str) -> Carried:
    """Return *entry* as a dead letter: without expiration, and with ``x-death``."""
    message = entry.carried.message
    headers = dict(message.headers or {})
    deaths = _deaths(headers)
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


def goes_round(dead: Carried, queue: str) -> bool:
    """Return whether *dead* was in *queue* before, and no consumer has rejected it since then."""
    for death in _deaths(dead.message.headers or {}):  # the latest first
        if death["reason"] == "rejected":
            return False
        if death["queue"] == queue:
            return True
    return False


def _deaths(headers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the valid entries of ``x-death``; a sender may write any value there."""
    deaths = headers.get("x-death")
    return [
        dict(death)
        for death in (deaths if isinstance(deaths, list) else ())
        if isinstance(death, dict) and {"queue", "reason", "count"} <= death.keys()
    ]

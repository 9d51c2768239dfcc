"""
What the broker saw of each request and each event: copies, answers, acks and lost deliveries. Finds
orders of frames that are wrong although this run may end well. Knows the wire, and no client.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from aiorpc.transports.memory.queue import Entry, MemoryQueue
from aiorpc.wire.copies import attempts_of, copy_id_of, was_resent
from aiorpc.wire.message import Message
from aiorpc.wire.names import CANCEL_EXCHANGE, STREAM
from aiorpc.wire.streams import stream_kind

from .loop import Process

if TYPE_CHECKING:
    from .ledger import Ledger

__all__ = ["Book", "Seen"]

#: A request's correlation id; or an event's number, and the queue.
Key: TypeAlias = str | tuple[int, str]
_REQUESTS = "nameko-rpc"


@dataclass(eq=False)
class Seen:
    """
    What the broker saw of a request, or of an event in one queue.

    Attributes:
        originals: how often it came from its sender, and reached a queue.
        unmarked: whether it came without the mark of a message that is sent again.
        alive: messages that were not acked: the original and its copies.
        lost: deliveries whose channel ended before their ack.
        returned: deliveries that a process requeued because it stopped.
        answered, cancelled: whether an answer, or its caller's cancellation, came.
        dropped: whether the broker lost it when it crashed. A process that had sent a copy of it
            may then ack the copy as needless, because it expects the original.
    """

    originals: int = 0
    unmarked: bool = False
    alive: int = 0
    lost: int = 0
    returned: int = 0
    answered: bool = False
    cancelled: bool = False
    dropped: bool = False


class Book:
    """Records the messages of a run, and reports to *ledger* what breaks a rule of the wire."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._seen: dict[Key, Seen] = {}
        #: The last events, and their queues.
        self.events: deque[tuple[str, Message]] = deque(maxlen=100)
        #: The last tick that a process recorded, and the services and ticks that ran.
        self._ticks: dict[Process, float] = {}
        self._ran: set[tuple[str, float | None]] = set()

    def of(self, key: Key) -> Seen:
        """What the broker saw of the request or event *key*."""
        return self._seen.setdefault(key, Seen())

    def runs_tick(self, process: Process) -> None:
        """The singleton of a service runs in *process*."""
        tick = self._ticks.get(process)
        self._ledger.tell(process, f"runs tick {tick}")
        ran = process.name.partition("-")[0], tick
        if tick is None or ran in self._ran:
            self._ledger.violated("twice", f"tick {tick} runs again in {process}")
        self._ran.add(ran)

    # --- what the broker does

    def published(
        self,
        process: Process,
        exchange: str,
        routing_key: str,
        message: Message,
        queues: tuple[str, ...],
    ) -> None:
        """The broker reads a message of *process*, and puts it into *queues*."""
        correlation_id = message.correlation_id
        if exchange == CANCEL_EXCHANGE.name:
            self.of(json.loads(message.body)[1]).cancelled = True
        elif exchange == _REQUESTS and correlation_id is not None:
            seen = self.of(correlation_id)
            if not _is_request(message):
                seen.answered = True
            elif queues:
                self._requested(correlation_id, seen, message)
        elif message.body.startswith(b'{"tick"'):
            self._ticks[process] = json.loads(message.body)["tick"]
        else:
            if exchange == "bank.events":
                self._ledger.accounts.sent(json.loads(message.body)["number"])
            for queue in queues:
                key = _event_of(message, queue)
                if key is not None:
                    self._dispatched(key, message)
                    self.events.append((queue, message))

    def _requested(self, key: str, seen: Seen, message: Message) -> None:
        if not was_resent(message):  # it may come after the marked one, from an older connection
            if seen.unmarked:
                self._violated("unmarked", key, "came again without the mark of what is sent again")
            seen.unmarked = True
        self._came(seen, key, message)

    def _dispatched(self, key: tuple[int, str], message: Message) -> None:
        self._came(self.of(key), key, message)

    def _came(self, seen: Seen, key: Key, message: Message) -> None:
        seen.alive += 1
        if copy_id_of(message) is None:
            seen.originals += 1
            return
        attempts = attempts_of(message) or 0
        if attempts > self._ledger.max_attempts:
            self._violated("not parked", key, f"runs again after {attempts} attempts")
        if attempts > seen.lost:
            self._violated(
                "overcounted", key, f"counts {attempts} attempts, and {seen.lost} deliveries failed"
            )

    def sends(self, exchange: str, message: Message) -> None:
        """A process writes a message."""
        if message.body.startswith(b'{"number"'):
            if exchange == "shop.events":
                self._ledger.publishing(json.loads(message.body)["number"])
            elif exchange == "bank.events":
                self._ledger.accounts.sends(json.loads(message.body)["number"])

    def acked(self, queue: MemoryQueue, entry: Entry) -> None:
        """The broker reads the ack of *entry*."""
        seen = self._settled(queue, entry)
        message = entry.carried.message
        if seen is None or not _is_request(message) or STREAM in (message.headers or ()):
            return
        if not (seen.answered or seen.cancelled or seen.dropped or seen.alive > 0):
            self._violated(
                "acked early", message.correlation_id or "", "is acked before its answer"
            )

    def returned(self, queue: MemoryQueue, entry: Entry, unworked: bool) -> None:
        """A process requeues *entry*; if *unworked*, because it stops."""
        seen = self._seen_of(queue, entry)
        if seen is None:
            return
        # A copy that is requeued, because no second copy can be sent, counts.
        if unworked and attempts_of(entry.carried.message) is None:
            seen.returned += 1
        else:
            seen.lost += 1

    def lost(self, queue: MemoryQueue, entry: Entry) -> None:
        """The broker requeues *entry*, because its channel ended."""
        seen = self._seen_of(queue, entry)
        if seen is not None:
            seen.lost += 1

    def dropped(self, queue: MemoryQueue, entry: Entry) -> int | None:
        """The broker lost *entry* when it crashed. Return the number of its call or event."""
        seen = self._settled(queue, entry)
        if seen is not None:
            seen.dropped = True
        message = entry.carried.message
        if message.correlation_id is not None:
            return self._ledger.numbers.get(message.correlation_id)
        key = _event_of(message, queue.name)
        return None if key is None else key[0]

    def _settled(self, queue: MemoryQueue, entry: Entry) -> Seen | None:
        seen = self._seen_of(queue, entry)
        if seen is not None:
            seen.alive -= 1
        return seen

    def _seen_of(self, queue: MemoryQueue, entry: Entry) -> Seen | None:
        message = entry.carried.message
        if entry.exchange == _REQUESTS and _is_request(message):
            return self.of(message.correlation_id or "")
        key = _event_of(message, queue.name)
        return None if key is None else self.of(key)

    def _violated(self, kind: str, key: Key, text: str) -> None:
        if isinstance(key, str):
            number: Any = self._ledger.numbers.get(key)
            name = f"call {number}"
        else:
            name = f"event {key[0]} in {key[1]}"
        self._ledger.violated(kind, f"{name} {text}")


def _is_request(message: Message) -> bool:
    return message.reply_to is not None and stream_kind(message) is None


def _event_of(message: Message, queue: str) -> tuple[int, str] | None:
    """Return the key of an event in *queue*; ``None`` if the message is none, or is parked."""
    if (
        not queue.startswith("evt-")
        or queue.endswith(".parked")
        or not message.body.startswith(b'{"number"')
    ):
        return None
    return json.loads(message.body)["number"], queue

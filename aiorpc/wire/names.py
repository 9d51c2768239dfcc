"""
Every name of an exchange, a queue or a header that is on the wire is made in this file, as Nameko
makes it where Nameko has it (2.14.1 and 3.0, captured; the trap numbers are those of that capture).
"""

from __future__ import annotations

from ..context import new_id
from .message import Exchange, Queue

__all__ = [
    "ATTEMPTS",
    "BROKER_HEADERS",
    "CALL_ID_STACK",
    "CANCEL_EXCHANGE",
    "COMPRESSION",
    "COPY",
    "DEADLINE",
    "DELIVERY_COUNT",
    "DISCOVERY_EXCHANGE",
    "LONGEST_NAME",
    "ORIGINAL_EXCHANGE",
    "ORIGINAL_ROUTING_KEY",
    "OVERSIZED",
    "OWN_PREFIX",
    "PREFIX",
    "REPLY_QUEUE_EXPIRES",
    "RESENT",
    "ROUTING_HEADERS",
    "UNBOUNDED_CANCEL",
    "cancel_queue",
    "discovery_answers_queue",
    "discovery_queue",
    "event_exchange",
    "event_queue",
    "parked_queue",
    "rpc_queue_name",
]

PREFIX = "nameko."
CALL_ID_STACK = "nameko.call_id_stack"
#: Integer epoch milliseconds. The prefix lets an unmodified Nameko hop carry it on: Nameko keeps
#: every header as context data and sends it with its own calls.
DEADLINE = "nameko.aiorpc_deadline"
RESENT = "aiorpc-resent"
ATTEMPTS = "aiorpc-attempts"
#: Made by a transport, and never sent: the size of a body too large to be taken.
OVERSIZED = "aiorpc-oversized"
#: Tells one copy of a message that is counted from another.
COPY = "aiorpc-copy"
#: How a message that was sent on came to its queue at first.
ORIGINAL_EXCHANGE = "aiorpc-exchange"
ORIGINAL_ROUTING_KEY = "aiorpc-routing-key"
#: What a quorum queue counts.
DELIVERY_COUNT = "x-delivery-count"
#: The broker would send a copy to these queues too.
ROUTING_HEADERS = frozenset({"CC", "BCC"})
COMPRESSION = "compression"
#: What the broker or a mail-like convention adds, and what is ours: never context data.
BROKER_HEADERS = frozenset(
    {"x-death", DELIVERY_COUNT, "x-acquired-count", "x-received-from", "BCC", "CC", COMPRESSION}
)
OWN_PREFIX = "aiorpc-"

#: Bytes of the name of a queue, an exchange or a key.
LONGEST_NAME = 255
#: Seconds without a consumer after which a reply queue goes away; Nameko's own number.
REPLY_QUEUE_EXPIRES = 300.0
#: Where callers say that they cancel a call.
CANCEL_EXCHANGE = Exchange("aiorpc-cancel", type="fanout")
#: Where ``aiorpc ls`` asks which services are there.
DISCOVERY_EXCHANGE = Exchange("aiorpc-discovery", type="fanout")
#: Seconds for which the cancelling of a call without a deadline (or with a far one) is remembered.
UNBOUNDED_CANCEL = 300.0


def rpc_queue_name(service: str) -> str:
    return f"rpc-{service}"


def cancel_queue(owner: str) -> Queue:
    """Where one instance of a service learns of cancelled calls; gone with its connection."""
    name = f"aiorpc-cancel-{owner}-{new_id()}"
    return Queue(name, CANCEL_EXCHANGE, durable=False, exclusive=True, auto_delete=True)


def discovery_queue(owner: str) -> Queue:
    """Where one instance hears who asks for services; gone with its connection."""
    name = f"aiorpc-discovery-{owner}-{new_id()}"
    return Queue(name, DISCOVERY_EXCHANGE, durable=False, exclusive=True, auto_delete=True)


def discovery_answers_queue() -> Queue:
    """Where whoever asked gets the answers; gone with its connection."""
    name = f"aiorpc-discovery-answers-{new_id()}"
    return Queue(name, durable=False, exclusive=True, auto_delete=True)


def parked_queue(queue: str) -> Queue:
    """Where the messages of *queue* go that nobody could work on."""
    return Queue(f"{queue}.parked")


def event_exchange(source: str, *, auto_delete: bool = False, passive: bool = False) -> Exchange:
    return Exchange(f"{source}.events", "topic", auto_delete=auto_delete, passive=passive)


def event_queue(
    exchange: Exchange,
    source: str,
    event: str,
    *,
    listener: str | None,
    instance: str | None,
    reliable: bool,
) -> Queue:
    """
    The queue of an event handler. The kinds of handler differ by its name: a singleton has no
    *listener* (``service.method``), a service pool has one, a broadcast adds the *instance*.
    """
    name = f"evt-{source}-{event}"
    if listener is not None:
        name += f"--{listener}"
    if instance is not None:
        name += f"-{instance}"
    return Queue(
        name,
        exchange,
        event,
        exclusive=instance is not None and not reliable,
        auto_delete=not reliable,
    )

"""
Names on the wire: exchanges, queues and headers. Values and pure functions; no I/O.

All such names are made here. A name that Nameko has too is Nameko's.
"""

from __future__ import annotations

from ..context import new_id
from .message import Exchange, Queue

__all__ = [
    "ACQUIRED_COUNT",
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
#: Integer epoch milliseconds. The prefix lets a Nameko service pass it on: Nameko keeps each header
#: as context data and sends it with its own calls.
DEADLINE = "nameko.aiorpc_deadline"
RESENT = "aiorpc-resent"
ATTEMPTS = "aiorpc-attempts"
#: The size in bytes of a body that was too large to read. Transports add it; it is never sent.
OVERSIZED = "aiorpc-oversized"
#: The id of one copy of a message whose attempts are counted.
COPY = "aiorpc-copy"
#: Where a message came from before it was parked or sent to its queue again.
ORIGINAL_EXCHANGE = "aiorpc-exchange"
ORIGINAL_ROUTING_KEY = "aiorpc-routing-key"
#: How often a quorum queue has delivered a message.
DELIVERY_COUNT = "x-delivery-count"
#: How often RabbitMQ 4 has handed a message of a quorum queue to a consumer.
ACQUIRED_COUNT = "x-acquired-count"
#: The broker also sends a message to the routing keys in these headers.
ROUTING_HEADERS = frozenset({"CC", "BCC"})
COMPRESSION = "compression"
#: Headers of the broker, and of compression, which are never context data.
BROKER_HEADERS = frozenset(
    {"x-death", DELIVERY_COUNT, ACQUIRED_COUNT, "x-received-from", "BCC", "CC", COMPRESSION}
)
OWN_PREFIX = "aiorpc-"

#: Bytes of the name of a queue, an exchange or a key.
LONGEST_NAME = 255
#: Seconds without a consumer after which the broker deletes a reply queue; Nameko's value.
REPLY_QUEUE_EXPIRES = 300.0
#: Callers publish here which of their calls they cancel.
CANCEL_EXCHANGE = Exchange("aiorpc-cancel", type="fanout")
#: ``aiorpc ls`` asks here which services run.
DISCOVERY_EXCHANGE = Exchange("aiorpc-discovery", type="fanout")
#: Seconds for which a service remembers a cancelled call that has no deadline, or a later one.
UNBOUNDED_CANCEL = 300.0


def rpc_queue_name(service: str) -> str:
    """Return the name of the queue of the requests to *service*."""
    return f"rpc-{service}"


def cancel_queue(owner: str) -> Queue:
    """Return the queue from which one instance of a service learns of cancelled calls."""
    return _transient(f"cancel-{owner}", CANCEL_EXCHANGE)


def discovery_queue(owner: str) -> Queue:
    """Return the queue from which one instance learns who asks for services."""
    return _transient(f"discovery-{owner}", DISCOVERY_EXCHANGE)


def discovery_answers_queue() -> Queue:
    """Return the queue of the answers to one question for services."""
    return _transient("discovery-answers", Exchange())


def _transient(name: str, exchange: Exchange) -> Queue:
    """Return a queue of one connection, which the broker deletes with that connection."""
    unique = f"aiorpc-{name}-{new_id()}"
    return Queue(unique, exchange, durable=False, exclusive=True, auto_delete=True)


def parked_queue(queue: str) -> Queue:
    """Return the queue of the messages of *queue* that failed for good."""
    return Queue(f"{queue}.parked")


def event_exchange(source: str, *, auto_delete: bool = False, passive: bool = False) -> Exchange:
    """Return the exchange of the events of the service *source*."""
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
    Return the queue of an event handler.

    Args:
        listener: ``service.method``; ``None`` for a singleton handler.
        instance: the instance of a broadcast handler, else ``None``.
        reliable: whether events wait in the queue while no handler runs.
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

"""
The names of exchanges, queues and headers. Values and pure functions; no I/O.

No other file makes such names. If Nameko has the same exchange, queue or header, we use its name.
"""

from __future__ import annotations

import re
from zlib import crc32

from ..context import new_id
from .message import LONGEST_NAME, Exchange, Queue, name_fault

__all__ = [
    "ACQUIRED_COUNT",
    "ADDED_PREFIXES",
    "ALIVE_EVERY",
    "ATTEMPTS",
    "AT_LEAST_ONCE",
    "CALL_ID_STACK",
    "CANCEL_EXCHANGE",
    "COMPRESSION",
    "COPY",
    "DEADLINE",
    "DEATHS",
    "DELIVERY_COUNT",
    "DISCOVERY_EXCHANGE",
    "IDEMPOTENCY_KEY",
    "IDEMPOTENCY_SCOPE",
    "ITEM",
    "MESSAGE_HEADERS",
    "ORIGINAL_EXCHANGE",
    "ORIGINAL_ROUTING_KEY",
    "OVERSIZED",
    "OWN_PREFIX",
    "PARKED_AT",
    "PARKED_EXCHANGE",
    "PARKED_HEADERS",
    "PARKED_MESSAGE",
    "PARKED_METHOD",
    "PARKED_QUEUE",
    "PARKED_ROUTING_KEY",
    "PARKED_SENSITIVE",
    "PARKED_STACKTRACE",
    "PARKED_SUFFIX",
    "PREFIX",
    "REPLY_QUEUE_EXPIRES",
    "RESENT",
    "RETRIES",
    "ROUTING_HEADERS",
    "STREAM",
    "TIMESTAMP",
    "TRACEPARENT",
    "TRACEPARENT_LENGTH",
    "TRACE_HEADERS",
    "UNBOUNDED_CANCEL",
    "UNREADABLE",
    "cancel_queue",
    "delay_of",
    "delay_queue",
    "discovery_answers_queue",
    "discovery_queue",
    "event_exchange",
    "event_queue",
    "parked_queue",
    "replacement_queue",
    "rpc_queue_name",
    "singleton_right",
    "singleton_ticks",
    "unique_name",
]

PREFIX = "nameko."
CALL_ID_STACK = "nameko.call_id_stack"
#: The deadline in epoch milliseconds, as decimal text (ADR 15). Because of the prefix, a Nameko
#: service keeps this header as context data and sends it with its own calls.
DEADLINE = "nameko.aiorpc_deadline"
RESENT = "aiorpc-resent"
ATTEMPTS = "aiorpc-attempts"
#: How often a handler has retried a message that failed.
RETRIES = "aiorpc-retries"
#: In the request of a stream, the number of items that the caller buffers; in the other messages of
#: the stream, their kind (:mod:`aiorpc.wire.streams`).
STREAM = "aiorpc-stream"
#: The number of items of a stream before a message.
ITEM = "aiorpc-item"
#: The seconds between two signs of life of a stream's caller, in its request, or of its service.
ALIVE_EVERY = "aiorpc-alive"
#: The idempotency key of a call, and whose key it is (:mod:`aiorpc.wire.keys`).
IDEMPOTENCY_KEY = "aiorpc-idempotency-key"
IDEMPOTENCY_SCOPE = "aiorpc-idempotency-scope"
#: Bytes of a body that was too large to read. The receiving transport adds this header.
OVERSIZED = "aiorpc-oversized"
#: Why a message could not be read. The receiving transport adds this header.
UNREADABLE = "aiorpc-unreadable"
#: The id of a copy of a message, if aiorpc counts attempts at the message.
COPY = "aiorpc-copy"
#: The origin of a message that was re-sent to its queue.
ORIGINAL_EXCHANGE = "aiorpc-exchange"
ORIGINAL_ROUTING_KEY = "aiorpc-routing-key"
#: Why a message was parked, and from where: the names of Spring AMQP, which tools know.
PARKED_MESSAGE = "x-exception-message"
PARKED_STACKTRACE = "x-exception-stacktrace"
PARKED_EXCHANGE = "x-original-exchange"
PARKED_ROUTING_KEY = "x-original-routingKey"
#: The queue whose message was parked, the method that failed, the time, and the paths of sensitive
#: arguments in the decoded body.
PARKED_QUEUE = "aiorpc-queue"
PARKED_METHOD = "aiorpc-method"
PARKED_AT = "aiorpc-parked-at"
PARKED_SENSITIVE = "aiorpc-sensitive"
#: The headers that only a parked message has.
PARKED_HEADERS = frozenset(
    {
        *(PARKED_MESSAGE, PARKED_STACKTRACE, PARKED_EXCHANGE, PARKED_ROUTING_KEY),
        *(PARKED_QUEUE, PARKED_METHOD, PARKED_AT, PARKED_SENSITIVE),
    }
)
#: The end of the name of each parked queue.
PARKED_SUFFIX = ".parked"
_DELAYED = re.compile(r"\.retry-(\d+)ms$")
#: The queues that dead-lettered a message.
DEATHS = "x-death"
#: The number of failed deliveries of a message by a quorum queue. A first delivery has no count.
DELIVERY_COUNT = "x-delivery-count"
#: The number of deliveries of a message by a quorum queue since RabbitMQ 4.3, failed or requeued.
ACQUIRED_COUNT = "x-acquired-count"
#: Headers with further routing keys, to which the broker also routes the message.
ROUTING_HEADERS = frozenset({"CC", "BCC"})
COMPRESSION = "compression"
#: Headers about the message itself, which are never context data.
MESSAGE_HEADERS = frozenset({"BCC", "CC", COMPRESSION})
#: Context data with W3C's names, which travels without Nameko's prefix: any tracer knows the names.
TRACEPARENT = "traceparent"
TRACE_HEADERS = frozenset({TRACEPARENT, "tracestate", "baggage"})
#: Characters of a ``traceparent`` of version 00.
TRACEPARENT_LENGTH = 55
#: The epoch milliseconds at which RabbitMQ took a message, if its configuration asks for that.
TIMESTAMP = "timestamp_in_ms"
OWN_PREFIX = "aiorpc-"
#: Prefixes of further headers that are never context data. aiorpc, RabbitMQ 3.8 to 4.3 and its
#: plugins (federation, shovel, streams, MQTT, AMQP 1.0) add these headers.
ADDED_PREFIXES = (
    *(OWN_PREFIX, DEATHS, "x-first-death-", "x-last-death-", DELIVERY_COUNT, ACQUIRED_COUNT),
    *(PARKED_MESSAGE, PARKED_STACKTRACE, PARKED_EXCHANGE, PARKED_ROUTING_KEY),
    *("x-received-from", "x-shovelled", "x-stream-", "x-mqtt-", "x-amqp-1.0-", TIMESTAMP),
)

#: The broker deletes a reply queue after this many seconds without a consumer; Nameko's value.
REPLY_QUEUE_EXPIRES = 300.0
#: Callers publish the ids of cancelled calls to this exchange.
CANCEL_EXCHANGE = Exchange("aiorpc-cancel", type="fanout")
#: ``aiorpc ls`` publishes here to find the running services.
DISCOVERY_EXCHANGE = Exchange("aiorpc-discovery", type="fanout")
#: With these arguments, a quorum queue keeps an expired message until its target has confirmed it.
AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
#: A service remembers a cancelled call for at most this many seconds.
UNBOUNDED_CANCEL = 300.0


def rpc_queue_name(service: str) -> str:
    """Return the name of the queue for requests to *service*."""
    return f"rpc-{service}"


def cancel_queue(owner: str) -> Queue:
    """Return the queue on which one instance of a service receives cancellations."""
    return _transient(f"cancel-{owner}", CANCEL_EXCHANGE)


def discovery_queue(owner: str) -> Queue:
    """Return the queue on which one instance of a service receives questions from ``aiorpc ls``."""
    return _transient(f"discovery-{owner}", DISCOVERY_EXCHANGE)


def discovery_answers_queue() -> Queue:
    """Return the queue on which one ``aiorpc ls`` receives its answers."""
    return _transient("discovery-answers", Exchange())


def _transient(name: str, exchange: Exchange) -> Queue:
    """Return a queue that the broker deletes when its connection ends."""
    unique = unique_name(f"aiorpc-{name}", new_id())
    return Queue(unique, exchange, durable=False, exclusive=True, auto_delete=True)


def unique_name(name: str, identity: str) -> str:
    """Return *name* and *identity* as one name, with the end of a long *name* cut off."""
    room = LONGEST_NAME - len(identity) - 1
    cut = name.encode(errors="replace")[:room].decode(errors="ignore")
    return f"{cut}-{identity}"


def replacement_queue(first: str, number: int) -> str:
    """Return the name of the queue that replaces *first*, as the *number*-th of its kind."""
    identity = str(number)
    return f"{first[: LONGEST_NAME - len(identity) - 1]}-{identity}"


def parked_queue(queue: str) -> Queue:
    """Return the queue for parked messages: messages of *queue* that failed for good."""
    return Queue(_beside(queue, PARKED_SUFFIX[1:]))


def delay_queue(queue: Queue, delay: int) -> Queue:
    """
    Return the queue in which messages of *queue* wait *delay* milliseconds. Then the broker moves
    them to the end of *queue*, and to no other queue.
    """
    arguments: dict[str, object] = {
        "x-message-ttl": delay,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue.name,
    }
    kind = queue.arguments.get("x-queue-type")
    if kind is not None:
        arguments["x-queue-type"] = kind
    if kind == "quorum":
        arguments |= AT_LEAST_ONCE
    return Queue(
        _beside(queue.name, f"retry-{delay}ms"),
        durable=queue.durable or not queue.exclusive,
        exclusive=queue.exclusive,
        arguments=arguments,
        accept_existing=True,
    )


def delay_of(queue: str) -> int | None:
    """Return the milliseconds that messages wait in a :func:`delay_queue`; ``None`` for others."""
    found = _DELAYED.search(queue)
    return None if found is None else int(found[1])


def _beside(queue: str, suffix: str) -> str:
    """Return *queue* with *suffix*; a name that would be too long is cut, and gets a checksum."""
    name = f"{queue}.{suffix}"
    if name_fault(name):
        name = unique_name(queue, f"{crc32(queue.encode(errors='replace')):08x}.{suffix}")
    return name


def singleton_right(method: str) -> str:
    """Return the name of the exclusive queue whose owner fires the ticks of *method*."""
    return _beside(f"aiorpc-singleton-{method}", "right")


def singleton_ticks(method: str) -> Queue:
    """Return the queue that holds the last tick of *method*."""
    return Queue(
        _beside(f"aiorpc-singleton-{method}", "ticks"),
        arguments={"x-max-length": 1},
        accept_existing=True,
    )


def event_exchange(source: str, *, auto_delete: bool = False, passive: bool = False) -> Exchange:
    """Return the exchange for events of the service *source*."""
    return Exchange(
        f"{source}.events",
        "topic",
        auto_delete=auto_delete,
        passive=passive,
        accept_existing=True,  # Nameko up to 2.12 declares it with auto_delete
    )


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
        instance: the id of a broadcast handler's instance; ``None`` for other handlers.
        reliable: whether the queue keeps events while no handler runs.
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
        accept_existing=True,
    )

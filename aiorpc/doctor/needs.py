"""
What a service needs at the broker: exchanges, queues and permissions. Reads a container that was
not started, so no code of the service runs. Values only; awaits nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..context import new_id
from ..dependencies.dispatcher import EventDispatcher
from ..dependencies.proxies import ClusterRpc, RpcProxy
from ..dependencies.publisher import Publisher
from ..entrypoints.consumer import QueueConsumer
from ..entrypoints.rpc import Rpc
from ..extensions import Entrypoint
from ..hosting.container import ServiceContainer
from ..wire.message import Exchange, Queue
from ..wire.names import (
    CANCEL_EXCHANGE,
    cancel_queue,
    delay_queue,
    discovery_queue,
    event_exchange,
    parked_queue,
    singleton_right,
    singleton_ticks,
)
from ..wire.queues import has_type, is_shared, of_same_type, of_type

__all__ = ["Access", "NeededExchange", "NeededQueue", "Needs", "needs_of"]

#: The default exchange in the patterns of permissions.
DEFAULT_EXCHANGE = "amq.default"
#: Channels of a connection beside those of consumers: to publish, to look and to declare.
_FURTHER_CHANNELS = 3


@dataclass(frozen=True)
class NeededQueue:
    """
    A queue that the service declares.

    Attributes:
        role: what the queue is for, in words.
        consumed: whether the service consumes it.
        optional: whether the service starts without it.
        pattern: the name, with ``*`` for a part that each process chooses.
        late: whether the service declares the queue only when it has a message for it.
    """

    queue: Queue
    role: str
    consumed: bool = True
    optional: bool = False
    pattern: str = ""
    late: bool = False

    @property
    def shown(self) -> str:
        return self.pattern or self.queue.name

    @property
    def lasting(self) -> bool:
        """Whether the queue exists while no process of the service runs, and does not expire."""
        queue = self.queue
        passing = queue.exclusive or queue.auto_delete or self.pattern or queue.expires is not None
        return not passing and "x-expires" not in queue.arguments


@dataclass(frozen=True)
class NeededExchange:
    """An exchange that the service declares or uses. ``written``: the service publishes to it."""

    exchange: Exchange
    role: str
    written: bool = False
    optional: bool = False


class Access(NamedTuple):
    """A permission that a service needs: ``configure``, ``write`` or ``read`` of a name."""

    operation: str
    name: str
    reason: str
    optional: bool = False
    #: The exchange is a topic exchange, used with this routing key.
    routing_key: str | None = None


@dataclass
class Needs:
    """
    What one service needs.

    Attributes:
        calls: the names of the services that it calls.
        unknown: its entrypoints whose queues aiorpc does not know.
    """

    service: str
    container: ServiceContainer
    queues: list[NeededQueue] = field(default_factory=list)
    exchanges: list[NeededExchange] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def lasting(self) -> list[NeededQueue]:
        """The queues that exist between two runs of the service."""
        return [each for each in self.queues if each.lasting]

    @property
    def channels(self) -> int:
        """The number of channels that the service has open at a time."""
        return _FURTHER_CHANNELS + sum(each.consumed for each in self.queues)

    @property
    def accesses(self) -> Iterator[Access]:
        """Yield the permissions that the service needs."""
        for queue in self.queues:
            yield from _accesses_of_queue(queue)
        for each in self.exchanges:
            exchange, reason = each.exchange, each.role
            name = exchange.name or DEFAULT_EXCHANGE
            if exchange.name and not exchange.passive:
                yield Access("configure", name, f"declares the {reason}", each.optional)
            if each.written:
                yield Access("write", name, f"publishes to the {reason}", each.optional)


def _accesses_of_queue(each: NeededQueue) -> Iterator[Access]:
    queue, role = each.queue, each.role
    if not queue.passive:
        yield Access("configure", queue.name, f"declares the {role}", each.optional)
    if queue.exchange.name:
        reason = f"binds the {role}"
        yield Access("write", queue.name, reason, each.optional)
        key = queue.routing_key if queue.exchange.type == "topic" else None
        yield Access("read", queue.exchange.name, reason, each.optional, key)
    if each.consumed:
        yield Access("read", queue.name, f"consumes the {role}", each.optional)
    dead_letters = queue.arguments.get("x-dead-letter-exchange")
    if dead_letters is not None and not queue.passive:
        reason = f"declares the {role} with its dead-letter exchange"
        yield Access("read", queue.name, reason, each.optional)
        yield Access("write", str(dead_letters) or DEFAULT_EXCHANGE, reason, each.optional)


def needs_of(container: ServiceContainer) -> Needs:
    """
    Return what the service of *container*, which is not started, needs.

    Raises:
        ConfigurationError: an entrypoint of the service is wrong.
    """
    needs = Needs(container.service_name, container)
    for entrypoint in container.entrypoints:
        _add_entrypoint(needs, entrypoint)
    callers = [each for each in container.providers if isinstance(each, RpcProxy | ClusterRpc)]
    needs.calls = sorted(
        {each.service_name for each in container.providers if isinstance(each, RpcProxy)}
    )
    if callers:
        _add_caller(needs)
    for provider in container.providers:
        if isinstance(provider, EventDispatcher):
            _add_dispatcher(needs)
        elif isinstance(provider, Publisher):
            _add_publisher(needs, provider)
        elif _is_outbox(provider):
            _add_outbox(needs, provider)
    if container.settings.discovery:
        queue = discovery_queue(needs.service)
        pattern = f"aiorpc-discovery-{needs.service}-*"
        _add_queue(needs, NeededQueue(queue, "queue of `aiorpc ls`", True, True, pattern))
    return needs


def _add_queue(needs: Needs, queue: NeededQueue) -> None:
    if queue.queue.name in {each.queue.name for each in needs.queues}:
        return
    needs.queues.append(queue)
    exchange = queue.queue.exchange
    if exchange.name and exchange.name not in {each.exchange.name for each in needs.exchanges}:
        role = f"exchange of the {queue.role}"
        needs.exchanges.append(NeededExchange(exchange, role, optional=queue.optional))


def _add_entrypoint(needs: Needs, entrypoint: Entrypoint) -> None:
    container = needs.container
    if isinstance(entrypoint, Rpc):
        _add_server(needs)
    elif isinstance(entrypoint, QueueConsumer):
        queue = entrypoint.queue_of(container)
        chosen = getattr(entrypoint, "handler_type", "") == "broadcast" and (
            queue.exclusive or queue.auto_delete
        )
        pattern = f"{queue.name.rpartition('-')[0]}-*" if chosen else ""
        role = f"queue of {entrypoint.method_name}"
        _add_queue(needs, NeededQueue(queue, role, pattern=pattern))
        if entrypoint.retry is not None:
            typed = queue if is_shared(queue) else of_type(queue, "classic")
            for delay in entrypoint.retry.delays:
                waits = f"queue of delayed messages of {entrypoint.method_name}"
                delayed = delay_queue(typed, delay)
                _add_queue(needs, NeededQueue(delayed, waits, consumed=False))
        if not (entrypoint.requeue_on_error or entrypoint.dead_letter):
            _add_parked(needs, queue, pattern)
    elif getattr(entrypoint, "singleton", False):
        _add_singleton(needs, entrypoint)
    elif entrypoint.queue_name(container) is not None:
        needs.unknown.append(entrypoint.method_name)


def _add_server(needs: Needs) -> None:
    wire = needs.container.wire
    queue = wire.rpc_queue(needs.service)
    _add_queue(needs, NeededQueue(queue, "queue of calls"))
    _add_parked(needs, queue)
    replies = NeededExchange(
        Exchange(wire.rpc_exchange.name, passive=True), "exchange of replies", written=True
    )
    if replies not in needs.exchanges:
        needs.exchanges.append(replies)
    pattern = f"aiorpc-cancel-{needs.service}-*"
    cancels = cancel_queue(needs.service)
    _add_queue(needs, NeededQueue(cancels, "queue of cancellations", True, True, pattern))


def _add_parked(needs: Needs, queue: Queue, pattern: str = "") -> None:
    options = needs.container.settings.queue_options
    parked = of_same_type(parked_queue(queue.name), queue.name, options)
    if not (is_shared(queue) or has_type(parked)):
        parked = of_type(parked, "classic")
    role = f"queue of parked messages of {queue.name}"
    pattern = f"{pattern}.parked" if pattern else ""
    _add_queue(needs, NeededQueue(parked, role, False, True, pattern, late=True))
    default = NeededExchange(Exchange(), "default exchange, to park", written=True, optional=True)
    if default not in needs.exchanges:
        needs.exchanges.append(default)


def _add_singleton(needs: Needs, entrypoint: Entrypoint) -> None:
    name = f"{type(entrypoint).__name__.lower()}-{needs.service}.{entrypoint.method_name}"
    ticks = singleton_ticks(name)
    ticks = of_same_type(ticks, ticks.name, needs.container.settings.queue_options)
    role = f"last tick of {entrypoint.method_name}"
    _add_queue(needs, NeededQueue(ticks, f"queue of the {role}", consumed=False))
    right = Queue(singleton_right(name), exclusive=True, durable=False)
    _add_queue(needs, NeededQueue(right, f"queue of the right to fire {entrypoint.method_name}"))


def _add_caller(needs: Needs) -> None:
    wire = needs.container.wire
    replies = wire.reply_queue(needs.service, new_id())
    pattern = f"{replies.name.rpartition('-')[0]}-*"
    _add_queue(needs, NeededQueue(replies, "queue of replies", pattern=pattern))
    requests = Exchange(wire.rpc_exchange.name, passive=True)
    for exchange, role in (
        (requests, "exchange of calls"),
        (CANCEL_EXCHANGE, "exchange of cancels"),
    ):
        needs.exchanges.append(NeededExchange(exchange, role, written=True))


def _add_dispatcher(needs: Needs) -> None:
    settings = needs.container.settings
    exchange = event_exchange(
        needs.service,
        auto_delete=settings.auto_delete_event_exchanges,
        passive=not settings.declare_event_exchanges,
    )
    needs.exchanges.append(NeededExchange(exchange, "exchange of its events", written=True))


def _is_outbox(provider: object) -> bool:
    """Whether *provider* is an Outbox. A service with one has imported SQLAlchemy."""
    module = sys.modules.get("aiorpc.sqlalchemy.outbox.provider")
    return module is not None and isinstance(provider, module.Outbox)


def _add_outbox(needs: Needs, provider: Any) -> None:
    _add_dispatcher(needs)
    if provider.exchange.name or provider.exchanges or provider.queues:
        _add_publisher(needs, provider)


def _add_publisher(needs: Needs, provider: Publisher) -> None:
    for exchange in provider.exchanges:
        needs.exchanges.append(NeededExchange(exchange, "exchange of a Publisher"))
    for queue in provider.queues:
        _add_queue(needs, NeededQueue(queue, "queue of a Publisher", consumed=False))
    needs.exchanges.append(
        NeededExchange(provider.exchange, "exchange of a Publisher", written=True)
    )

"""Checks of exchanges, queues and bindings. Awaits the broker and the management API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from ...logs import counted
from ...management import ListedQueue
from ...transports.amqp.conversation import Refused
from ...wire.message import Exchange
from ...wire.names import AT_LEAST_ONCE, delay_of, rpc_queue_name
from ...wire.queues import has_type, is_shared
from ..case import NO_MANAGEMENT, USE_MANAGEMENT, Case
from ..findings import Finding, FindingKind, NotChecked, Severity, ok
from ..moving import to_quorum
from ..needs import NeededQueue
from ..registry import check

__all__: list[str] = []

NO_EXCHANGE = FindingKind(
    "exchange-missing",
    Severity.ERROR,
    why="The configuration says that somebody else declares the exchange, and nobody did.",
    remedy="Declare it, or let the service declare it: DECLARE_RPC_EXCHANGE, "
    "DECLARE_EVENT_EXCHANGES, passive.",
)
OTHER_EXCHANGE = FindingKind(
    "exchange-differs",
    Severity.ERROR,
    why="RabbitMQ never changes an exchange and refuses to declare it otherwise, so the service "
    "does not start.",
    remedy="Use the flags that it has. Or stop everything that uses it, delete it in the "
    "management UI, and start the services.",
)
USED_AS_IT_IS = FindingKind(
    "used-as-it-is",
    Severity.NOTE,
    why="The service uses it without the flags of its configuration.",
    remedy="Nothing, if you want the flags that it has.",
)
NO_QUEUE = FindingKind(
    "queue-missing",
    Severity.ERROR,
    why="The configuration says that somebody else declares the queue (passive), and nobody did.",
    remedy="Declare it, or remove passive of QUEUE_OPTIONS.",
)
NOT_YET = FindingKind(
    "queue-not-declared-yet",
    Severity.NOTE,
    why="Until the service starts for the first time, callers get UnknownService, and the broker "
    "drops events.",
    remedy="Start the service once before its callers.",
)
OTHER_QUEUE = FindingKind(
    "queue-differs",
    Severity.ERROR,
    why="RabbitMQ never changes a queue and refuses to declare it otherwise, so the service does "
    "not start.",
    remedy="Use the flags that it has (QUEUE_OPTIONS). Or let the consumers empty it, stop them, "
    "and delete it: rabbitmqctl delete_queue NAME --if-empty --if-unused. The service declares it "
    "when it starts.",
)
CLASSIC = FindingKind(
    "queue-is-classic",
    Severity.WARNING,
    why="The configuration, or the default queue type of the vhost, asks for a quorum queue, and "
    "the service uses the classic one that exists. If its node is lost, so are its messages.",
    remedy="Move the messages to a quorum queue of the same name with the commands below.",
)
AT_MOST_ONCE = FindingKind(
    "delays-lose-messages",
    Severity.WARNING,
    why="An older aiorpc declared the queue. If a node is lost, the broker may lose messages that "
    "wait there for a delayed retry.",
    remedy="Set dead-letter-strategy at-least-once and overflow reject-publish by a policy. Or "
    "delete the queue when it is empty, and restart the service.",
)
NO_BINDING = FindingKind(
    "binding-missing",
    Severity.ERROR,
    why="The broker routes no message to the queue: callers get UnknownService, and events do not "
    "arrive.",
    remedy="Restart the service, which binds the queue. Find out who removed the binding.",
)
FOREIGN = FindingKind(
    "binding-foreign",
    Severity.WARNING,
    why="The queue gets calls of another service, which this one answers with MethodNotFound.",
    remedy="Remove the binding, if no service of that name shares the queue on purpose.",
)
NOT_CALLABLE = FindingKind(
    "called-service-missing",
    Severity.WARNING,
    why="Calls of that service fail with UnknownService or RpcTimeout.",
    remedy="Start it, or correct its name in RpcProxy, or the vhost in AMQP_URI.",
)


@check
async def exchanges(case: Case) -> AsyncGenerator[Finding]:
    needed = {
        each.exchange.name: each.exchange
        for needs in case.needs
        for each in reversed(needs.exchanges)
        if each.exchange.name
    }
    if not needed:
        return
    if case.given_management is None:
        for name, exchange in needed.items():
            refused = await case.exchange(name)
            if refused is not None and exchange.passive:
                yield NO_EXCHANGE.found(name, f"the exchange does not exist: {refused.text}")
        raise NotChecked(f"the flags of {len(needed)} exchanges: {NO_MANAGEMENT}", USE_MANAGEMENT)
    there = await case.exchanges()
    for name, exchange in needed.items():
        if name in there:
            yield _of_exchange(exchange, there[name])
        elif exchange.passive:
            yield NO_EXCHANGE.found(name, "the exchange does not exist")
        else:
            yield ok(name, "does not exist yet; the service declares it")


def _of_exchange(exchange: Exchange, found: Mapping[str, Any]) -> Finding:
    if exchange.passive:
        return ok(exchange.name, f"exists, of the type {found['type']}")
    alternate = "alternate-exchange"
    ours: dict[str, Any] = {"type": exchange.type, "durable": exchange.durable, "internal": False}
    theirs = {name: found[name] for name in ours}
    ours[alternate] = exchange.arguments.get(alternate)
    theirs[alternate] = dict(found.get("arguments") or {}).get(alternate)
    differing = list(_differences(ours, theirs))
    accepted = list(
        _differences({"auto_delete": exchange.auto_delete}, {"auto_delete": found["auto_delete"]})
    )
    if differing or (accepted and not exchange.accept_existing):
        return OTHER_EXCHANGE.found(exchange.name, "; ".join([*differing, *accepted]))
    if accepted:
        return USED_AS_IT_IS.found(exchange.name, accepted[0])
    return ok(exchange.name, f"exists, of the type {exchange.type}")


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            yield f"{name} is {theirs.get(name)!r} there, and {ours.get(name)!r} here"


@check
async def flags(case: Case) -> AsyncGenerator[Finding]:
    needed = [each for needs in case.needs for each in needs.lasting]
    if not needed:
        return
    if case.given_management is None:
        for each in needed:
            answer = await case.queue(each.queue.name)
            missing = isinstance(answer, Refused) and answer.missing
            if missing and (finding := _of_missing(each)):
                yield finding
        raise NotChecked(f"the flags of {len(needed)} queues: {NO_MANAGEMENT}", USE_MANAGEMENT)
    there = await case.listed()
    # One vhost by itself is shown to administrators only (RabbitMQ 3.10).
    vhosts = {each["name"]: each for each in await case.api("vhosts") or ()}
    default = vhosts.get(case.vhost, {}).get("default_queue_type")
    for each in needed:
        found = there.get(each.queue.name)
        if found is not None:
            yield await _of_queue(case, each, found, default)
        elif finding := _of_missing(each):
            yield finding


def _of_missing(needed: NeededQueue) -> Finding | None:
    name = needed.queue.name
    if needed.queue.passive:
        return NO_QUEUE.found(name, "the queue does not exist")
    return None if needed.late else NOT_YET.found(name, "the queue does not exist")


async def _of_queue(
    case: Case, needed: NeededQueue, found: ListedQueue, default: str | None
) -> Finding:
    queue = needed.queue
    if queue.passive:
        return ok(queue.name, f"exists, of the type {found.type}")
    flags = {
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "exclusive": queue.exclusive,
    }
    differing = list(_differences(flags, {name: getattr(found, name) for name in flags}))
    kind = queue.arguments.get("x-queue-type")
    if default == "quorum" and is_shared(queue) and not has_type(queue):
        kind = default
    skipped = {"x-queue-type"}
    if delay_of(queue.name) is not None and found.type == "quorum":
        if not _dead_letters_at_least_once(found):
            return AT_MOST_ONCE.found(queue.name, "a quorum queue that dead-letters at most once")
        skipped |= {*AT_LEAST_ONCE}
    wanted, given = (
        {name: value for name, value in each.items() if name not in skipped}
        for each in (queue.arguments, found.given)
    )
    arguments = list(_differences(wanted, given))
    if kind == "quorum" and found.type == "classic" and not differing:
        commands = await _moving(case, found)
        return CLASSIC.found(queue.name, "the queue is classic", commands=commands)
    # Parking uses any durable queue.
    accepted = queue.accept_existing or needed.late
    if found.type == "stream" or differing or (arguments and not accepted):
        stream = ["the queue is a stream"] if found.type == "stream" else []
        return OTHER_QUEUE.found(queue.name, "; ".join([*stream, *differing, *arguments]))
    if kind is not None and kind != found.type:
        arguments.append(f"the type is {found.type} there, and {kind} here")
    if arguments:
        return USED_AS_IT_IS.found(queue.name, "; ".join(arguments))
    return ok(queue.name, f"exists, of the type {found.type}")


async def _moving(case: Case, found: ListedQueue) -> Sequence[str]:
    """Return the commands that make the classic queue *found* a quorum queue."""
    given = {**found.given, **(AT_LEAST_ONCE if delay_of(found.name) is not None else {})}
    bindings = await case.api("queues", case.vhost, found.name, "bindings")
    return to_quorum(case.management.url, case.vhost, found.name, given, bindings or ())


def _dead_letters_at_least_once(found: ListedQueue) -> bool:
    there = {**{f"x-{name}": value for name, value in found.policies.items()}, **found.given}
    return there.items() >= AT_LEAST_ONCE.items()


@check
async def bindings(case: Case) -> AsyncGenerator[Finding]:
    bound = {name: queue for name, queue in case.queues.items() if queue.exchange.name}
    if not bound:
        return
    there = await case.listed()
    for name, queue in bound.items():
        if name not in there:
            continue
        found = await case.bindings(name)
        needed = (queue.exchange.name, queue.routing_key)
        foreign = [each for each in found if each[0] == queue.exchange.name and each != needed]
        is_rpc = name.startswith(rpc_queue_name(""))
        if needed not in found:
            text = f"no binding to the exchange {needed[0]} with the key {needed[1]}"
            yield NO_BINDING.found(name, text)
        elif is_rpc and foreign:
            yield FOREIGN.found(name, f"also bound with the key {foreign[0][1]}")
        else:
            yield ok(name, f"bound to {needed[0]} with {needed[1]}")


@check
async def called_services(case: Case) -> AsyncGenerator[Finding]:
    own = {each.service for each in case.needs}
    for service in sorted({name for each in case.needs for name in each.calls}):
        consumers = await _consumers(case, rpc_queue_name(service))
        if consumers:
            yield ok(service, f"its queue has {counted(consumers, 'consumer')}")
        elif service not in own:  # otherwise see its own queue
            text = "has no queue" if consumers is None else "has a queue, and nobody consumes it"
            yield NOT_CALLABLE.found(service, text)


async def _consumers(case: Case, queue: str) -> int | None:
    """Return the number of consumers of *queue*; ``None`` if it does not exist."""
    if case.given_management is not None:
        found: Sequence[ListedQueue] = [
            each for name, each in (await case.listed()).items() if name == queue
        ]
        return (found[0].consumers or 0) if found else None
    answer = await case.queue(queue)
    if isinstance(answer, Refused):
        if answer.missing:
            return None
        raise NotChecked(answer.text, subject=queue)
    return answer.consumers

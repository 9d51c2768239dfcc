"""
Checks of limits that operators set: policies, operator policies, and arguments of queues that
aiorpc did not set. Awaits the management API.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from ...management import ListedQueue
from ...wire.names import delay_of, parked_queue
from ..case import Case
from ..findings import Finding, FindingKind, Severity, not_checked, ok
from ..registry import check

__all__: list[str] = []

#: Queues of replies expire by themselves.
_REPLIES = "rpc.reply-"
#: The default of the broker since 3.8.17, in milliseconds.
DEFAULT_CONSUMER_TIMEOUT = 1_800_000

TTL = FindingKind(
    "messages-expire",
    Severity.WARNING,
    why="The broker drops messages that wait longer: a call then ends with RpcTimeout without a "
    "trace, and an event is lost.",
    remedy="Exclude the queue from the policy. Calls have a time limit of their own.",
)
EXPIRES = FindingKind(
    "queue-expires",
    Severity.WARNING,
    why="The broker deletes the queue, with its messages, while no process consumes it.",
    remedy="Exclude the queue from the policy.",
)
LENGTH = FindingKind(
    "queue-is-limited",
    Severity.WARNING,
    why="A full queue drops its oldest messages, or refuses new ones if its overflow is "
    "reject-publish; callers then get RpcTimeout or Overloaded.",
    remedy="Exclude the queue from the policy, or set a limit in QUEUE_OPTIONS with overflow: "
    "reject-publish.",
)
DELIVERIES = FindingKind(
    "delivery-limit-low",
    Severity.WARNING,
    why="A quorum queue drops a message, or dead-letters it, after so many deliveries. A restart "
    "of the service is one (before RabbitMQ 4.3).",
    remedy="Raise delivery-limit to 20 or more; MAX_ATTEMPTS parks poison messages earlier.",
)
NOWHERE = FindingKind(
    "dead-letter-exchange-missing",
    Severity.ERROR,
    why="The broker drops dead-lettered messages if the exchange does not exist.",
    remedy="Declare the exchange, or remove dead-letter-exchange.",
)
CONSUMER_TIMEOUT = FindingKind(
    "consumer-timeout-short",
    Severity.WARNING,
    why="If a method takes longer, the broker closes the channel and delivers all its messages "
    "again. aiorpc does not run them twice, but other processes may.",
    remedy="Raise consumer-timeout above the longest method, or lower RPC_TIMEOUT.",
)
MIRRORED = FindingKind(
    "queue-is-mirrored",
    Severity.NOTE,
    why="RabbitMQ 4 has no mirrored queues: the policy has no effect there.",
    remedy="Use quorum queues: QUEUE_OPTIONS: {NAME: {type: quorum}}.",
)


@check
async def policies(case: Case) -> AsyncGenerator[Finding]:
    there = await case.listed()
    set_by_policy = await case.api("policies", case.vhost) or ()
    names = {*case.queues, *(name for name in there if name.startswith(("rpc", "evt-")))}
    exchanges = {*(await case.exchanges())}
    if not names:
        yield ok(case.vhost, "has no queue of a service")
    for name in sorted(names):
        queue = there.get(name)
        limits = dict(_limits(name, queue, set_by_policy))
        for limit, ours in case.queues[name].arguments.items() if name in case.queues else ():
            key = limit.removeprefix("x-")
            if limits.get(key) == ours:
                del limits[key]  # the configuration asks for it
        if limits.get("message-ttl") == delay_of(name):
            limits.pop("message-ttl", None)  # messages wait there for their next attempt
        found = list(_judged(case, name, limits, exchanges))
        for each in found:
            yield each
        if not found and queue is not None and not name.startswith(_REPLIES):
            yield ok(name, f"policy {queue.policy}" if queue.policy else "has no policy")


def _limits(
    name: str, queue: ListedQueue | None, set_by_policy: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Any]]:
    """Yield what arguments and policies set on a queue, which may not exist yet."""
    if queue is not None:
        for argument, value in queue.given.items():
            yield argument.removeprefix("x-"), value
        yield from queue.policies.items()
        return
    fitting = [
        each
        for each in set_by_policy
        if each.get("apply-to", "all") in {"all", "queues", "classic_queues", "quorum_queues"}
        and _matches(each["pattern"], name)
    ]
    if fitting:
        yield from max(fitting, key=lambda each: each["priority"])["definition"].items()


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


def _judged(
    case: Case, name: str, limits: Mapping[str, Any], exchanges: set[str]
) -> Iterator[Finding]:
    if (ttl := limits.get("message-ttl")) is not None:
        yield TTL.found(name, f"messages expire after {ttl / 1000:g} s (message-ttl)")
    if (expires := limits.get("expires")) is not None and not name.startswith(_REPLIES):
        yield EXPIRES.found(name, f"the queue expires after {expires / 1000:g} s (expires)")
    for limit, unit in (("max-length", "messages"), ("max-length-bytes", "bytes")):
        if (most := limits.get(limit)) is not None:
            overflow = limits.get("overflow", "drop-head")
            yield LENGTH.found(name, f"at most {most} {unit} ({limit}), overflow {overflow}")
    deliveries = limits.get("delivery-limit")
    if deliveries is not None and 0 <= deliveries <= case.settings.max_attempts:  # and one to park
        text = f"{deliveries} deliveries, and MAX_ATTEMPTS is {case.settings.max_attempts}"
        yield DELIVERIES.found(name, text)
    target = limits.get("dead-letter-exchange")
    if target and target not in exchanges:
        yield NOWHERE.found(name, f"its dead-letter exchange {target!r} does not exist")
    if "ha-mode" in limits and not name.endswith(parked_queue("").name):
        yield MIRRORED.found(name, f"ha-mode {limits['ha-mode']}")
    timeout = limits.get("consumer-timeout")
    if timeout is not None:
        yield from _of_timeout(case, name, timeout)


def _of_timeout(case: Case, name: str, milliseconds: int) -> Iterator[Finding]:
    longest = case.settings.rpc_timeout
    if longest is None or milliseconds < longest * 1000:
        calls = "calls have no limit" if longest is None else f"RPC_TIMEOUT is {longest:g} s"
        text = f"consumer-timeout is {milliseconds / 1000:g} s, and {calls}"
        yield CONSUMER_TIMEOUT.found(name, text)


@check
async def consumer_timeout(case: Case) -> AsyncGenerator[Finding]:
    """The broker's own value is in no API; policies and arguments are checked above."""
    await case.broker()
    yield not_checked(
        "consumer_timeout",
        f"the broker's own consumer_timeout ({DEFAULT_CONSUMER_TIMEOUT // 60_000} minutes unless "
        "rabbitmq.conf sets it) is in no API",
        "on the node: rabbitmq-diagnostics environment | grep consumer_timeout. It must exceed the "
        "longest method",
    )

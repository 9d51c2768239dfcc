"""Checks of consumers and messages of queues. Awaits the broker and the management API."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from ...logs import counted
from ...management import ListedQueue
from ...transports.amqp.conversation import QueueCounts, Refused
from ...wire.names import delay_of, parked_queue
from ..case import NO_MANAGEMENT, USE_MANAGEMENT, Case
from ..findings import Finding, FindingKind, NotChecked, Severity, not_checked, ok
from ..registry import check
from .services import running

__all__: list[str] = []

#: Seconds after which a waiting message is old.
OLD = 300.0
#: Queues with these beginnings belong to services of Nameko and aiorpc.
_OURS = ("rpc-", "evt-")
_PARKED = parked_queue("").name

DOWN = FindingKind(
    "queue-down",
    Severity.ERROR,
    why="The broker accepts and delivers no message of the queue.",
    remedy="Start the node that has it. A quorum queue needs the majority of its nodes.",
)
NO_CONSUMERS = FindingKind(
    "consumers-missing",
    Severity.WARNING,
    why="Calls end with RpcTimeout, and events wait.",
    remedy="Start the service, or delete the queue if nobody needs it any more. A process that "
    "runs and does not consume says why in its log.",
)
STUCK = FindingKind(
    "consumers-stuck",
    Severity.WARNING,
    why="Consumers hold as many messages as they may, and finish none.",
    remedy="Look at what the methods wait for, such as a database or another service.",
)
MESSAGES = FindingKind(
    "messages-old",
    Severity.WARNING,
    why="Callers have given up already; events arrive late.",
    remedy="Start more processes, or raise max_workers; delete messages that nobody needs.",
)
PARKED = FindingKind(
    "messages-parked",
    Severity.WARNING,
    why="These messages failed for good, and nobody works on them.",
    remedy="Read why (aiorpc parked show), then replay or purge them. The header "
    "x-exception-message has the error.",
)


@check
async def consumers(case: Case) -> AsyncGenerator[Finding]:
    if case.given_management is not None:
        for name, queue in (await _listed(case)).items():
            if not _is_consumed(case, name):
                continue
            expires = "x-expires" in queue.given or "expires" in queue.policies
            if queue.state == "running" and queue.consumers is None and not expires:
                yield await _asked(case, name)  # the API has no figures of it yet
            else:
                yield _of_listed(name, queue)
        return
    consumed = [name for name in case.queues if _is_consumed(case, name)]
    for name in sorted({*consumed, *(await _answered(case))}):
        yield await _asked(case, name)
    if not consumed:
        raise NotChecked(
            "AMQP does not list queues: there may be more, of services that do not answer",
            f"name modules with services, or {USE_MANAGEMENT}",
        )


async def _answered(case: Case) -> set[str]:
    """Return the queues of the services that answer; none if nobody can be asked."""
    with suppress(NotChecked):
        names = {each.queue for info in await running(case) for each in info.endpoints}
        return {name for name in names if name is not None and name.startswith(_OURS)}
    return set()


async def _asked(case: Case, name: str) -> Finding:
    """Ask the broker about the queue *name*, which does not expire."""
    try:
        answer = await case.queue(name)
    except NotChecked as error:
        return not_checked(name, str(error), error.remedy)
    if isinstance(answer, Refused):
        if answer.unavailable:
            return DOWN.found(name, answer.text)
        if answer.missing:
            return not_checked(name, "the queue does not exist yet", "start the service once")
        return not_checked(name, answer.text, "read the broker's log")
    waiting = _waiting(answer.messages)
    if not answer.consumers:
        return NO_CONSUMERS.found(name, f"nobody consumes it; {waiting}")
    return ok(name, f"{counted(answer.consumers, 'consumer')}; {waiting}")


def _is_consumed(case: Case, name: str) -> bool:
    known = {each.queue.name: each.consumed for needs in case.needs for each in needs.lasting}
    rests = name.endswith(_PARKED) or delay_of(name) is not None
    return known.get(name, not rests)


async def _listed(case: Case) -> Mapping[str, ListedQueue]:
    """Return the queues of the services, and all that services of Nameko and aiorpc declare."""
    return {
        name: each
        for name, each in (await case.listed()).items()
        if name in case.queues or name.startswith(_OURS)
    }


def _of_listed(name: str, queue: ListedQueue) -> Finding:
    waiting = queue.messages_ready or 0
    if queue.state not in {"running", "idle", "flow"}:
        return DOWN.found(name, f"its state is {queue.state}")
    if not queue.consumers:
        return NO_CONSUMERS.found(name, f"nobody consumes it; {_waiting(waiting)}")
    if waiting and queue.delivering == 0:
        held = f"its consumers hold {counted(queue.messages_unacknowledged or 0, 'message')}"
        return STUCK.found(name, f"{_waiting(waiting)}, and the broker delivers none: {held}")
    return ok(name, f"{counted(queue.consumers, 'consumer')}; {_waiting(waiting)}")


def _waiting(messages: int) -> str:
    return f"{counted(messages, 'message')} wait{'s' if messages == 1 else ''}"


@check
async def ages(case: Case) -> AsyncGenerator[Finding]:
    unknown = []
    for name, queue in (await _listed(case)).items():
        if not queue.messages_ready or not _is_consumed(case, name):
            continue
        age, least = _age(queue)
        if age is None:
            unknown.append(name)
        elif age > OLD:
            text = f"the oldest of {counted(queue.messages_ready, 'message')} waits for"
            more = "at least " if least else ""
            yield MESSAGES.found(name, f"{text} {more}{age:.0f} s")
        elif not least:
            yield ok(name, f"the oldest message waits for {age:.0f} s")
    if unknown:
        raise NotChecked(
            f"the ages of messages in {', '.join(unknown)}: their publishers set no timestamp",
            "compare the rates of arrival and of delivery in the management UI",
        )


def _age(queue: ListedQueue) -> tuple[float | None, bool]:
    """Return the age in seconds of the oldest message, and whether it is only the least age."""
    sent = queue.head_message_timestamp
    if isinstance(sent, int | float):
        return time.time() - sent, False
    if queue.idle_since and not queue.consumers:  # nothing came since then
        idle = datetime.fromisoformat(queue.idle_since)
        idle = idle if idle.tzinfo is not None else idle.replace(tzinfo=UTC)
        return time.time() - idle.timestamp(), True
    return None, False


@check
async def parked(case: Case) -> AsyncGenerator[Finding]:
    found: dict[str, int | None]
    if case.given_management is not None:
        listed = await case.listed()
        found = {name: listed[name].messages for name in listed if name.endswith(_PARKED)}
    else:
        names = [name for name in case.queues if name.endswith(_PARKED)]
        if not names:
            raise NotChecked(f"all parked queues: {NO_MANAGEMENT}", USE_MANAGEMENT)
        found = {name: _messages(await case.queue(name)) for name in names}
    for name, messages in found.items():
        if messages is None:
            text = "the broker does not tell how many messages are parked"
            yield not_checked(name, text, "run the doctor again; if it stays so, start the node")
        elif messages:
            yield PARKED.found(name, f"{counted(messages, 'message')} parked")
    if all(messages == 0 for messages in found.values()):
        yield ok("parked queues", "no message is parked")


def _messages(answer: QueueCounts | Refused) -> int | None:
    """Return the number of messages; 0 if there is no such queue, ``None`` if it is not known."""
    if isinstance(answer, Refused):
        return 0 if answer.missing else None
    return answer.messages

"""
What makes the broker refuse: each is a block, within which it refuses. The commands are those of an
operator (`rabbitmqctl`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from tests.chaos.node_shell import set_default_queue_type
from tests.chaos.refusal_stage import RefusalStage
from tests.support.waiting import eventually

#: Bytes of the largest message, where the broker has such a limit; and what RabbitMQ 3 permits.
LIMIT, USUAL = 1_000_000, 128 << 20
#: What nobody may write who may not publish: replies and requests of aiorpc and of its peers.
_NO_RPC = r"^(?!(nameko-rpc|amq\.default)$).*$"
_REFUSING = {"max-length": 0, "overflow": "reject-publish"}
#: Processes that a poison event may kill: MAX_ATTEMPTS, and one before its attempts are counted.
_DEATHS = 6
#: Part of the log line about the parked event, or about the one that cannot be parked.
_POISON_PARKED = "happened: delivered"
#: Seconds within which events must be handled after the broker refuses no more.
_HANDLED = 40.0


@asynccontextmanager
async def nothing_special(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """The broker needs no fault to refuse the message."""
    yield


# Settings of the node. They hold from before the servers start, because channels keep them.


@asynccontextmanager
async def limited(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """The broker takes no message of more than ``LIMIT`` bytes."""

    async def limit(size: int) -> None:
        setting = f"max_message_size, {size}"  # 3.x reads the first place, 4.x the second
        await stage.shell.evaluate(
            f"application:set_env(rabbit, {setting}), persistent_term:put({setting})"
        )

    await limit(LIMIT)
    try:
        yield
    finally:
        await limit(USUAL)


@asynccontextmanager
async def impatient(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """The broker waits 5 s for an ack, and looks every second."""

    async def set_times(timeout: int, tick: int) -> None:
        settings = {"consumer_timeout": timeout, "channel_tick_interval": tick}
        each = (f"application:set_env(rabbit, {name}, {ms})" for name, ms in settings.items())
        await stage.shell.evaluate(", ".join(each))

    await set_times(5_000, 1_000)
    try:
        yield
    finally:
        await set_times(1_800_000, 60_000)


# Permissions


@asynccontextmanager
async def servers_may_not_publish(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    async with _may_not_publish(stage, "server"):
        yield


@asynccontextmanager
async def callers_may_not_publish(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    async with _may_not_publish(stage, "caller"):
        yield


@asynccontextmanager
async def _may_not_publish(stage: RefusalStage, user: str) -> AsyncIterator[None]:
    await stage.permit(user, _NO_RPC)
    await stage.close_connections()  # a channel remembers what was permitted
    try:
        yield
    finally:
        await stage.permit(user, ".*")


# Policies


@asynccontextmanager
async def _policy(stage: RefusalStage, pattern: str, definition: object) -> AsyncIterator[None]:
    await stage.set_policy(pattern, definition)
    try:
        yield
    finally:
        await stage.clear_policy()


def queues_full(which: str) -> Callable[[RefusalStage, float], AbstractAsyncContextManager[None]]:
    """Return a fault: the queues of ``requests`` or ``replies`` take nothing."""

    @asynccontextmanager
    async def full(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
        # The second: the reply queue of `patterns.RPC`.
        pattern = stage.requests if which == "requests" else r"^(rpc\.reply|amq\.gen|amq_)"
        async with _policy(stage, pattern, _REFUSING):
            yield

    return full


@asynccontextmanager
async def policies_change(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """An operator tries one policy after the other on the queue of requests."""
    definitions: list[dict[str, Any]] = [
        {"max-length": 0, "overflow": "reject-publish"},
        {"message-ttl": 50},
        {"max-length-bytes": 500, "overflow": "reject-publish"},
        {"max-length": 2, "overflow": "drop-head"},
    ]
    for _ in range(round(2 * scale)):
        for definition in definitions:
            async with _policy(stage, stage.requests, definition):
                # Calls meet this policy.
                await asyncio.sleep(0.4)
    yield


# Events


async def _dispatch(stage: RefusalStage, count: int, hold: float) -> list[str]:
    """Dispatch *count* events, 20 at a time; return the ids of those that the broker confirmed."""
    assert stage.cast is not None
    cast, confirmed, refused = stage.cast, list[str](), Counter[str]()
    waiting = iter(range(count))

    async def worker() -> None:
        for number in waiting:
            call_id = f"e{number:05}"
            try:
                await cast.dispatch(call_id, hold)
            except Exception as error:
                refused[type(error).__name__] += 1
            else:
                confirmed.append(call_id)

    await asyncio.gather(*(worker() for _ in range(20)))
    seen = [f"{number} {name}" for name, number in refused.items()]
    stage.notes.append(f"{count} events: {', '.join([f'{len(confirmed)} confirmed', *seen])}")
    return confirmed


async def _all_handled(stage: RefusalStage, events: Collection[str]) -> None:
    """Wait until the *events* are handled, and count the lost ones."""
    missing = set(events)

    async def handled() -> bool:
        missing.difference_update(await stage.ledger.runs())
        return not missing

    try:
        await eventually(handled, _HANDLED)
    except TimeoutError:
        stage.lost += len(missing)
    stage.notes.append(f"{len(events) - len(missing)} handled")


@asynccontextmanager
async def event_queue_full(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """
    The queue of events is full, a server is killed, and its events cannot be replaced by copies
    with a count.
    """
    events = {"max-length": 10, "overflow": "reject-publish"}
    async with _policy(stage, f"^{stage.event_queue}$", events):
        dispatching = asyncio.create_task(_dispatch(stage, round(400 * scale), 0.2))
        # Events wait by then.
        await asyncio.sleep(1.0)
        await stage.alive[0].kill()
        await stage.start_server()
        yield
        await _all_handled(stage, await dispatching)


@asynccontextmanager
async def parked_queue_full(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """The queue for parked messages takes nothing, so a poison event cannot be parked."""
    async with _policy(stage, r"\.parked$", _REFUSING):
        await _poison(stage)
        yield


@asynccontextmanager
async def poison_event(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """An event ends each process that handles it; a successor starts each time."""
    await _poison(stage)
    parked = await stage.waiting(f"{stage.event_queue}.parked")
    stage.notes.append(f"{parked} parked")
    if parked != 1:
        stage.complaints.append(f"{parked} messages are parked, not 1")
    yield


async def _poison(stage: RefusalStage) -> None:
    assert stage.cast is not None
    await stage.cast.dispatch("poison", 0.0)
    servers, deaths = len(stage.alive), 0

    async def is_over() -> bool:
        nonlocal deaths
        dead = servers - len(stage.alive)
        deaths += dead
        await asyncio.gather(*(stage.start_server(ready=False) for _ in range(dead)))
        said = (line for server in stage.servers for line in server.log)
        return deaths > 2 * _DEATHS or any(_POISON_PARKED in line for line in said)

    await eventually(is_over, 120)
    stage.notes.append(f"a poison event killed {deaths} processes")
    if not 0 < deaths <= _DEATHS:
        stage.complaints.append(f"a poison event killed {deaths} processes")


@asynccontextmanager
async def stops_with_waiting_events(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """
    Events take longer than their servers live: each server that stops requeues them. The last
    servers are quick.
    """
    events = await _dispatch(stage, 20, 300.0)
    restarts = round(6 * scale)
    for _ in range(restarts):
        await _replace_one(stage)
    stage.environment["CHAOS_HURRY"] = "1"
    for _ in list(stage.alive):
        await _replace_one(stage)
    stage.notes.append(f"{restarts} restarts")
    await _all_handled(stage, events)
    yield


async def _replace_one(stage: RefusalStage) -> None:
    old = stage.alive[0]
    await stage.start_server()
    old.terminate()
    await old.ended()


# Queue types


@asynccontextmanager
async def default_queue_type_changes(stage: RefusalStage, scale: float) -> AsyncIterator[None]:
    """New queues are quorum queues. All connect again, and a server starts."""
    await set_default_queue_type(stage.shell, stage.vhost, "quorum")
    await stage.close_connections()
    await _replace_one(stage)
    yield

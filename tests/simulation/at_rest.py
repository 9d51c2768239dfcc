"""
What a client, a container or a process still holds, though nothing runs any more. Reads private
parts of aiorpc: a table that keeps an entry is not seen from outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiorpc import ServiceContainer
from aiorpc.entrypoints.cancellations import Cancellations
from aiorpc.timers import Timers

from .loop import Process
from .transport import SimulatedTransport

if TYPE_CHECKING:
    from .world import World

__all__ = ["client_left", "container_left", "process_left"]

#: Tasks that close a connection of SQLite.
_CLOSING = ("InterruptiblePool._end_sqlite", "_terminate_graceful_close")


def client_left(cluster: Any) -> list[str]:
    """What the client behind *cluster* holds."""
    client = cluster._client
    pending = client._pending
    return [
        *_counted("pending calls", client.in_flight),
        *_counted("background tasks", sum(not task.done() for task in pending._background)),
        *_counted("deadlines", _deadlines(pending._timers)),
        *_transport(client.transport),
        *(
            f"{subscription.queue.name} is not consumed"
            for subscription in client.transport.subscriptions
            if not subscription.consuming
        ),
    ]


def container_left(container: ServiceContainer) -> list[str]:
    """What *container* holds."""
    pool = container._pool
    left = [
        *_counted("running calls", container.running),
        *_counted("waiting calls", len(pool._waiting)),
        *_counted("deadlines", _deadlines(container._timers)),
        *_transport(container.transport),
    ]
    cancellations = container._shared.values.get(Cancellations)
    if cancellations is not None:
        left += _counted("cancellable calls", len(cancellations.running))
    for subscription in container.transport.subscriptions:
        owner = getattr(subscription.options.handler, "__self__", None)
        attempts = getattr(owner, "_attempts", None) or getattr(owner, "attempts", None)
        left += _counted("unconfirmed copies", len(getattr(attempts, "_unconfirmed", ())))
        left += _counted("messages in work", len(getattr(owner, "_taken", ())))
        streams = getattr(owner, "_streams", None)
        left += _counted("streams", len(getattr(streams, "_running", ())))
        if not subscription.consuming:
            left.append(f"{subscription.queue.name} is not consumed")
    background = [task for task in container._background.tasks if not task.done()]
    timers = [task for task in background if _lasts(task.get_name())]
    left += _counted("background tasks", len(background) - len(timers))
    return left


def process_left(world: World, process: Process) -> list[str]:
    """What a stopped *process* holds."""
    tasks = [task for task in process.running if "_guarded" not in repr(task.get_coro())]
    left = [f"task {task.get_coro()!r}" for task in tasks]
    left += [
        f"timer {handle._callback!r}"
        for handle in world.loop.timers_of(process)
        if "tests.simulation" not in repr(getattr(handle._callback, "__func__", handle._callback))
        and "Lane" not in repr(handle._callback)
        and "Link" not in repr(handle._callback)
    ]
    if any(not link.severed for link in world.network.links.get(process, ())):
        left.append("a link")
    if world.databases is not None:
        if world.databases.mute:  # an answer would end these tasks; they have no other bound
            left = [each for each in left if not any(name in each for name in _CLOSING)]
        left += world.databases.left(process)
    return left


def _lasts(name: str) -> bool:
    """Whether the background task *name* runs for as long as its container."""
    return name.startswith(("timer ", "cron ", "delete old rows"))


def _deadlines(timers: Timers) -> int:
    return sum(len(bucket) for bucket in timers._buckets.values())


def _transport(transport: Any) -> list[str]:
    assert isinstance(transport, SimulatedTransport)
    publishing = transport.publishing
    return [
        *_counted("waiting messages", transport.waiting),
        *_counted("unconfirmed messages", len(publishing.unconfirmed) if publishing else 0),
    ]


def _counted(what: str, count: int) -> list[str]:
    return [f"{count} {what}"] if count else []

"""
Whether a process does its work: what a liveness or readiness probe asks. No I/O: it reads state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ..transports.base import State, Transport

__all__ = ["Health"]


class Health(msgspec.Struct, frozen=True):
    """
    ``ok`` where calls are served right now.

    Attributes:
        problems: why they are not, a sentence each, for people.
    """

    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    @classmethod
    def of(cls, problems: Iterable[str]) -> Health:
        """Each of *problems* once, in their order."""
        return cls(tuple(dict.fromkeys(problems)))


def problems_of(transport: Transport) -> Iterator[str]:
    """What keeps *transport* from working: no connection, an alarm, a lost consumer."""
    if transport.state in (State.CONNECTING, State.CLOSED):
        yield f"there is no connection to {transport.url} ({transport.state.value})"
        return
    if transport.state is State.BLOCKED:
        yield f"{transport.url} takes no messages for now (a memory or disk alarm of the broker)"
    for subscription in transport.subscriptions:
        if not subscription.consuming:
            yield f"queue {subscription.queue.name} on {transport.url} is not being consumed"

"""
Reports whether a process serves calls, for liveness and readiness probes. Reads state; nothing here
awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from .base import State, Transport

__all__ = ["Health"]


class Health(msgspec.Struct, frozen=True):
    """
    Whether a service, runner or client can work.

    Attributes:
        problems: the reasons why calls are not served, one sentence each.
    """

    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    @classmethod
    def of(cls, problems: Iterable[str]) -> Health:
        """Return the health with these *problems*, in order and without duplicates."""
        return cls(tuple(dict.fromkeys(problems)))


def problems_of(transport: Transport) -> Iterator[str]:
    """Yield the reasons why *transport* does not work: no connection, an alarm, a lost consumer."""
    if transport.state in (State.CONNECTING, State.CLOSED):
        yield transport.condition()
        return
    if transport.state is State.BLOCKED:
        yield f"{transport.url} accepts no messages now (a memory or disk alarm of the broker)"
    for subscription in transport.subscriptions:
        if not subscription.consuming:
            yield f"queue {subscription.queue.name} on {transport.url} is not being consumed"

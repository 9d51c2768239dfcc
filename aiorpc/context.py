"""
What travels with a call from service to service and is not an argument: the ids of the calls that
led here, the context data, and the deadline. Values only; nothing here waits.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import msgspec

__all__ = ["NO_CONTEXT", "Context", "Deadline", "current", "id_source", "new_id"]

EMPTY: Mapping[str, Any] = MappingProxyType({})
#: Seconds; a timeout as long as this, ``math.inf`` too, is none: no process lives that long.
FAR = 1e9


class Deadline(msgspec.Struct, frozen=True, order=True, gc=False):
    """
    A point in time after which nobody waits, on this process's own monotonic clock, which is also
    the event loop's (``loop.time()``, of asyncio and of uvloop).
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def remaining(self, least: float = 0.0) -> float:
        """Seconds that are left; *least* when they are fewer, or it has passed."""
        return max(least, self.at - time.monotonic())


class Context(msgspec.Struct, frozen=True, dict=False):
    """
    On whose behalf a call runs.

    Attributes:
        call_id_stack: ids of the calls that led here, the oldest first, this call's own last.
        data: context data by name, without Nameko's ``nameko.`` prefix.
        deadline: when the outermost caller stops waiting; ``None`` if nobody said.
    """

    call_id_stack: tuple[str, ...] = ()
    data: Mapping[str, Any] = EMPTY
    deadline: Deadline | None = None

    def within(self, timeout: float | None) -> Context:
        """The same under a deadline no later than *timeout* seconds from now."""
        if timeout is None or timeout >= FAR:
            return self
        at = time.monotonic() + timeout
        if self.deadline is not None and self.deadline.at <= at:
            return self
        return Context(self.call_id_stack, self.data, Deadline(at))

    def entered(self, call_id: str, keep: int) -> Context:
        """The same one call deeper; of the older ids at most *keep* are kept, the nearest ones."""
        stack = self.call_id_stack
        if len(stack) > keep:
            stack = stack[-keep:] if keep else ()
        return Context((*stack, call_id), self.data, self.deadline)

    def with_data(self, data: Mapping[str, Any]) -> Context:
        """The same with *data* laid over its context data."""
        return Context(self.call_id_stack, {**self.data, **data}, self.deadline)


NO_CONTEXT = Context()

#: The context of the worker that runs now. A call made inside it is its child.
current: ContextVar[Context] = ContextVar("aiorpc.context", default=NO_CONTEXT)


def id_source() -> Callable[[], str]:
    """
    A maker of ids that no other maker, of any process, makes. They are shaped like UUIDs: 74 random
    bits, then a counter, and made without a step in Python: a fresh uuid4 per call costs more than
    the rest of making a call.
    """
    prefix = str(uuid.uuid4())[:24]
    return map((prefix + "%012x").__mod__, itertools.count(1)).__next__


_make_id = id_source()


def new_id() -> str:
    """An id that no other call of any process has."""
    return _make_id()


def _after_fork() -> None:
    global _make_id
    _make_id = id_source()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

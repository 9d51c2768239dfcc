"""
The context of a call: the ids of the calls that led to it, the context data, and the deadline. It
travels with the call from service to service.

Values; nothing here awaits or does I/O. The clock is read for deadlines.
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
#: Seconds; a timeout of at least this, also ``math.inf``, means unlimited.
FAR = 1e9


class Deadline(msgspec.Struct, frozen=True, order=True, gc=False):
    """
    The time after which nobody waits for an answer.

    Attributes:
        at: seconds on the monotonic clock of this process, which is also the clock of the event
            loop (``loop.time()`` of asyncio and uvloop).
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline *seconds* from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self, least: float = 0.0) -> float:
        """Return the seconds until the deadline, or *least* if they are fewer."""
        return max(least, self.at - time.monotonic())


class Context(msgspec.Struct, frozen=True, dict=False):
    """
    The context of one call. A change returns a new one.

    Attributes:
        call_id_stack: ids of the calls that led to this one, oldest first, its own id last.
        data: context data by name, without Nameko's ``nameko.`` prefix.
        deadline: when the outermost caller stops waiting; ``None`` if it waits without limit.
    """

    call_id_stack: tuple[str, ...] = ()
    data: Mapping[str, Any] = EMPTY
    deadline: Deadline | None = None

    def within(self, timeout: float | None) -> Context:
        """Return it with a deadline no later than *timeout* seconds from now."""
        if timeout is None or timeout >= FAR:
            return self
        at = time.monotonic() + timeout
        if self.deadline is not None and self.deadline.at <= at:
            return self
        return Context(self.call_id_stack, self.data, Deadline(at))

    def entered(self, call_id: str, keep: int) -> Context:
        """Return it for the call *call_id* made in it, with the nearest *keep* of the older ids."""
        stack = self.call_id_stack
        if len(stack) > keep:
            stack = stack[-keep:] if keep else ()
        return Context((*stack, call_id), self.data, self.deadline)

    def with_data(self, data: Mapping[str, Any]) -> Context:
        """Return it with its context data updated by *data*."""
        return Context(self.call_id_stack, {**self.data, **data}, self.deadline)


NO_CONTEXT = Context()

#: The context of the worker that runs now. A call made inside it is its child.
current: ContextVar[Context] = ContextVar("aiorpc.context", default=NO_CONTEXT)


def id_source() -> Callable[[], str]:
    """
    Return a function that makes unique ids, in the shape of UUIDs: 74 random bits, then a counter.

    No Python code runs for an id. A new ``uuid4`` for each call would cost more than the rest of
    making the call.
    """
    prefix = str(uuid.uuid4())[:24]
    return map((prefix + "%012x").__mod__, itertools.count(1)).__next__


_make_id = id_source()


def new_id() -> str:
    """Return an id that is unique among all processes."""
    return _make_id()


def _after_fork() -> None:
    global _make_id
    _make_id = id_source()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

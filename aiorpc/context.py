"""
The context of a call: its call id stack, its context data, and its deadline. The context travels
with the call from service to service.

Values; nothing here awaits or does I/O. Deadlines read the clock.
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
#: A timeout of at least this many seconds (also ``math.inf``) means unlimited.
FAR = 1e9


class Deadline(msgspec.Struct, frozen=True, order=True, gc=False):
    """
    The time at which the caller stops waiting for an answer.

    Attributes:
        at: a time in seconds of ``time.monotonic()``. The event loop uses the same clock
            (``loop.time()`` of asyncio and uvloop).
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline *seconds* from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self, least: float = 0.0) -> float:
        """Return the seconds until the deadline, but never fewer than *least*."""
        return max(least, self.at - time.monotonic())


class Context(msgspec.Struct, frozen=True, gc=False):
    """
    The context of one call. It never changes; its methods return a new context. The garbage
    collector does not visit contexts, because nothing that a message carries holds its context.

    Attributes:
        call_id_stack: ids of the calls that led to this call, oldest first; its own id is last.
        data: context data by name, without Nameko's ``nameko.`` prefix.
        deadline: the time at which the caller stops waiting; ``None`` for no limit.
    """

    call_id_stack: tuple[str, ...] = ()
    data: Mapping[str, Any] = EMPTY
    deadline: Deadline | None = None

    def within(self, timeout: float | None) -> Context:
        """Return this context with a deadline at most *timeout* seconds from now."""
        if timeout is None or timeout >= FAR:
            return self
        at = time.monotonic() + timeout
        if self.deadline is not None and self.deadline.at <= at:
            return self
        return Context(self.call_id_stack, self.data, Deadline(at))

    def entered(self, call_id: str, keep: int) -> Context:
        """Return this context with *call_id* after the newest *keep* ids of the stack."""
        stack = self.call_id_stack
        if len(stack) > keep:
            stack = stack[-keep:] if keep else ()
        return Context((*stack, call_id), self.data, self.deadline)

    def with_data(self, data: Mapping[str, Any]) -> Context:
        """Return this context with *data* added to its context data."""
        return Context(self.call_id_stack, {**self.data, **data}, self.deadline)


NO_CONTEXT = Context()

#: The context of the running worker. Calls that the worker makes inherit this context.
current: ContextVar[Context] = ContextVar("aiorpc.context", default=NO_CONTEXT)


def id_source() -> Callable[[], str]:
    """
    Return a function that makes unique ids. An id looks like a UUID: 74 random bits and a counter.

    The function runs in C. A new ``uuid4`` for each call would take longer than all other steps of
    making a call.
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

"""
The class of a call, how a call ends, and the types of its handlers and middleware. Nothing here
awaits or does I/O.

The caller and the service use the same class, so the same middleware (a trace, a counter, a check
of permissions) can wrap a call on both sides.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from .context import EMPTY, NO_CONTEXT, Context

__all__ = ["Call", "Ending", "Handler", "Middleware", "Outcome", "compose"]


class Call(msgspec.Struct, frozen=True, eq=False):
    """A call of one method: its name, its arguments and its context."""

    service: str
    method: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = EMPTY
    context: Context = NO_CONTEXT
    #: The kind of entrypoint that starts the call: ``rpc``, ``event``, ``timer``, or another name.
    kind: str = "rpc"
    #: Whether the call may have run before, because its message was redelivered or re-sent.
    redelivered: bool = False
    #: ``service.method.unique``, the last call id in ``context``. The service that runs the call
    #: makes this id; at the caller, the id is empty.
    id: str = ""

    def __str__(self) -> str:
        return f"{self.service}.{self.method}"


class Ending(enum.Enum):
    """How a worker ended. The entrypoint then acks or requeues the worker's message."""

    #: The method returned, and its dependencies closed without an error.
    RETURNED = "returned"
    #: The method, a dependency or a middleware raised.
    RAISED = "raised"
    #: The deadline passed before the method ended; the error is an ``RpcTimeout``.
    TIMED_OUT = "timed out"
    #: The host did not run the call, because too many calls wait; the error is an ``Overloaded``.
    REFUSED = "refused"
    #: The caller cancelled the call, so nobody waits for an answer.
    CANCELLED = "cancelled"
    #: The container stopped before the worker began or ended. The entrypoint requeues the message.
    ABANDONED = "abandoned"


class Outcome(msgspec.Struct, eq=False):
    """How one call ended. ``value`` is the result after the *encode* function of ``submit``."""

    ending: Ending
    value: Any = None
    error: BaseException | None = None
    #: Values of sensitive arguments: neither the log nor the caller may see them in the error.
    secrets: tuple[str, ...] = ()
    #: Whether the method returned, but its result could not be sent. The entrypoint sets it.
    unsent: bool = False


Handler: TypeAlias = Callable[[Call], Awaitable[Any]]
Middleware: TypeAlias = Callable[[Call, Handler], Awaitable[Any]]


def compose(middleware: Sequence[Middleware], handler: Handler) -> Handler:
    """Return *handler* wrapped in *middleware*; the first one is the outermost."""
    for wrap in reversed(middleware):
        handler = functools.partial(_step, wrap, handler)
    return handler


def _step(wrap: Middleware, handler: Handler, call: Call) -> Awaitable[Any]:
    return wrap(call, handler)

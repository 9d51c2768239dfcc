"""
The one shape of aiorpc.

A call is the same object where it is made and where it is served, so whatever wraps a call (a span,
a counter, a check of rights) wraps it on either side.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from .context import EMPTY, NO_CONTEXT, Context

__all__ = ["Call", "Handler", "Middleware", "compose"]


class Call(msgspec.Struct, frozen=True, eq=False):
    """One firing of one entrypoint: who, what with, and on whose behalf."""

    service: str
    method: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = EMPTY
    context: Context = NO_CONTEXT
    #: What fired it: ``rpc``, ``event``, ``timer``, or an entrypoint's own word.
    kind: str = "rpc"
    #: Whether it may have run before, in part or whole: its message was delivered or sent again.
    redelivered: bool = False

    def __str__(self) -> str:
        return f"{self.service}.{self.method}"


Handler: TypeAlias = Callable[[Call], Awaitable[Any]]
Middleware: TypeAlias = Callable[[Call, Handler], Awaitable[Any]]


def compose(middleware: Sequence[Middleware], handler: Handler) -> Handler:
    """Wrap *handler* in *middleware*; the first is the outermost."""
    for wrap in reversed(middleware):
        handler = functools.partial(_step, wrap, handler)
    return handler


def _step(wrap: Middleware, handler: Handler, call: Call) -> Awaitable[Any]:
    return wrap(call, handler)

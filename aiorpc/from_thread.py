"""Lets a sync ``@rpc def``, which runs in a thread, await coroutines of its service's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

__all__ = ["run"]

P = ParamSpec("P")
R = TypeVar("R")

#: Set by the worker that hands a sync method to a thread.
loop_of_thread: ContextVar[asyncio.AbstractEventLoop] = ContextVar("aiorpc.loop_of_thread")


def run(function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """
    Run ``await function(*args, **kwargs)`` in the event loop of the service, and wait for it here::

        @rpc
        def report(self, month: str) -> bytes:
            rows = from_thread.run(self.books.sold_in, month)

    It runs under the deadline and with the context data of the call.

    Raises:
        RuntimeError: this is not the thread of a sync method.
    """
    try:
        loop = loop_of_thread.get()
    except LookupError:
        raise RuntimeError(
            "from_thread.run() works in the thread of a sync @rpc method; in a coroutine, await "
            "the call, and in a program without a loop use aiorpc.sync.ClusterRpcProxy"
        ) from None
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        raise RuntimeError("from_thread.run() would wait for itself here: await the coroutine")
    return asyncio.run_coroutine_threadsafe(function(*args, **kwargs), loop).result()

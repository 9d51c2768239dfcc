"""Runs a sync method in a test as its container would: in a thread that can await by the loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from ..from_thread import Bridge

__all__ = ["run_sync"]

P = ParamSpec("P")
R = TypeVar("R")


# To a type checker an @rpc method returns an awaitable, as its callers see it. Here run_sync does.
@overload
async def run_sync(
    method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R: ...
@overload
async def run_sync(method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


async def run_sync(method: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
    """
    Run the sync *method*, which may use ``from_thread.run``, in a thread, and return its result::

        service = worker_factory(Reports)
        service.shop.quote.return_value = "1 of Emma"
        assert await run_sync(service.monthly) == "1 of Emma"

    If the caller is cancelled, so is what the method awaits; the thread runs to its end.

    Raises:
        TypeError: *method* is a coroutine function, which the test can await without a thread.
        Exception: what the method raised.
    """
    if inspect.iscoroutinefunction(method):
        raise TypeError(f"{method.__name__} is a coroutine function: await it without run_sync()")
    loop = asyncio.get_running_loop()
    way_back = Bridge(loop)
    try:
        return await loop.run_in_executor(None, way_back.for_thread(method, *args, **kwargs))
    finally:
        way_back.end()

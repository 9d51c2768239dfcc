"""Runs a sync method in a test like a container: in a thread, which can await in the loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from ..from_thread import Bridge

__all__ = ["run_sync"]

P = ParamSpec("P")
R = TypeVar("R")


# For a type checker, a sync @rpc method returns an awaitable, because its callers await it.
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

    If the test is cancelled, the coroutine that the method awaits is cancelled too. The thread runs
    to its end.

    Raises:
        TypeError: *method* is a coroutine function. Await it without ``run_sync``.
        Exception: the error that the method raised.
    """
    if inspect.iscoroutinefunction(method):
        raise TypeError(f"{method.__name__} is a coroutine function: await it without run_sync()")
    loop = asyncio.get_running_loop()
    way_back = Bridge(loop)
    try:
        return await loop.run_in_executor(None, way_back.for_thread(method, *args, **kwargs))
    finally:
        way_back.end()

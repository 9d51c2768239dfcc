"""A sync method in a test, run as its container would run it: in a thread that can await."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from ..from_thread import Bridge

__all__ = ["run_sync"]

P = ParamSpec("P")
R = TypeVar("R")


# To a type checker an @rpc method is what its callers see: it is awaited, and here run_sync is.
@overload
async def run_sync(
    method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R: ...
@overload
async def run_sync(method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


async def run_sync(method: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
    """
    Run *method*, a sync one that awaits by ``from_thread.run``, in a thread, and give its result::

        service = worker_factory(Reports)
        service.shop.quote.return_value = "1 of Emma"
        assert await run_sync(service.monthly) == "1 of Emma"

    Whoever is cancelled here cancels what the method awaits; the thread itself goes on.

    Raises:
        TypeError: *method* is a coroutine function: await it.
        Exception: what the method raised.
    """
    if inspect.iscoroutinefunction(method):
        raise TypeError(f"{method.__name__} is no sync method: await it")
    loop = asyncio.get_running_loop()
    way_back = Bridge(loop)
    try:
        return await loop.run_in_executor(None, way_back.there(method, *args, **kwargs))
    finally:
        way_back.end()

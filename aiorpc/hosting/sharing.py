"""
The objects that the extensions of one service share: :meth:`aiorpc.extensions.Host.share`. Awaits
only the extensions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

__all__ = ["Shared"]

T = TypeVar("T")


class Shared:
    """
    Opens shared objects on a stack, which closes them.

    Args:
        stack: also closes the extensions that use the objects.

    Attributes:
        values: the objects, by their keys.
    """

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.values: dict[object, Any] = {}
        self._opening: dict[object, asyncio.Lock] = {}

    async def share(self, key: object, opener: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """See :meth:`aiorpc.extensions.Host.share`."""
        async with self._opening.setdefault(key, asyncio.Lock()):
            if key not in self.values:
                self.values[key] = await self._stack.enter_async_context(opener())
        value: T = self.values[key]
        return value

    async def open(
        self,
        opening: Callable[[], AbstractAsyncContextManager[None]],
        stack: AsyncExitStack | None = None,
    ) -> None:
        """
        Enter the context manager that *opening* returns. If it raises, close what it has shared, so
        that it can be tried again.

        Args:
            stack: closes the context manager. None: the stack of the shared objects.
        """
        outer, before = self._stack, dict(self.values)
        async with AsyncExitStack() as inner:
            self._stack = inner
            try:
                await (inner if stack is None else stack).enter_async_context(opening())
            except BaseException:
                self.values = before
                raise
            finally:
                self._stack = outer
            outer.push_async_exit(inner.pop_all())

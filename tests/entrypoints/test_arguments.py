"""Methods that their entrypoint could never call: refused when the service starts."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from aiorpc import ConfigurationError, ServiceContainer, event_handler, once, rpc, timer


def no_self() -> None: ...


def only_keywords(*, x: int = 0) -> None: ...


def one_argument(self: Any, x: int) -> None: ...


@pytest.mark.parametrize(
    ("entrypoint", "method", "error"),
    [
        (rpc, no_self, r"service\.method takes no `self`: write `def method\(self\)`"),
        (rpc, only_keywords, "takes no `self`"),
        (event_handler("a", "b"), no_self, "takes no `self`"),
        (timer(5), no_self, "takes no `self`"),
        (timer(5), one_argument, r"what Timer calls it with, no argument\(s\): .* 'x'"),
        (once, one_argument, r"what Once calls it with, no argument\(s\): .* 'x'"),
        (once(1, y=2), one_argument, r"what Once calls it with, 2 argument\(s\): .* 'y'"),
    ],
)
async def test_a_method_that_its_entrypoint_cannot_call_fails_at_the_start(
    entrypoint: Callable[[Any], Any], method: FunctionType, error: str
) -> None:
    own = FunctionType(method.__code__, globals(), "method")  # a mark on one stays its own
    own.__kwdefaults__ = method.__kwdefaults__
    service = type("Service", (), {"name": "service", "method": entrypoint(own)})
    with pytest.raises(ConfigurationError, match=error):
        async with ServiceContainer(service, "memory://"):
            pass


async def test_a_decorator_may_give_a_timer_its_argument() -> None:
    ran: asyncio.Queue[int] = asyncio.Queue()

    def with_a_number(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        async def wrapper(self: Any) -> None:
            await method(self, 7)

        return wrapper

    class Service:
        name = "service"

        @timer(1000, eager=True)
        @with_a_number
        async def tick(self, number: int) -> None:
            ran.put_nowait(number)

    async with ServiceContainer(Service, "memory://"):
        assert await asyncio.wait_for(ran.get(), 5) == 7

"""``@timer``: the smallest complete entrypoint. Read it to write your own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from ..call import Call
from ..exceptions import ConfigurationError
from ..extensions import Entrypoint, Host, Outcome, declare

__all__ = ["Once", "Timer", "once", "timer"]

F = TypeVar("F", bound=Callable[..., Any])


class Timer(Entrypoint):
    """
    Fires every *interval* seconds, on a fixed grid, never twice at a time: a run that takes longer
    than the interval is followed by the next at once. Errors are logged, and the timer goes on.
    Every instance of the service has its own. The first run is after *interval*, or at once if
    *eager*.
    """

    unprompted = True

    def __init__(
        self,
        interval: float,
        *,
        eager: bool = False,
        expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        super().__init__(expected_exceptions=expected_exceptions)
        if not interval > 0:  # a NaN neither
            raise ConfigurationError(f"a timer's interval must be above 0 seconds, got {interval}")
        self.interval = interval
        self.eager = eager

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        host.spawn(self._tick(host), name=f"timer {self.method_name}")
        yield

    async def _tick(self, host: Host) -> None:
        clock = asyncio.get_running_loop().time
        due = clock() + (0 if self.eager else self.interval)
        while True:
            await asyncio.sleep(due - clock())
            # What the method raises has been logged, and is no reason to stop ticking, whatever it
            # is. When we are cancelled, since the container stops, the run in hand goes on.
            ended = asyncio.Event()
            call = Call(host.service_name, self.method_name, kind="timer")
            host.submit(self, call, partial(_set, ended))
            await ended.wait()
            due = max(due + self.interval, clock())


def _set(ended: asyncio.Event, outcome: Outcome) -> None:
    ended.set()


class Once(Entrypoint):
    """Fires once, when the service has started, with the arguments given."""

    unprompted = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.args = args
        self.kwargs = kwargs

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        call = Call(host.service_name, self.method_name, self.args, self.kwargs, kind="once")
        host.submit(self, call, lambda outcome: None)
        yield


def timer(
    interval: float,
    *,
    eager: bool = False,
    expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
) -> Callable[[F], F]:
    """Fire a method every *interval* seconds; see :class:`Timer`."""
    entrypoint = Timer(interval, eager=eager, expected_exceptions=expected_exceptions)
    return lambda method: declare(entrypoint, method)


def once(*args: Any, **kwargs: Any) -> Any:
    """Fire a method once, at the start: ``@once`` or ``@once("with", some="arguments")``."""
    return Once.decorator(*args, **kwargs)

"""
``@timer`` and ``@once``. Awaits the clock and the end of each run. ``Once`` is the smallest
complete entrypoint, and an example for your own entrypoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from ..checks import SECONDS, Kind, check
from ..context import FAR
from ..declarations import decorator_of
from ..extensions import Entrypoint, Host
from .arguments import require_call
from .singletons import Singleton
from .ticks import Every, start

__all__ = ["Once", "Timer", "once", "timer"]


_INTERVAL = Kind(
    lambda value: SECONDS.fits(value) and value < FAR,
    f"a number of seconds above 0 and below {FAR:g}, as in @timer(interval=60)",
)


@dataclass(eq=False, repr=False)
class Timer(Entrypoint):
    """
    Starts a method every *interval* seconds, but only one run at a time. If a run takes longer than
    the interval, the next run starts at its end. The first run starts after *interval* seconds, or
    at once if *eager*. An error is logged and does not stop the timer.

    Each instance of the service has its own timer. With *singleton*, one instance starts each run,
    at the multiples of *interval* since 1970 (UTC); another one takes over when it ends. An *eager*
    run then starts only if no instance has started any run yet.
    """

    unprompted = True

    interval: float
    eager: bool = False
    singleton: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check("timer()", {"interval": self.interval}, {"interval": _INTERVAL})

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        require_call(self, host)
        if self.singleton:
            ticks = Every(self.interval)
            await Singleton(host, self, ticks, kind="timer", eager=self.eager).listen()
        else:
            host.spawn(self._tick(host), name=f"timer {self.method_name}")
        yield

    async def _tick(self, host: Host) -> None:
        clock = asyncio.get_running_loop().time
        due = clock() + (0 if self.eager else self.interval)
        while True:
            await asyncio.sleep(due - clock())
            await start(host, self, "timer").wait()
            due = max(due + self.interval, clock())


class Once(Entrypoint):
    """Starts a method once with *args* and *kwargs*, when the service has started."""

    unprompted = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.args = args
        self.kwargs = kwargs

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        require_call(self, host, self.args, self.kwargs)
        call = host.new_call(self, self.args, self.kwargs, kind="once")
        host.submit(self, call, lambda outcome: None)
        yield


timer = decorator_of(Timer)


def once(*args: Any, **kwargs: Any) -> Any:
    """
    Run a method once, when the service has started: ``@once`` or ``@once("with", some="args")``.
    """
    return Once.decorator(*args, **kwargs)

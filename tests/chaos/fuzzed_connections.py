"""
The fuzzing broker: spoils a connection for each seed, while a client calls a service and dispatches
events. Each call must end, and afterwards both must work and leave no task.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiorpc import (
    AioRpcError,
    ClusterRpcProxy,
    EventDispatcher,
    ServiceContainer,
    event_handler,
    rpc,
)
from tests.chaos.lag import Lag, watched_loop
from tests.chaos.log_lines import SEED, counted_log
from tests.support.amqp_proxy import proxied
from tests.support.spoiling_proxy import SpoilingProxy
from tests.support.waiting import eventually

__all__ = ["ConnectionReport", "fuzz_connections"]

#: Seconds for each call while the connection is spoiled.
TIMEOUT = 1.5
#: Seconds past its timeout within which a call must end; the event loop is shared by many seeds.
SLACK = 1.0
#: Calls of a seed, of which so many run at once.
CALLS, AT_ONCE = 24, 6
#: The times in the URL, in seconds: a silent broker costs no more.
QUERY = "heartbeat=1&connect_timeout=2"
#: Attempts to start a client, of which each may be spoiled.
STARTS = 5
#: Seconds within which service and client must be alive again. A lost answer costs 10 s.
ALIVE = 30.0
#: Seconds within which service and client must stop.
STOP = 15.0
#: Seeds that run at the same time, because they mostly wait.
WIDTH = 16
#: Kinds that leave the bytes of a message as they are, so that no answer may be wrong.
WHOLE = {"double", "cut", "delay", "closed channel", "channel close"}
#: Kinds of which no call may run twice in a process, if they spoil the service's connection.
ONCE = WHOLE - {"double"}
_WRONG = "spoiled answer"


@dataclass
class ConnectionReport:
    """
    Attributes:
        seeds: seeds that were played.
        spoiled: seeds that spoiled at least one frame.
        alive: seeds after which a call was answered and all tasks ended.
        outcomes: calls during the fault, by the name of their error or ``answered``.
        lines: lines in the log.
        again: seconds of the slowest return to life.
        late: seconds that a call took too long, at most.
        connections: connections that a seed made, at most.
        failures: what was wrong, with the seed.
    """

    seeds: int = 0
    spoiled: int = 0
    alive: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    lines: int = 0
    again: float = 0.0
    late: float = 0.0
    connections: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        return (
            f"{self.spoiled} connections for {self.seeds} seeds spoiled, {self.alive} alive "
            f"afterwards, the slowest after {self.again:.1f} s; calls meanwhile: {ends}; "
            f"at most {self.late:.2f} s past the deadline, at most {self.connections} connections "
            f"a seed; {self.lines} lines of log; {self.seconds:.0f} s"
        )


def _service() -> tuple[Any, Counter[int], set[int]]:
    """Return a service, the runs of its methods by argument, and the events that it handled."""
    ran, heard = Counter[int](), set[int]()

    class Service:
        name = f"fuzzed_{secrets.token_hex(4)}"
        dispatch = EventDispatcher()

        @rpc
        async def echo(self, number: int) -> int:
            ran[number] += 1
            return number

        @rpc
        async def sell(self, number: int) -> int:
            ran[number] += 1
            await self.dispatch("sold", number)
            return number

        @event_handler(name, "sold")
        async def hear(self, number: int) -> None:
            heard.add(number)

    return Service, ran, heard


async def fuzz_connections(
    url: str, seeds: Iterable[int], *, show: bool = False
) -> ConnectionReport:
    """Spoil the connection of each seed to the broker at *url*, :data:`WIDTH` at a time."""
    report, began = ConnectionReport(), time.monotonic()
    waiting = iter(seeds)

    async def worker() -> None:
        for seed in waiting:
            SEED.set(seed)
            _tasks.set(set())
            await _Seed(url, seed, report, lag, show).run()

    with counted_log() as log:
        async with watched_loop() as lag:
            with _tasks_are_noted():
                async with asyncio.TaskGroup() as group:
                    for _ in range(WIDTH):
                        group.create_task(worker())
    report.lines, report.seconds = log.count, time.monotonic() - began
    report.failures += log.faults
    return report


#: The tasks that a seed started, and that its tasks, connections and timers started.
_tasks: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("_tasks", default=None)


@contextmanager
def _tasks_are_noted() -> Iterator[None]:
    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        if (tasks := _tasks.get()) is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return task

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


class _Seed:
    """One seed: a service and a client whose connections pass a proxy that spoils one of them."""

    def __init__(self, url: str, seed: int, report: ConnectionReport, lag: Lag, show: bool) -> None:
        self._proxy = SpoilingProxy(f"{url}?{QUERY}", seed, connections=2)
        self._seed, self._report, self._lag, self._show = seed, report, lag, show
        self._failures: list[str] = []
        self._again = 0.0

    async def run(self) -> None:
        began = time.monotonic()
        async with proxied(self._proxy.url, proxy=self._proxy):
            await self._play(self._proxy.url)
        tasks = _tasks.get() or set()
        if tasks and (left := (await asyncio.wait(tasks, timeout=STOP))[1]):
            self._failures.append(f"tasks are left: {left}")
            for task in left:
                task.cancel()
        report = self._report
        report.seeds += 1
        report.spoiled += self._proxy.spoiled > 0
        report.alive += not self._failures
        report.connections = max(report.connections, self._proxy.connections)
        for failure in self._failures:
            report.failures.append(f"seed {self._seed} ({self._proxy}): {failure}")
        if self._show:
            ends = self._failures or f"alive after {self._again:.2f} s"
            print(f"seed {self._seed}, {time.monotonic() - began:.1f} s: {self._proxy}: {ends}")

    async def _play(self, url: str) -> None:
        cls, ran, heard = _service()
        config = {
            "AMQP_URI": url,
            "RPC_TIMEOUT": TIMEOUT,
            "SHUTDOWN_TIMEOUT": 3,
            "CALL_PROFILE": ("durable", "fast")[self._seed % 2],
            "CONFIRM_REPLIES": self._seed % 3 == 0,
        }
        container, _ = await self._started("the service", lambda: ServiceContainer(cls, config))
        client, cluster = await self._started("the client", lambda: ClusterRpcProxy(config))
        try:
            if container and cluster:
                await self._call(cluster[cls.name])
                await self._live(cluster[cls.name], heard)
            # A client whose connection is lost may send a request again that has run.
            once = self._proxy.kind in ONCE and [*self._proxy.plan] == [0]
            if once and (twice := {each for each in ran if ran[each] > 1}):
                self._failures.append(f"calls {twice} ran more than once")
        finally:
            for name, each in (("client", client), ("service", container)):
                if each:
                    await self._within(STOP, f"the {name} did not stop", each.stop())

    async def _started(self, name: str, make: Callable[[], Any]) -> tuple[Any, Any]:
        """Return what *make* makes, started, and what its ``start`` returned."""
        for _ in range(STARTS):
            each = make()
            try:
                return each, await self._within(ALIVE, f"{name} did not start", each.start())
            except AioRpcError as error:  # a spoiled handshake may look like a refusal
                self._report.outcomes[f"{type(error).__name__} at the start"] += 1
        self._failures.append(f"{name} could not start {STARTS} times")
        return None, None

    async def _within(self, seconds: float, complaint: str, what: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(seconds) as bound:
                return await what
        except TimeoutError:
            if not bound.expired():
                raise
            self._failures.append(complaint)

    async def _call(self, service: Any) -> None:
        for first in range(0, CALLS, AT_ONCE):
            await asyncio.gather(*(self._once(service, first + each) for each in range(AT_ONCE)))

    async def _live(self, service: Any, heard: set[int]) -> None:
        """Wait until a call is answered whose event is handled."""
        began = time.monotonic()
        for number in count(CALLS):
            if await self._outcome(service.sell, number) == "answered":
                with suppress(TimeoutError):
                    await eventually(lambda number=number: number in heard, TIMEOUT)
                    break
            if time.monotonic() > began + ALIVE:
                self._failures.append(f"no call worked within {ALIVE:.0f} s")
                break
        self._again = time.monotonic() - began
        self._report.again = max(self._report.again, self._again)

    async def _once(self, service: Any, number: int) -> None:
        began = time.monotonic()
        method = service.sell if number % 4 == 0 else service.echo
        name = await self._within(ALIVE, "a call hung", self._outcome(method, number))
        self._report.outcomes[name or "hung"] += 1
        if name == _WRONG and self._proxy.kind in WHOLE:
            self._failures.append("a call got a wrong answer")
        late = time.monotonic() - began - TIMEOUT
        self._report.late = max(self._report.late, late)
        if late > SLACK + 2 * self._lag.since(began):
            self._failures.append(f"a call ended {late:.2f} s past its deadline, with {name}")

    async def _outcome(self, method: Any, number: int) -> str:
        try:
            return "answered" if await method(number) == number else _WRONG
        except AioRpcError as error:
            return type(error).__name__
        except Exception as error:
            self._failures.append(f"a call raised {error!r}")
            return type(error).__name__

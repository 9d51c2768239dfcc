"""
Callers at a given rate, who record the outcome of every call. They do not wait for one another
(open loop), unless a number of callers is given instead of a rate.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from aiorpc import RemoteError
from tests.chaos.lag import watched_loop
from tests.chaos.report import Report
from tests.support.waiting import eventually

#: Makes the call with this id and this timeout in seconds.
Caller = Callable[[str, float], Awaitable[object]]

#: Seconds past its deadline after which a call counts as hung.
HANGS = 5.0
#: Seconds to wait for the first answer after a fault.
RECOVERS = 20.0


@dataclass
class _Outcome:
    sent_at: float
    ended_at: float
    #: ``right``, ``wrong``, ``hung`` or the name of an error.
    kind: str


@dataclass
class Load:
    """
    Args:
        call: makes one call.
        timeout: seconds for each call.
        rate: calls a second; 0 if *callers* call one after the other instead.
        pause: seconds between two calls of one caller.
        hangs: seconds past its deadline after which a call counts as hung and is cancelled.
        prefix: the first characters of all call ids.
    """

    call: Caller
    timeout: float
    rate: float = 0.0
    callers: int = 0
    pause: float = 1.0
    hangs: float = HANGS
    prefix: str = ""
    outcomes: dict[str, _Outcome] = field(default_factory=dict)
    lag: float = 0.0
    #: The text of the first error of each name.
    texts: dict[str, str] = field(default_factory=dict)
    _answered_at: float = 0.0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _calls: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Call until :meth:`stop`, and return when every call has ended or hangs."""
        async with watched_loop() as lag:
            try:
                if self.rate:
                    await self._offer()
                else:
                    callers = (
                        self._one_after_another(f"{each:04}") for each in range(self.callers)
                    )
                    await asyncio.gather(*callers)
                if self._calls:
                    await asyncio.wait(self._calls)
            finally:
                self.lag = lag.longest
                for task in self._calls:
                    task.cancel()

    async def answered_since(self, at: float, within: float = RECOVERS) -> None:
        """Return when a right answer came after loop time *at*, or after *within* seconds."""
        with suppress(TimeoutError):
            await eventually(lambda: self._answered_at >= at, within)

    def stop(self) -> None:
        """Make no more calls."""
        self._stop.set()

    async def _offer(self) -> None:
        loop = asyncio.get_running_loop()
        begun, made = loop.time(), 0
        while not self._stop.is_set():
            while made < (loop.time() - begun) * self.rate:
                task = asyncio.create_task(self._one(f"{self.prefix}{made:06}"))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
                made += 1
            await asyncio.sleep(1 / self.rate)

    async def _one_after_another(self, caller: str) -> None:
        made = 0
        # The callers start one after the other.
        await asyncio.sleep(int(caller) / self.callers * self.pause)
        while not self._stop.is_set():
            await self._one(f"{caller}.{made:04}")
            made += 1
            await asyncio.sleep(self.pause)

    async def _one(self, call_id: str) -> None:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        try:
            async with asyncio.timeout(self.timeout + self.hangs) as patience:
                answer = await self.call(call_id, self.timeout)
        except Exception as error:
            kind = "hung" if patience.expired() else _name(error)
            self.texts.setdefault(kind, str(error))
        else:
            kind = "right" if answer == f"done {call_id}" else "wrong"
            self._answered_at = loop.time()
        self.outcomes[call_id] = _Outcome(sent_at, loop.time(), kind)

    def as_if_all_ran(self) -> Counter[str]:
        """Return a ledger in which every call ran once."""
        return Counter(list(self.outcomes))

    def report(self, name: str, runs: Counter[str], *, lifted_at: float, outlasts: bool) -> Report:
        """
        Report the outcome of all calls, compared with the ledger's *runs*.

        Args:
            lifted_at: loop time at which the fault ended.
            outlasts: whether every call had more time than the fault took.
        """
        kinds = Counter(outcome.kind for outcome in self.outcomes.values())
        report = Report(name, offered=len(self.outcomes), lag=self.lag)
        report.answered, report.hung, report.wrong = kinds["right"], kinds["hung"], kinds["wrong"]
        report.errors = Counter(
            {kind: n for kind, n in kinds.items() if kind not in ("right", "hung", "wrong")}
        )
        report.twice = sum(1 for call_id in self.outcomes if runs[call_id] > 1)
        for call_id, outcome in self.outcomes.items():
            untold = outcome.kind == "right" or (outcome.kind == "RpcTimeout" and outlasts)
            if untold and not runs[call_id]:
                report.lost += 1
            if outcome.kind == "right":
                report.slowest = max(report.slowest, outcome.ended_at - outcome.sent_at)
            report.overrun = max(report.overrun, outcome.ended_at - outcome.sent_at - self.timeout)
        afterwards = [
            outcome.ended_at - lifted_at
            for outcome in self.outcomes.values()
            if outcome.kind == "right" and outcome.ended_at >= lifted_at
        ]
        report.again = min(afterwards, default=None)
        return report


def _name(error: Exception) -> str:
    if isinstance(error, RemoteError):
        return f"RemoteError({error.exc_type})"
    return type(error).__name__

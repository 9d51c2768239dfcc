"""
The refusals: what the broker refuses, while callers call, and what they may see.
`docs/guarantees.md` says the same in prose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos.ledger import new_ledger
from tests.chaos.load import Load
from tests.chaos.refusal_faults import (
    callers_may_not_publish,
    default_queue_type_changes,
    event_queue_full,
    impatient,
    limited,
    nothing_special,
    parked_queue_full,
    poison_event,
    policies_change,
    queues_full,
    servers_may_not_publish,
    stops_with_waiting_events,
)
from tests.chaos.refusal_report import RefusalReport
from tests.chaos.refusal_stage import Cast, RefusalStage, aiorpc_cast, set_refusal_stage
from tests.chaos.report import Report
from tests.servers import Rabbit

__all__ = ["REFUSALS", "Refusal", "play_refusal", "played"]

#: Seconds of calls before the fault, and after the first answer that follows it.
AROUND = 0.7
#: Within the block, the broker refuses. The second argument: how long; 1 is the short form.
Fault = Callable[[RefusalStage, float], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """
    Attributes:
        fault: within its block, the broker refuses; it begins after a second of calls.
        setting: a setting of the node that makes it refuse; it holds for the whole scenario.
        refused: the method whose calls are refused, 4 a second; empty for none.
        late: seconds that this method takes.
        seconds: seconds that the fault lasts at least, once its block has begun.
        scale: how much longer than in the short form the faults are.
        rate: neighbours a second. There are a tenth as many calls of an at-most-once method.
        hold: seconds that the methods of neighbours take.
        timeout: seconds for each call.
        outlasts: whether every neighbour has more time than the fault takes.
        floor: the part of the neighbours that must be answered, from 0 to 1.
        errors: names of the errors that neighbours may see.
        refused_errors: names of the errors that refused calls may see.
        quorum: whether the queues are quorum queues, which an operator declared.
        peers: whether other libraries can play it.
        events: whether only libraries with events can play it.
        short: whether it is part of `make test`.
    """

    name: str
    fault: Fault = nothing_special
    setting: Fault = nothing_special
    refused: str = ""
    late: float = 0.05
    seconds: float = 1.0
    scale: float = 1.0
    rate: float = 40.0
    hold: float = 0.15
    timeout: float = 10.0
    outlasts: bool = True
    floor: float = 1.0
    errors: frozenset[str] = frozenset()
    refused_errors: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)
    quorum: bool = False
    events: bool = False
    peers: bool = True
    short: bool = False

    def failures(self, report: RefusalReport) -> list[str]:
        """Return the promises that *report* shows as broken."""
        return report.failures(
            floor=self.floor, errors=self.errors, refused_errors=self.refused_errors
        )

    def longer(self) -> Refusal:
        """Return this refusal for `make chaos`."""
        return replace(self, seconds=self.seconds * 2, scale=2.0)

    @property
    def own_vhost(self) -> bool:
        """Whether it needs users, policies or connections that nobody shares."""
        return self.fault is not nothing_special or self.quorum


async def played(refusal: Refusal, node: Rabbit, ledger_url: str) -> RefusalReport:
    """Play *refusal* with aiorpc on *node*."""
    async with (
        new_ledger(ledger_url) as ledger,
        set_refusal_stage(node, ledger, refusal.settings, own_vhost=refusal.own_vhost) as stage,
        refusal.setting(stage, refusal.scale),
    ):
        if refusal.quorum:
            await declare_quorum_queues(stage)
        async with aiorpc_cast(stage, 2, refusal.timeout) as cast:
            return await play_refusal(refusal, stage, cast)


async def declare_quorum_queues(stage: RefusalStage) -> None:
    arguments = {"x-queue-type": "quorum"}
    async with stage.channel() as channel:
        for name in (f"rpc-{stage.service}", stage.event_queue):
            await channel.declare_queue(name, durable=True, arguments=arguments)


async def play_refusal(refusal: Refusal, stage: RefusalStage, cast: Cast) -> RefusalReport:
    """Call while the broker refuses, and report the outcome of every call."""
    stage.cast = cast

    def load(prefix: str, method: str, rate: float, hold: float) -> Load:
        return Load(cast.caller(method, hold), refusal.timeout, rate=rate, prefix=prefix)

    neighbours = load("n", "work", refusal.rate, refusal.hold)
    once = load("o", "work_once", refusal.rate / 10, refusal.hold) if cast.has_once else None
    refused = load("r", refusal.refused, 4.0, refusal.late) if refusal.refused else None
    async with AsyncExitStack() as stack:
        for each in filter(None, (neighbours, once)):
            stack.push_async_callback(_ended, each, asyncio.create_task(each.run()))
        await asyncio.sleep(AROUND)
        try:
            async with refusal.fault(stage, refusal.scale):
                calling = asyncio.create_task(refused.run()) if refused else None
                await asyncio.sleep(refusal.seconds)
                if refused and calling:
                    await _ended(refused, calling)
        except (AssertionError, TimeoutError) as error:  # a server did not start or end
            why = str(error).partition("\n")[0] or "a server did not end, or events remain"
            stage.complaints.append(why)
        lifted_at = asyncio.get_running_loop().time()
        await neighbours.answered_since(lifted_at)
        await asyncio.sleep(AROUND)
    return await _report(refusal, stage, lifted_at, neighbours, once, refused)


async def _ended(load: Load, running: asyncio.Task[None]) -> None:
    load.stop()
    await running


async def _report(
    refusal: Refusal,
    stage: RefusalStage,
    lifted_at: float,
    neighbours: Load,
    once: Load | None,
    refused: Load | None,
) -> RefusalReport:
    by_process = await stage.ledger.runs_by_process()
    runs = await stage.ledger.runs()

    def report(load: Load | None, *, outlasts: bool) -> Report | None:
        if load is None:
            return None
        return load.report("", runs, lifted_at=lifted_at, outlasts=outlasts)

    calls = report(neighbours, outlasts=refusal.outlasts)
    assert calls is not None
    return RefusalReport(
        refusal.name,
        calls,
        report(once, outlasts=refusal.outlasts),
        report(refused, outlasts=False),
        lost=stage.lost,
        twice_here=sum(1 for count in by_process.values() if count > 1),
        notes=stage.notes,
        complaints=stage.complaints,
    )


_TOO_LARGE = frozenset({"UnserializableValueError", "RemoteError(UnserializableValueError)"})
#: The fault lasts longer than the calls.
_TIMES_OUT: dict[str, Any] = {"timeout": 2.0, "outlasts": False, "floor": 0.05, "seconds": 2.5}

REFUSALS = [
    Refusal(
        name="reply too large",
        setting=limited,
        refused="give",
        refused_errors=_TOO_LARGE,
        short=True,
    ),
    Refusal(
        name="reply too large, profile fast",
        setting=limited,
        refused="give",
        refused_errors=_TOO_LARGE,
        settings={"CALL_PROFILE": "fast"},
        peers=False,
    ),
    Refusal(
        name="error too large",
        setting=limited,
        refused="fail",
        refused_errors=_TOO_LARGE | {"RemoteError(ValueError)"},  # its text is cut
    ),
    Refusal(name="request too large", setting=limited, refused="take", refused_errors=_TOO_LARGE),
    Refusal(
        name="service may not publish",
        fault=servers_may_not_publish,
        # A refused reply becomes an error, which arrives if the permission is given back in time.
        errors=frozenset({"RpcTimeout", "RemoteError(ConfigurationError)"}),
        short=True,
        **_TIMES_OUT,
    ),
    Refusal(
        name="caller may not publish",
        fault=callers_may_not_publish,
        errors=frozenset({"RpcTimeout", "ConfigurationError", "ConnectionLost"}),
        **_TIMES_OUT,
    ),
    Refusal(
        name="request queue full",
        fault=queues_full("requests"),
        errors=frozenset({"Overloaded"}),
        floor=0.2,
    ),
    Refusal(
        name="reply queue full",
        fault=queues_full("replies"),
        errors=frozenset({"RpcTimeout"}),
        **_TIMES_OUT,
    ),
    Refusal(
        name="reply queue full, confirmed replies",
        fault=queues_full("replies"),
        errors=frozenset({"RpcTimeout"}),
        settings={"CONFIRM_REPLIES": True},
        peers=False,
        **_TIMES_OUT,
    ),
    Refusal(name="event queue full, server killed", fault=event_queue_full, events=True),
    Refusal(name="parked queue full", fault=parked_queue_full, events=True, timeout=60.0),
    Refusal(
        name="NaN in context data",
        refused="nan",
        refused_errors=frozenset({"UnserializableValueError"}),
    ),
    Refusal(
        name="NaN in context data of a nested call",
        refused="spread",
        refused_errors=_TOO_LARGE,
    ),
    Refusal(
        name="quorum queues, graceful restarts",
        fault=stops_with_waiting_events,
        settings={"SHUTDOWN_TIMEOUT": 0.3, "max_workers": 40},
        rate=10.0,
        quorum=True,
        events=True,
    ),
    Refusal(
        name="quorum queues, poison event",
        fault=poison_event,
        quorum=True,
        events=True,
        timeout=60.0,
        # A call that runs in each of the processes that end has MAX_ATTEMPTS failures, too.
        floor=0.9,
        errors=frozenset({"DeliveryUncertain"}),
    ),
    Refusal(name="default queue type changed", fault=default_queue_type_changes),
    Refusal(
        name="policies change",
        fault=policies_change,
        errors=frozenset({"Overloaded", "RpcTimeout"}),
        floor=0.2,
        timeout=3.0,
        outlasts=False,
    ),
    Refusal(
        name="consumer timeout (5 s)",
        setting=impatient,
        refused="work",
        late=8.0,
        timeout=30.0,
    ),
    Refusal(
        name="consumer timeout (5 s), quorum queues",
        setting=impatient,
        refused="work",
        late=8.0,
        timeout=30.0,
        quorum=True,
    ),
]

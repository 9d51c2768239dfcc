"""
Plays a fault on a cluster whose queues are quorum queues: calls, streams and events from clients
and servers on both sides of the node that breaks, and a report for each kind.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiorpc import ClusterRpcProxy, event_dispatcher
from tests.chaos.cluster_service import ITEMS
from tests.chaos.load import Load
from tests.chaos.report import Report, markdown
from tests.chaos.scenarios import Fault
from tests.chaos.stage import Stage, set_stage
from tests.servers import Cluster
from tests.support.waiting import eventually

__all__ = ["ClusterReport", "QuorumScenario", "cluster_table", "play_quorum"]

#: What rule 48 names: with it, the loss of one node loses no answered call and no accepted event.
SAFE = {"QUEUE_OPTIONS": {"*": {"type": "quorum"}}, "CONFIRM_REPLIES": True}
#: A second of each kind, from each side.
RATES = {"calls": 20.0, "streams": 3.0, "events": 10.0}
#: What always may happen: a stream never runs again, and a quorum queue without a leader refuses.
#: If this is the caller's reply queue, a stream cannot tell its caller that it began.
PERMITTED: dict[str, frozenset[str]] = {
    "calls": frozenset(),
    "streams": frozenset({"ConnectionLost", "RpcTimeout"}),
    "events": frozenset({"Overloaded"}),
}
#: Seconds that a call and an event take.
HOLD = 0.02
#: Seconds of load before the fault, and after the first answer that follows it.
CALM = 1.5
#: Seconds until all accepted events are handled.
HANDLED = 60.0


@dataclass(frozen=True, kw_only=True)
class QuorumScenario:
    """
    Attributes:
        broken: seconds that the fault lasts, if that can be chosen.
        timeout: seconds for each call, stream and event.
        held: seconds that one call and one event in a hundred take.
        vhost: whether all happens in a vhost whose default queue type is quorum.
        balanced: whether a load balancer with one URL is in front of the nodes.
        policy: the definition of a policy for the queues of requests and events.
        errors: the names of the errors that callers and dispatchers may see.
        hosts: whether the fault unplugs hosts.
    """

    name: str
    fault: Fault
    broken: float = 3.0
    timeout: float = 60.0
    held: float = HOLD
    settings: Mapping[str, Any] = field(default_factory=lambda: SAFE)
    query: str = "heartbeat=4"
    errors: frozenset[str] = frozenset()
    hosts: bool = False
    vhost: bool = False
    policy: str = ""
    balanced: bool = False


@dataclass
class ClusterReport:
    """What each kind of load saw."""

    name: str
    kinds: dict[str, Report]
    #: The text of the first error of each name.
    texts: dict[str, str] = field(default_factory=dict)

    def failures(self, scenario: QuorumScenario) -> list[str]:
        """Return the promises that this report shows as broken."""
        broken = list[str]()
        for kind, report in self.kinds.items():
            allowed = scenario.errors | PERMITTED[kind]
            found = report.failures(floor=0.0, allowed=allowed, twice=None)
            broken += [f"{kind}: {each}" for each in found]
        if broken:
            broken += [f"{name}: {text}" for name, text in self.texts.items()]
        return broken


def cluster_table(reports: Sequence[ClusterReport]) -> str:
    """Return a Markdown table."""
    head = ["scenario", "calls", "streams", "events accepted", "errors"]
    head += ["hung", "lost", "wrong", "run twice", "slowest answer, s", "slowest confirm, s"]
    return markdown(head, [_row(each) for each in reports])


def _row(report: ClusterReport) -> list[str]:
    kinds = list(report.kinds.values())
    errors = [
        f"{kind}: {count} {name}"
        for kind, each in report.kinds.items()
        for name, count in each.errors.most_common()
    ]
    return [
        report.name,
        *(f"{each.answered} of {each.offered}" for each in kinds),
        ", ".join(errors) or "none",
        *(str(sum(getattr(each, what) for each in kinds)) for what in ("hung", "lost", "wrong")),
        str(sum(each.twice for each in kinds)),
        f"{max(report.kinds[each].slowest for each in ('calls', 'streams')):.1f}",
        f"{report.kinds['events'].slowest:.1f}",
    ]


async def play_quorum(scenario: QuorumScenario, cluster: Cluster, ledger_url: str) -> ClusterReport:
    """Play *scenario* on *cluster*. Its first node breaks, or each node in turn."""
    async with (
        set_stage(
            cluster,
            ledger_url,
            servers=0,
            query=scenario.query,
            settings=dict(scenario.settings),
            balanced=scenario.balanced,
        ) as stage,
        _prepared(stage, scenario),
        AsyncExitStack() as stack,
    ):
        stage.command = (sys.executable, "-m", "tests.chaos.cluster_service")
        loads = list[dict[str, Load]]()
        for side in (0, 1):
            with nullcontext() if scenario.balanced else stage.connecting_to(side):
                await stage.start_server()
                loads.append(await stack.enter_async_context(_client(stage, scenario, f"{side}-")))
        every = [load for each in loads for load in each.values()]
        running = [asyncio.create_task(load.run()) for load in every]
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(CALM)
            await scenario.fault(stage, scenario.broken)
            lifted_at = loop.time()
            await asyncio.gather(*(load.answered_since(lifted_at) for load in every))
            await asyncio.sleep(CALM)
        finally:
            for load in every:
                load.stop()
            await asyncio.gather(*running)
        await _all_handled(stage, [each["events"] for each in loads], HANDLED + scenario.held)
        runs = await stage.ledger.runs()
        return ClusterReport(
            scenario.name,
            {
                kind: _report(kind, [each[kind] for each in loads], runs, lifted_at)
                for kind in RATES
            },
            {name: text for load in every for name, text in load.texts.items()},
        )


@asynccontextmanager
async def _prepared(stage: Stage, scenario: QuorumScenario) -> AsyncIterator[None]:
    """Make what an operator makes before the scenario, and remove it."""
    name, vhost = stage.service, ["-p", stage.service] if scenario.vhost else []
    if vhost:
        await stage.ctl("add_vhost", name, "--default-queue-type", "quorum")
        await stage.ctl("set_permissions", *vhost, "guest", ".*", ".*", ".*")
        for proxy in stage.network:
            proxy.url = urlsplit(proxy.url)._replace(path=f"/{name}").geturl()
    if scenario.policy:
        pattern = f"^(rpc|evt)-{name}"
        await stage.ctl(
            "set_policy", *vhost, name, pattern, scenario.policy, "--apply-to", "queues"
        )
    try:
        yield
    finally:
        if scenario.policy:
            await stage.ctl("clear_policy", *vhost, name)
        if vhost:
            await asyncio.gather(*(server.kill() for server in stage.servers))
            await stage.ctl("delete_vhost", name)


@asynccontextmanager
async def _client(
    stage: Stage, scenario: QuorumScenario, prefix: str
) -> AsyncIterator[dict[str, Load]]:
    async with (
        ClusterRpcProxy(stage.config, timeout=scenario.timeout) as cluster,
        event_dispatcher({**stage.config, "RPC_TIMEOUT": scenario.timeout}) as dispatch,
    ):
        service: Any = cluster[stage.service]

        def hold(call_id: str) -> float:
            return scenario.held if call_id.endswith("51") else HOLD

        async def call(call_id: str, timeout: float) -> object:
            answer: object = await service.work(call_id, hold(call_id))
            return answer

        async def stream(call_id: str, timeout: float) -> object:
            items = [item async for item in service.items.stream(call_id, HOLD)]
            whole = items == [f"{call_id}.{number}" for number in range(ITEMS)]
            return f"done {call_id}" if whole else items

        async def event(call_id: str, timeout: float) -> object:
            fails = int(call_id[-1]) % 2 == 0
            payload = {"call_id": call_id, "fails": fails, "hold": hold(call_id)}
            await dispatch(f"{stage.service}_source", "happened", payload)
            return f"done {call_id}"

        callers = {"calls": call, "streams": stream, "events": event}
        yield {
            kind: Load(callers[kind], scenario.timeout, rate=rate, prefix=f"{prefix}{kind[0]}")
            for kind, rate in RATES.items()
        }


def _report(kind: str, loads: list[Load], runs: Counter[str], lifted_at: float) -> Report:
    """Return the report of the loads of both sides as one."""
    both, *others = loads
    both.lag = max(load.lag for load in loads)
    for load in others:
        both.outcomes.update(load.outcomes)
    return both.report(kind, runs, lifted_at=lifted_at, outlasts=kind != "events")


async def _all_handled(stage: Stage, loads: list[Load], within: float) -> None:
    """Wait until the accepted events are handled. The report counts those that never are."""
    accepted = {
        call_id for load in loads for call_id, each in load.outcomes.items() if each.kind == "right"
    }

    async def handled() -> bool:
        return accepted <= (await stage.ledger.runs()).keys()

    with suppress(TimeoutError):
        await eventually(handled, within)

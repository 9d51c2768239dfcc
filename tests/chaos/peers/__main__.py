"""
Prints the table of the peers. `python -m tests.chaos.peers [WORD ...]` chooses scenarios. Each peer
is started and called as its documentation says, with the same faults and loads.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from tests.chaos.cluster_scenarios import CLUSTER_SCENARIOS
from tests.chaos.load import Load
from tests.chaos.node_shell import set_default_queue_type
from tests.chaos.peers.cast import FileLedger, PeerClient, PeerRefusalStage, PeerStage
from tests.chaos.proxy import cutting_proxy
from tests.chaos.refusal_report import RefusalReport, refusal_table
from tests.chaos.refusal_stage import set_refusal_stage
from tests.chaos.refusals import REFUSALS, Refusal, play_refusal
from tests.chaos.report import Report, table
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.nameko import virtualenvs
from tests.servers import Cluster, Rabbit

HERE = Path(__file__).parent
CHOSEN = (
    "connections reset, refused",
    "network cut without FIN",
    "server killed (-9)",
    "rolling restart",
    "broker restarted, 200 callers",
)
CHOSEN_OF_CLUSTER = (
    "cluster: caller's node killed",
    "cluster: service's node killed",
    "cluster: service's node cut off",
    "cluster: caller's node frozen",
)
#: Methods of refusals that need headers, which `patterns.RPC` gives callers no way to set.
BY_HEADERS = ("nan", "spread")


async def play(
    scenario: Scenario, broker: Rabbit | Cluster, command: Sequence[str], name: str
) -> Report:
    """Play *scenario*. In a cluster, servers and client know the URL of one node each."""
    cluster = broker if isinstance(broker, Cluster) else None
    nodes = [broker] if isinstance(broker, Rabbit) else broker.nodes
    with tempfile.TemporaryDirectory() as directory:
        ledger = FileLedger(Path(directory) / "ledger")
        service = f"peer_{id(ledger):x}"
        async with AsyncExitStack() as stack:
            network = [await stack.enter_async_context(cutting_proxy(each.url)) for each in nodes]
            stage = PeerStage(
                nodes[0],
                ledger,
                service,
                network,
                command=command,
                cluster=cluster,
                servers_at=scenario.servers_at,
            )
            try:
                return await _play(scenario, stage, name)
            finally:
                await asyncio.gather(*(server.kill() for server in stage.servers))


async def _play(scenario: Scenario, stage: PeerStage, name: str) -> Report:
    await asyncio.gather(*(stage.start_server() for _ in range(scenario.servers)))
    uri = stage.network[scenario.client_at].url
    async with PeerClient.started(stage.command, uri, stage.service) as client:
        load = Load(
            lambda call_id, timeout: client.call(call_id, timeout, scenario.hold),
            scenario.timeout,
            rate=0.0 if scenario.callers else scenario.rate,
            callers=scenario.callers,
        )
        calling = asyncio.create_task(load.run())
        await asyncio.sleep(scenario.before)
        failed = ""
        try:
            await scenario.fault(stage, scenario.broken)
        except (AssertionError, TimeoutError) as error:
            failed = str(error).partition("\n")[0] or "it never answered again"
        lifted_at = asyncio.get_running_loop().time()
        await load.answered_since(lifted_at)
        await asyncio.sleep(scenario.after)
        load.stop()
        await calling
    report = load.report(
        f"{name}: {scenario.name}",
        await stage.ledger.runs(),
        lifted_at=lifted_at,
        outlasts=scenario.outlasts,
    )
    if failed:
        report.complaints.append(failed)
    return report


async def refuse(
    refusal: Refusal, node: Rabbit, command: Sequence[str], name: str
) -> RefusalReport:
    """Play *refusal*. An operator makes quorum queues the default, if it needs them."""
    with tempfile.TemporaryDirectory() as directory:
        ledger = FileLedger(Path(directory) / "ledger")
        async with (
            set_refusal_stage(
                node, ledger, refusal.settings, PeerRefusalStage, own_vhost=refusal.own_vhost
            ) as stage,
            refusal.setting(stage, refusal.scale),
        ):
            stage.command = command
            stage.environment["PEER_CONFIG"] = json.dumps(dict(refusal.settings))
            if refusal.quorum:
                await set_default_queue_type(stage.shell, stage.vhost, "quorum")
            try:
                await asyncio.gather(*(stage.start_server() for _ in range(2)))
            except AssertionError:
                return RefusalReport(
                    f"{name}: {refusal.name}", Report(""), notes=["does not start"]
                )
            caller = PeerClient.started(command, stage.url("caller"), stage.service)
            async with caller as client:
                report = await play_refusal(refusal, stage, client)
    report.name = f"{name}: {refusal.name}"
    report.notes += report.complaints
    return report


def main(words: list[str]) -> None:
    peers = {
        "Nameko 2.14.1": [str(virtualenvs.python_of("2.14.1")), str(HERE / "nameko_peer.py")],
        "patterns.RPC": [sys.executable, str(HERE / "patterns_peer.py")],
    }

    def is_chosen(each: Scenario | Refusal) -> bool:
        return not words or any(word in each.name for word in words)

    scenarios, of_cluster = (
        [
            replace(each, rate=20.0, before=2.0, after=3.0)
            for each in known
            if each.name in chosen and is_chosen(each)
        ]
        for known, chosen in ((SCENARIOS, CHOSEN), (CLUSTER_SCENARIOS, CHOSEN_OF_CLUSTER))
    )
    refusals = [replace(each, rate=5.0) for each in REFUSALS if each.peers and is_chosen(each)]
    reports, refused = list[Report](), list[RefusalReport]()

    def play_all(chosen: Sequence[Scenario], broker: Rabbit | Cluster, name: str) -> None:
        for scenario in chosen:
            reports.append(asyncio.run(play(scenario, broker, peers[name], name)))
            print(table(reports[-1:]).splitlines()[-1], *reports[-1].complaints, flush=True)

    with Rabbit.fresh() as node:
        for name, command in peers.items():
            play_all(scenarios, node, name)
            for refusal in refusals:
                if name == "patterns.RPC" and (refusal.events or refusal.refused in BY_HEADERS):
                    continue
                refused.append(asyncio.run(refuse(refusal, node, command, name)))
                print(refusal_table(refused[-1:]).splitlines()[-1], flush=True)
    if of_cluster:
        with Cluster.fresh() as cluster:
            for name in peers:
                play_all(of_cluster, cluster, name)
    print("\n" + table(reports) + "\n\n" + refusal_table(refused))


if __name__ == "__main__":
    main(sys.argv[1:])

"""
The long form: `python -m tests.chaos [--short] [WORD ...]` plays the scenarios and the refusals
whose names contain a word, or all, on one node and on a cluster. Prints their tables, and exits
with 1 if a promise was broken. Without a word, or with the word `fuzz`, it also plays
`tests/chaos/fuzz.py`.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

from tests.chaos.cluster_play import ClusterReport, QuorumScenario, cluster_table, play_quorum
from tests.chaos.cluster_scenarios import CLUSTER_SCENARIOS
from tests.chaos.fuzz import PARTS, fuzz
from tests.chaos.quorum_scenarios import QUORUM_SCENARIOS
from tests.chaos.refusal_report import RefusalReport, refusal_table
from tests.chaos.refusals import REFUSALS, played
from tests.chaos.report import Report, table
from tests.chaos.scenarios import SCENARIOS, play
from tests.servers import Cluster, Rabbit, urls
from tests.servers.cluster import PAUSE_MINORITY
from tests.servers.hosts import missing


def main(arguments: list[str]) -> int:
    short = "--short" in arguments
    words = [word for word in arguments if not word.startswith("-")]

    def is_chosen(name: str) -> bool:
        return not words or any(word in name for word in words)

    scenarios = [each for each in SCENARIOS if is_chosen(each.name)]
    refusals = [each for each in REFUSALS if is_chosen(each.name)]
    of_cluster = [each for each in CLUSTER_SCENARIOS if is_chosen(each.name)]
    ledger = urls().postgresql
    if ledger is None or Rabbit.program() is None:
        print("make chaos needs PostgreSQL and an installed RabbitMQ: `make servers`")
        return 1
    reports, refused = list[Report](), list[RefusalReport]()
    broken = 0
    with Rabbit.fresh() as node:
        for scenario in scenarios if short else [each.longer() for each in scenarios]:
            reports.append(asyncio.run(play(scenario, node, ledger)))
            broken += _told(table(reports[-1:]), scenario.failures(reports[-1]))
        for refusal in refusals if short else [each.longer() for each in refusals]:
            refused.append(asyncio.run(played(refusal, node, ledger)))
            broken += _told(refusal_table(refused[-1:]), refusal.failures(refused[-1]))
        if not words or "fuzz" in words:
            broken += fuzz(node.url, list(PARTS), range(100) if short else None)
    if of_cluster:
        with Cluster.fresh() as cluster:
            for scenario in of_cluster:
                reports.append(asyncio.run(play(scenario, cluster, ledger)))
                broken += _told(table(reports[-1:]), scenario.failures(reports[-1]))
    quorum = [each for each in QUORUM_SCENARIOS if is_chosen(f"cluster: {each.name}")]
    clusters, failed = _play_quorum(quorum, ledger)
    broken += failed
    print("\n" + table(reports) + "\n\n" + refusal_table(refused))
    print("\n" + cluster_table(clusters))
    return 1 if broken else 0


def _play_quorum(scenarios: list[QuorumScenario], ledger: str) -> tuple[list[ClusterReport], int]:
    """Play *scenarios* on clusters with `pause_minority`; those of hosts with `ignore` too."""
    reports, broken = list[ClusterReport](), 0
    lacking = missing()
    if lacking:
        print(f"the scenarios that unplug a host are not played: {lacking}")
        scenarios = [each for each in scenarios if not each.hosts]
    for partitions in (PAUSE_MINORITY, "ignore"):
        played = [each for each in scenarios if each.hosts or partitions == PAUSE_MINORITY]
        if not played:
            continue
        new = Cluster.fresh if lacking else Cluster.on_hosts
        with new(partitions=partitions) as cluster:
            for each in played:
                named = replace(each, name=f"{each.name}, {partitions}") if each.hosts else each
                reports.append(asyncio.run(play_quorum(named, cluster, ledger)))
                broken += _told(cluster_table(reports[-1:]), reports[-1].failures(named))
    return reports, broken


def _told(rows: str, failures: list[str]) -> int:
    """Print the last of *rows* and the *failures*, and return their number."""
    print(rows.splitlines()[-1], *[f"  BROKEN: {each}" for each in failures], sep="\n", flush=True)
    return len(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

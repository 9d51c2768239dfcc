"""
The scenarios of a cluster of three nodes. One node is killed, frozen or cut off: the node of the
reply queue and of the client's connection, or the node of the service's queue and connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.chaos.scenarios import Fault, Scenario
from tests.chaos.stage import Stage
from tests.servers import Cluster
from tests.support.waiting import eventually

#: Seconds until the other nodes notice a frozen node, with the `net_ticktime` of our clusters.
NOTICED = 12.0


def _cluster(stage: Stage) -> Cluster:
    assert stage.cluster is not None
    return stage.cluster


async def node_is_killed(stage: Stage, broken: float) -> None:
    await asyncio.to_thread(stage.node.kill)
    await asyncio.sleep(broken)
    await asyncio.to_thread(_cluster(stage).start)


async def node_is_frozen(stage: Stage, broken: float) -> None:
    """Freeze the node until the others count it as down, then restart it as an operator does."""
    await asyncio.to_thread(stage.node.freeze)
    await asyncio.sleep(NOTICED + broken)
    await asyncio.to_thread(stage.node.kill)
    await asyncio.to_thread(_cluster(stage).start)


async def node_is_cut_off(stage: Stage, broken: float) -> None:
    await asyncio.to_thread(_cluster(stage).cut_off, stage.node)
    await asyncio.sleep(broken)
    await asyncio.to_thread(_cluster(stage).join, stage.node)


async def reply_queue_is_lost(stage: Stage, broken: float) -> None:
    """Kill the node of the reply queue, while the client is connected to another node."""
    others = stage.network[1:]
    before = [proxy.opened for proxy in others]
    stage.network[0].refusing = True
    stage.network[0].cut_with_rst()
    await eventually(lambda: [proxy.opened for proxy in others] != before)
    await eventually(lambda: stage.client is not None and stage.client.health().ok)
    stage.network[0].refusing = False
    await node_is_killed(stage, broken)


#: Without `CONFIRM_REPLIES`, a service acks requests whose replies the lost node has.
UNCONFIRMED = frozenset({"ConnectionLost", "RpcTimeout"})


def _scenarios(
    word: str, fault: Fault, *, timeout: float = 45.0, confirmed: frozenset[str] = frozenset()
) -> Iterator[Scenario]:
    def scenario(
        whose: str, *, caller: bool = False, quorum: bool = False, confirm: bool = False
    ) -> Scenario:
        return Scenario(
            name=f"cluster: {whose} node {word}{', confirmed replies' if confirm else ''}",
            fault=fault,
            broken=3.0,
            timeout=timeout,
            query="heartbeat=2",
            servers_at=1 if caller else 0,
            client_at=0 if caller else 1,
            quorum=quorum,
            settings={"CONFIRM_REPLIES": confirm},
            errors=confirmed if confirm else UNCONFIRMED,
            floor=0.9,
        )

    yield scenario("caller's", caller=True)
    yield scenario("service's")
    yield scenario("quorum queue's", quorum=True)
    yield scenario("quorum queue's", quorum=True, confirm=True)


CLUSTER_SCENARIOS = [
    Scenario(
        name="cluster: reply queue's node killed",
        fault=reply_queue_is_lost,
        broken=3.0,
        servers_at=1,
        floor=0.9,
        errors=frozenset({"ConnectionLost"}),
    ),
    Scenario(
        name="cluster: both queues' node killed",
        fault=reply_queue_is_lost,
        broken=3.0,
        timeout=45.0,
        floor=0.9,
        errors=frozenset({"ConnectionLost"}),
    ),
    *_scenarios("killed", node_is_killed),
    # On RabbitMQ 4, a node that is cut off serves its clients. Its replies are sent again for six
    # seconds.
    *_scenarios("cut off", node_is_cut_off, confirmed=frozenset({"RpcTimeout"})),
    *_scenarios("frozen", node_is_frozen, timeout=60.0),
]

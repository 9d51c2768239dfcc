"""
The quorum scenarios: three nodes, quorum queues for everything, confirmed replies. Nodes are
killed, frozen, unplugged, or restarted as in an upgrade. `docs/clusters.md` has their table.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.chaos.cluster_play import SAFE, QuorumScenario
from tests.chaos.cluster_scenarios import node_is_frozen
from tests.chaos.stage import Stage
from tests.servers import Cluster, Rabbit, ServerError
from tests.servers.rabbitmq import HostedRabbit

#: Seconds until the nodes notice that a host is gone (`net_ticktime` is 8 s), and some more.
UNPLUGGED = 20.0
#: Seconds until nodes that can reach one another again say so.
HEALING = 5.0
#: Seconds between two steps of an operator.
PAUSE = 1.0


def _cluster(stage: Stage) -> Cluster:
    assert stage.cluster is not None
    return stage.cluster


async def each_node_is_killed(stage: Stage, broken: float) -> None:
    for node in _cluster(stage).nodes:
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(broken)
        await asyncio.to_thread(_cluster(stage).start)
        await asyncio.to_thread(_cluster(stage).settle)


async def each_node_is_killed_twice(stage: Stage, broken: float) -> None:
    await each_node_is_killed(stage, broken)
    await each_node_is_killed(stage, broken)


async def a_node_is_killed(stage: Stage, broken: float) -> None:
    await asyncio.to_thread(stage.node.kill)
    await asyncio.sleep(broken)
    await asyncio.to_thread(_cluster(stage).start)


async def nodes_are_upgraded(stage: Stage, broken: float) -> None:
    """Drain, stop and start each node, as in a rolling upgrade to another version."""
    for node in _cluster(stage).nodes:
        await asyncio.to_thread(node.tool, "rabbitmq-upgrade", "drain")
        await asyncio.sleep(PAUSE)
        await asyncio.to_thread(node.stop)
        await asyncio.to_thread(_cluster(stage).start)
        await asyncio.to_thread(_cluster(stage).settle)


async def nodes_are_drained(stage: Stage, broken: float) -> None:
    """Put each node into maintenance mode, and revive it."""
    for node in _cluster(stage).nodes:
        await asyncio.to_thread(node.tool, "rabbitmq-upgrade", "drain")
        await asyncio.sleep(broken)
        await asyncio.to_thread(node.tool, "rabbitmq-upgrade", "revive")
        await asyncio.sleep(PAUSE)


async def host_is_unplugged(stage: Stage, broken: float) -> None:
    node = stage.node
    assert isinstance(node, HostedRabbit)
    await asyncio.to_thread(node.host.unplug)
    await asyncio.sleep(UNPLUGGED)
    await asyncio.to_thread(node.host.plug)
    await healed(stage)


async def healed(stage: Stage) -> None:
    """Wait until all nodes see one another. If they do not, restart the one that was away."""
    cluster = _cluster(stage)
    await asyncio.sleep(HEALING)
    seen = await asyncio.gather(*(asyncio.to_thread(_seen, node) for node in cluster.nodes))
    if set(seen) != {len(cluster.nodes)}:
        await asyncio.to_thread(stage.node.stop)
    await asyncio.to_thread(cluster.start)
    await asyncio.to_thread(cluster.settle)


#: The function has another name since RabbitMQ 3.12.
_COUNT = """length(case erlang:function_exported(rabbit_nodes, list_running, 0) of
    true -> rabbit_nodes:list_running(); false -> rabbit_nodes:all_running() end)."""


def _seen(node: Rabbit) -> int:
    """Return how many nodes are up as *node* sees it."""
    try:
        return int(node.ctl("eval", _COUNT, within=30))
    except (ServerError, ValueError):
        return 0


_KILLED = QuorumScenario(name="each node killed", fault=each_node_is_killed)
UNCONFIRMED = {**SAFE, "CONFIRM_REPLIES": False}
CONFIRMED = {"CONFIRM_REPLIES": True}
#: The one that `make test-long` plays.
NODE_KILLED = QuorumScenario(name="a node killed", fault=a_node_is_killed, broken=2.0)
QUORUM_SCENARIOS = [
    _KILLED,
    replace(
        _KILLED,
        name="each node killed, unconfirmed replies",
        settings=UNCONFIRMED,
        errors=frozenset({"RpcTimeout"}),
    ),
    replace(_KILLED, name="each node killed, load balancer", balanced=True),
    QuorumScenario(name="node frozen", fault=node_is_frozen),
    QuorumScenario(name="each node drained, revived", fault=nodes_are_drained),
    QuorumScenario(name="rolling upgrade", fault=nodes_are_upgraded),
    QuorumScenario(
        name="host unplugged",
        fault=host_is_unplugged,
        hosts=True,
        errors=frozenset({"Overloaded", "RpcTimeout"}),
    ),
    replace(_KILLED, name="each node killed, default queue type", settings=CONFIRMED, vhost=True),
    QuorumScenario(
        name="each node killed twice, delivery limit 2",
        fault=each_node_is_killed_twice,
        # Some deliveries are out during more losses than the limit allows.
        held=60.0,
        timeout=300.0,
        policy='{"delivery-limit": 2}',
    ),
]

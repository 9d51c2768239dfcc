"""Private RabbitMQ nodes that form one cluster on loopback, with one EPMD and one cookie.

Tests use it to kill, freeze and cut off single nodes. Works with RabbitMQ 3.10 to 4.x.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from operator import methodcaller
from typing import Self

from .hosts import Hosts
from .private import installed
from .process import ServerError, free_ports
from .rabbitmq import HostedRabbit, Rabbit
from .state import State

# The `net_ticktime` is in seconds: after this time without a sign, a node is down for the others.
# Tests cannot wait for the default, 60 s.
_SETTINGS = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.target_cluster_size_hint = {size}
cluster_partition_handling = {partitions}
net_ticktime = 8
"""
# A delay queue sends a message again if its target, whose leader is lost, has not confirmed it in
# time: after 180 s by default.
_ADVANCED = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n"
PAUSE_MINORITY = "pause_minority"
#: Seconds for started nodes to find one another.
_JOIN_WITHIN = 300.0


class Cluster:
    """
    Several nodes. Each is a `Rabbit`: one node can be killed, frozen and started again.

    Attributes:
        nodes: the nodes; the order is that of their start.
    """

    def __init__(self, nodes: Sequence[Rabbit]) -> None:
        self.nodes = nodes

    @classmethod
    @contextmanager
    def fresh(cls, size: int = 3, *, partitions: str = PAUSE_MINORITY) -> Iterator[Self]:
        """
        A new, empty cluster that one test may break. It ends, with its data, with the block.

        `partitions` is the `cluster_partition_handling` of the nodes. Raises `ServerError` when
        RabbitMQ is not installed, or the nodes do not form a cluster.
        """
        installed(Rabbit)
        state, name = State(), f"rabbitmq-{secrets.token_hex(4)}"
        (epmd,) = free_ports(1)
        nodes = [Rabbit.allocate(state, f"{name}-{each}", epmd=epmd) for each in range(size)]
        with cls(nodes)._running(partitions) as cluster:
            yield cluster

    @classmethod
    @contextmanager
    def on_hosts(cls, size: int = 3, *, partitions: str = PAUSE_MINORITY) -> Iterator[Self]:
        """As `fresh`, and each node has a host of its own, which can be unplugged."""
        installed(Rabbit)
        state, name = State(), f"rabbitmq-{secrets.token_hex(4)}"
        (epmd,) = free_ports(1)
        with Hosts.fresh(size) as hosts:
            nodes = list[HostedRabbit]()
            for number, host in enumerate(hosts.hosts):
                node = HostedRabbit.allocate(state, f"{name}-{number}", epmd=epmd)
                node.host, node.hosts = host, hosts
                nodes.append(node)
            with cls(nodes)._running(partitions) as cluster:
                yield cluster

    @contextmanager
    def _running(self, partitions: str) -> Iterator[Self]:
        cookie = secrets.token_hex(20)
        settings = _SETTINGS.format(size=len(self.nodes), partitions=partitions)
        for number, node in enumerate(self.nodes, 1):
            settings += f"cluster_formation.classic_config.nodes.{number} = {node.node_name}\n"
        try:
            for node in self.nodes:
                node.configure(cookie, settings, _ADVANCED)
            if not isinstance(self.nodes[0], HostedRabbit):
                shared = self.nodes[0].start_epmd()
                for node in self.nodes:
                    node.use_epmd(shared)
            self.start()
            yield self
        finally:
            with ThreadPoolExecutor() as pool:
                list(pool.map(Rabbit.remove, self.nodes))

    @property
    def url(self) -> str:
        """The URLs of all nodes, for `AMQP_URI`."""
        return ";".join(node.url for node in self.nodes)

    def start(self) -> None:
        """Start the nodes that do not run, and return when all see one another."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(methodcaller("start"), self.nodes))
        # A node that was cut off pauses, and then answers with an error: faults break the first.
        self.nodes[-1].ctl("await_online_nodes", str(len(self.nodes)), within=_JOIN_WITHIN)

    def settle(self) -> None:
        """Return when any node may be stopped: each quorum queue has a majority without it."""
        ask = "rpc:call(N, rabbit_upgrade_preparation, await_online_quorum_plus_one, [60000])"
        said = self.nodes[-1].ctl(
            "eval", f"[{ask} || N <- rabbit_nodes:all()].", within=_JOIN_WITHIN
        )
        if "false" in said or "badrpc" in said:
            raise ServerError(f"quorum queues still lack members: {said}")

    def cut_off(self, node: Rabbit) -> None:
        """Cut the connections between `node` and the other nodes, which notice it at once."""
        # In one turn: Erlang 25 ends more connections if only some of a node's are lost.
        others = "Others = rabbit_nodes:all() -- [node()], [{} || N <- Others]"
        refuse = others.format("erlang:set_cookie(N, cut_off)")
        node.ctl("eval", f"{refuse}, [erlang:disconnect_node(N) || N <- Others].")

    def join(self, node: Rabbit) -> None:
        """Undo `cut_off`, and return when all nodes see one another."""
        every = "N <- rabbit_nodes:all() -- [node()]"
        node.ctl("eval", f"[erlang:set_cookie(N, erlang:get_cookie()) || {every}].")
        self.start()

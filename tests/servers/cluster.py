"""Private RabbitMQ nodes that form one cluster on loopback, with one EPMD and one cookie.

Tests use it to kill, freeze and cut off single nodes. Works with RabbitMQ 3.10 to 4.x.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

from .private import installed
from .process import free_ports
from .rabbitmq import Rabbit
from .state import State

# The `net_ticktime` is in seconds: after this time without a sign, a node is down for the others.
# Tests cannot wait for the default, 60 s.
_SETTINGS = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.target_cluster_size_hint = {size}
cluster_partition_handling = pause_minority
net_ticktime = 8
"""
#: Seconds for started nodes to find one another.
_JOIN_WITHIN = 60.0


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
    def fresh(cls, size: int = 3) -> Iterator[Self]:
        """
        A new, empty cluster that one test may break. It ends, with its data, with the block.

        Raises `ServerError` when RabbitMQ is not installed, or the nodes do not form a cluster.
        """
        installed(Rabbit)
        state, name, cookie = State(), f"rabbitmq-{secrets.token_hex(4)}", secrets.token_hex(20)
        (epmd,) = free_ports(1)
        nodes = [Rabbit.allocate(state, f"{name}-{each}", epmd=epmd) for each in range(size)]
        settings = _SETTINGS.format(size=size)
        for number, node in enumerate(nodes, 1):
            settings += f"cluster_formation.classic_config.nodes.{number} = {node.node_name}\n"
        try:
            for node in nodes:
                node.configure(cookie, settings)
            cluster = cls(nodes)
            shared = nodes[0].start_epmd()
            for node in nodes:
                node.use_epmd(shared)
            cluster.start()
            yield cluster
        finally:
            with ThreadPoolExecutor() as pool:
                list(pool.map(Rabbit.remove, nodes))

    @property
    def url(self) -> str:
        """The URLs of all nodes, for `AMQP_URI`."""
        return ";".join(node.url for node in self.nodes)

    def start(self) -> None:
        """Start the nodes that do not run, and return when all see one another."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Rabbit.start, self.nodes))
        # A node that was cut off pauses, and then answers with an error: faults break the first.
        self.nodes[-1].ctl("await_online_nodes", str(len(self.nodes)), within=_JOIN_WITHIN)

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

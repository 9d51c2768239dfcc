"""
The stage of a scenario: a private broker or cluster, server processes, a client, and the network
between them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aio_pika

from aiorpc import ClusterRpcProxy
from tests.chaos.ledger import Ledger, new_ledger
from tests.chaos.processes import SERVICE, Server
from tests.chaos.proxy import CuttingProxy, cutting_proxy
from tests.servers import Cluster, Rabbit


@dataclass
class Stage:
    """
    Attributes:
        node: the broker; its methods block. In a cluster, the node that breaks.
        service: the name of the service under test, which no other stage uses.
        network: the proxies between broker and servers, and between broker and client. In a
            cluster, one for each node.
        servers: all processes that were started, also the ended ones.
    """

    node: Rabbit
    ledger: Ledger
    service: str
    network: list[CuttingProxy]
    servers: list[Server] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    booking: bool = False
    #: The command of a server, and its environment besides its configuration.
    command: Sequence[str] = SERVICE
    environment: dict[str, str] = field(default_factory=dict)
    cluster: Cluster | None = None
    client: ClusterRpcProxy | None = None

    @property
    def reply_queue(self) -> str:
        """The name of the client's reply queue."""
        assert self.client is not None
        client = self.client._client
        assert client is not None
        (subscription,) = client.transport.subscriptions
        return subscription.queue.name

    @property
    def config(self) -> dict[str, Any]:
        return {"AMQP_URI": ";".join(proxy.url for proxy in self.network), **self.settings}

    @contextmanager
    def connecting_to(self, node: int) -> Iterator[None]:
        """Let new connections reach only one node of the cluster. Their queues will be there."""
        others = [] if self.cluster is None else [*self.network[:node], *self.network[node + 1 :]]
        for proxy in others:
            proxy.refusing = True
        try:
            yield
        finally:
            for proxy in others:
                proxy.refusing = False

    @property
    def alive(self) -> list[Server]:
        return [server for server in self.servers if server.alive]

    async def start_server(self, *, ready: bool = True) -> Server:
        server = await Server.start(
            {
                "CHAOS_SERVICE": self.service,
                "CHAOS_CONFIG": json.dumps(self.config),
                "CHAOS_LEDGER": self.ledger.url,
                "CHAOS_TABLE": self.ledger.table,
                "CHAOS_BOOKING": "1" if self.booking else "",
                **self.environment,
            },
            self.command,
        )
        self.servers.append(server)
        if ready:
            await server.ready()
        return server

    async def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` and return its output."""
        return await asyncio.to_thread(self.node.ctl, *arguments)

    async def stop_broker(self) -> None:
        await asyncio.to_thread(self.node.stop)

    async def kill_broker(self) -> None:
        await asyncio.to_thread(self.node.kill)

    async def start_broker(self) -> None:
        await asyncio.to_thread(self.node.start)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
        """A channel that bypasses the network, for the actions of an operator."""
        async with await aio_pika.connect(self.node.url) as connection:
            yield await connection.channel()


@asynccontextmanager
async def set_stage(
    broker: Rabbit | Cluster,
    ledger_url: str,
    *,
    servers: int,
    ways: int = 1,
    query: str = "",
    settings: dict[str, Any] | None = None,
    booking: bool = False,
    servers_at: int = 0,
    quorum: bool = False,
    balanced: bool = False,
) -> AsyncIterator[Stage]:
    """
    Start *servers* processes, and wait until all of them serve.

    Args:
        ways: number of URLs for servers and client, each with its own proxy.
        query: the query of those URLs, such as ``heartbeat=1``.
        servers_at: the node of the cluster that the servers connect to; their queue is there.
        balanced: whether a load balancer with one URL is in front of the nodes of the cluster.
        quorum: whether an operator declares the service's queue as a quorum queue.
    """
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(new_ledger(ledger_url))
        nodes = [broker] * ways if isinstance(broker, Rabbit) else broker.nodes
        urls = [f"{node.url}?{query}" if query else node.url for node in nodes]
        ways_there = [urls] if balanced else [[url] for url in urls]
        network = [await stack.enter_async_context(cutting_proxy(*each)) for each in ways_there]
        stage = Stage(
            nodes[0],
            ledger,
            f"chaos_{secrets.token_hex(3)}",
            network,
            settings=settings or {},
            booking=booking,
            cluster=broker if isinstance(broker, Cluster) else None,
        )
        if quorum:
            async with stage.channel() as channel:
                await channel.declare_queue(
                    f"rpc-{stage.service}", durable=True, arguments={"x-queue-type": "quorum"}
                )
        try:
            with stage.connecting_to(servers_at):
                await asyncio.gather(*(stage.start_server() for _ in range(servers)))
            yield stage
        finally:
            await asyncio.gather(*(server.kill() for server in stage.servers))

"""
One node of a cluster is killed: it has the reply queue of a caller, and the queue of a service.
Caller and services are connected to another node. `make chaos` has more such faults, with a ledger.
With quorum queues, such a loss is a pause.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import aio_pika
import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConnectionLost,
    RpcTimeout,
    ServiceContainer,
    ServiceUnavailable,
    rpc,
)
from aiorpc.calling.proxies import ClusterProxy
from tests.chaos.cluster_play import cluster_table, play_quorum
from tests.chaos.proxy import cutting_proxy
from tests.chaos.quorum_scenarios import NODE_KILLED
from tests.servers import Cluster, Rabbit
from tests.support.waiting import eventually

#: Three nodes start, and one starts again; a busy machine needs minutes for that.
pytestmark = [pytest.mark.rabbitmq, pytest.mark.alone, pytest.mark.timeout(300), pytest.mark.long]

#: Seconds for a caller to get its errors, and to have another reply queue.
SOON = 8.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if Rabbit.program() is None:
        pytest.skip("a cluster needs an installed RabbitMQ, of which the test starts three nodes")
    with Cluster.fresh() as cluster:
        yield cluster


class Near:
    """A service whose queue is on a node that works."""

    name = f"near_{secrets.token_hex(4)}"

    @rpc
    async def add(self, left: int, right: int) -> int:
        return left + right

    @rpc
    async def hang(self) -> None:
        await asyncio.Event().wait()


class Far(Near):
    """A service whose queue is on the node that is killed."""

    name = f"far_{secrets.token_hex(4)}"


@asynccontextmanager
async def caller(node: Rabbit, other: Rabbit) -> AsyncIterator[ClusterProxy]:
    """A caller whose reply queue is on *node*, and whose connection is to *other*."""
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(cutting_proxy(each.url)) for each in (node, other)
        ]
        second.refusing = True
        proxy = ClusterRpcProxy(f"{first.url};{second.url}", timeout=60)
        remote = await stack.enter_async_context(proxy)
        first.refusing, second.refusing = True, False
        first.cut_with_rst()
        await eventually(lambda: second.opened and proxy.health().ok)
        yield remote


async def test_the_loss_of_a_node_loses_no_answered_call_and_no_accepted_event(
    cluster: Cluster, postgresql_uri: str
) -> None:
    """All queues are quorum queues, and replies are confirmed."""
    report = await play_quorum(NODE_KILLED, cluster, postgresql_uri)
    print(cluster_table([report]))
    assert not report.failures(NODE_KILLED)
    assert report.kinds["calls"].answered == report.kinds["calls"].offered


async def test_calls_survive_the_node_of_their_queues(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    node, other = cluster.nodes[:2]
    async with await aio_pika.connect(node.url) as operator:
        await (await operator.channel()).declare_queue(f"rpc-{Far.name}", durable=True)
    async with (
        ServiceContainer(Near, other.url),
        ServiceContainer(Far, other.url),
        caller(node, other) as remote,
    ):
        near, far = remote[Near.name], remote[Far.name]
        assert [await near.add(1, 2), await far.add(3, 4)] == [3, 7]
        endless = near.hang.with_options(timeout=None).call_async()
        await asyncio.to_thread(node.kill)
        killed_at = time.monotonic()

        with pytest.raises(ConnectionLost, match="the reply queue was lost"):
            await endless.result()
        assert await near.add(5, 6) == 11
        assert time.monotonic() < killed_at + SOON

        waiting = [far.add.call_async(number, 1) for number in range(100)]
        with pytest.raises(RpcTimeout, match=f"queue rpc-{Far.name} takes no .* node"):
            await far.add.with_options(timeout=2)(1, 1)
        with pytest.raises(ServiceUnavailable, match=f"queue rpc-{Far.name} "):
            await far.add.with_options(fail_fast=True)(1, 1)
        late = ServiceContainer(Far, other.url)
        starting = asyncio.create_task(late.start())
        await asyncio.to_thread(node.start)
        assert [await each.result() for each in waiting] == list(range(1, 101))
        await starting
        await late.stop()
    assert f"rpc-{Far.name}" in caplog.text

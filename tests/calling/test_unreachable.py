"""
Requests that an empty queue refuses. `tests/chaos/test_cluster.py` shows queues whose node is down.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import aio_pika
import pytest

from aiorpc import ClusterRpcProxy, ConnectionLost, Overloaded
from aiorpc.calling import unreachable
from aiorpc.calling.proxies import ClusterProxy

pytestmark = pytest.mark.rabbitmq


SERVICE = f"unreachable_{uuid.uuid4().hex}"


@pytest.fixture
async def cluster(rabbitmq_uri: str) -> AsyncIterator[ClusterProxy]:
    """A client, and a service's queue that takes no message."""
    queue = f"rpc-{SERVICE}"
    async with await aio_pika.connect(rabbitmq_uri) as connection:
        channel = await connection.channel()
        refuses = {"x-max-length": 0, "x-overflow": "reject-publish"}
        await channel.declare_queue(queue, durable=True, arguments=refuses)
        exchange = await channel.declare_exchange("nameko-rpc", "topic", durable=True)
        await (await channel.get_queue(queue)).bind(exchange, f"{SERVICE}.*")
        async with ClusterRpcProxy(rabbitmq_uri, timeout=10) as cluster:
            yield cluster
        await channel.queue_delete(queue)


async def test_an_empty_queue_that_refuses_for_seconds_is_overloaded(
    cluster: ClusterProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreachable, "EMPTY_REFUSALS", 1)
    with pytest.raises(Overloaded, match=f"'{SERVICE}.double'"):
        await cluster[SERVICE].double(1)


async def test_a_refused_call_is_not_sent_again_without_its_callers_consent(
    cluster: ClusterProxy,
) -> None:
    with pytest.raises(ConnectionLost, match="may have run, and is not sent again"):
        await cluster[SERVICE].double.with_options(resend=False)(1)

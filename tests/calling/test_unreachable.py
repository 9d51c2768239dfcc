"""
Requests that a queue refuses: it is empty, full, or has no leader for a moment.
`tests/chaos/test_cluster.py` shows queues whose node is down.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest

from aiorpc import AioRpcError, ClusterRpcProxy, ConnectionLost, Overloaded
from aiorpc.call import Call
from aiorpc.calling import unreachable
from aiorpc.calling.proxies import ClusterProxy
from aiorpc.calling.unreachable import CallRequest, UnreachableQueues
from aiorpc.transports.base import QueueState
from aiorpc.wire.message import Message

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


class Refusing:
    """A transport whose broker refuses the first requests, and says how many messages wait."""

    def __init__(self, refusals: int, messages: list[int]) -> None:
        self.refusals = refusals
        self.messages = messages
        self.taken: list[Any] = []

    async def inspect(self, queue: str, timeout: float) -> QueueState:
        return QueueState(queue, exists=True, messages=self.messages.pop(0))

    async def publish(self, outgoing: Any, timeout: float) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Overloaded("basic.nack")
        self.taken.append(outgoing)


async def outcome(transport: Any, *, resend: bool = True, patient: bool = True) -> str:
    """Give a request that *transport* refused to the queues, and return how its wait ended."""
    failures: list[AioRpcError] = []
    spawned: list[Any] = []
    queues = UnreachableQueues(
        transport,
        waits=lambda request: not failures,
        fail=lambda request, error: failures.append(error),
        unknown_service=lambda call: ConnectionLost("unknown"),
        spawn=spawned.append,
    )
    request = CallRequest(
        exchange="nameko-rpc",
        routing_key=f"{SERVICE}.double",
        message=Message(body=b"{}"),
        again=lambda message: message,
        call=Call(SERVICE, "double"),
        resend=resend,
        patient=patient,
    )
    queues.take(request, Overloaded("basic.nack"))
    await asyncio.gather(*spawned)
    return " ".join(type(each).__name__ for each in failures) or f"taken {len(transport.taken)}"


async def test_a_queue_that_has_messages_by_now_takes_the_request_again() -> None:
    """A quorum queue without a leader refuses messages, and may have messages a moment later."""
    assert await outcome(Refusing(0, messages=[7])) == "taken 1"
    assert await outcome(Refusing(2, messages=[0, 0, 7])) == "taken 1"


async def test_a_queue_that_has_messages_and_refuses_twice_is_overloaded() -> None:
    transport = Refusing(1, messages=[7, 7])
    assert await outcome(transport) == "Overloaded"
    assert not transport.messages


async def test_a_full_queue_is_an_error_at_once_for_a_call_that_may_not_wait() -> None:
    assert await outcome(Refusing(1, messages=[7]), resend=False) == "Overloaded"
    assert await outcome(Refusing(1, messages=[7]), patient=False) == "Overloaded"

"""
What aiorpc sends over the socket: Nameko's flags, properties and type tags, and queues declared as
Nameko declares them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pamqp.commands import Basic, Exchange, Queue

from aiorpc import ClusterRpcProxy, ServiceContainer
from aiorpc.transports.codec.properties import decode_content_header
from tests.nameko.frame_tap import Tap, tapped
from tests.nameko.golden import flags_and_properties, goldens
from tests.nameko.services import service

pytestmark = [pytest.mark.rabbitmq]

EXPIRATION = 1 << 8
CONTEXT = {"number": 200, "big": 2**40, "less": -5, "ratio": 0.1, "yes": True, "text": "h\xe9"}
TAGS = {"number": "I", "big": "l", "less": "I", "ratio": "d", "yes": "t", "text": "S"}


@pytest.fixture
async def tap(rabbitmq_url: str) -> AsyncIterator[Tap]:
    async with tapped(rabbitmq_url) as listening:
        yield listening


@pytest.fixture
def config(tap: Tap) -> dict[str, Any]:
    return {"AMQP_URI": tap.url}


def golden_flags(kind: str) -> int:
    return int.from_bytes(goldens(kind)[0].flags_and_properties[:2])


async def test_a_call_and_its_answer(
    tap: Tap, config: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    name = new_name("tapped")
    async with (
        ServiceContainer(service(name), config=config),
        ClusterRpcProxy(config, timeout=5, context_data=CONTEXT) as cluster,
    ):
        assert await cluster[name].append_identifier("a") == "a-y"

    request = tap.to(f"{name}.append_identifier")
    assert (request.method.exchange, request.method.mandatory) == ("nameko-rpc", True)
    assert request.method.immediate is False
    assert json.loads(request.body) == {"args": ["a"], "kwargs": {}}
    flags = int.from_bytes(request.flags_and_properties[:2])
    assert flags == golden_flags("request") | EXPIRATION
    message = decode_content_header(request.header, request.body)
    assert message.headers is not None
    for key, tag in {**TAGS, "aiorpc_deadline": "S"}.items():
        field = bytes([len(key) + 7]) + f"nameko.{key}{tag}".encode()
        assert field in request.flags_and_properties
    assert flags_and_properties(message) == request.flags_and_properties

    reply = tap.to(message.reply_to or "")
    # Nameko's are not mandatory: a caller whose queue is gone is noticed (ADR 20).
    assert (reply.method.exchange, reply.method.mandatory) == ("nameko-rpc", True)
    assert json.loads(reply.body) == {"result": "a-y", "error": None}
    assert int.from_bytes(reply.flags_and_properties[:2]) == golden_flags("reply")
    answered = decode_content_header(reply.header, reply.body)
    assert answered.headers == {}
    assert (answered.persistent, answered.priority) == (True, 0)
    assert answered.correlation_id == message.correlation_id


async def test_declarations(
    tap: Tap, config: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    name = new_name("tapped")
    async with (
        ServiceContainer(service(name), config={**config, "max_workers": 7}),
        ClusterRpcProxy(config, timeout=5),
    ):
        pass
    exchanges = [one for one in tap.said(Exchange.Declare) if one.exchange == "nameko-rpc"]
    assert exchanges
    for one in exchanges:
        assert (one.exchange_type, one.durable, one.passive) == ("topic", True, False)
        assert (one.auto_delete, one.internal, one.arguments) == (False, False, {})
    queues = {one.queue: one for one in tap.said(Queue.Declare) if not one.passive}
    replies = [queue for queue in queues if queue.startswith("rpc.reply-")]
    owners = {queue.rsplit("-", 5)[0] for queue in replies}
    assert owners == {f"rpc.reply-{name}", "rpc.reply-standalone_rpc_proxy"}
    assert len(replies) == 2
    for queue in (f"rpc-{name}", *replies):
        declared = queues[queue]
        assert (declared.durable, declared.exclusive, declared.auto_delete) == (True, False, False)
        assert declared.arguments == ({} if queue not in replies else {"x-expires": 300_000})
    bindings = {(one.queue, one.exchange, one.routing_key) for one in tap.said(Queue.Bind)}
    assert (f"rpc-{name}", "nameko-rpc", f"{name}.*") in bindings
    for queue in replies:
        assert (queue, "nameko-rpc", queue[-36:]) in bindings
    assert [one.prefetch_count for one in tap.said(Basic.Qos) if one.prefetch_count] == [7]
    assert not any(one.global_ for one in tap.said(Basic.Qos))
    for consumer in tap.said(Basic.Consume):
        assert (consumer.no_ack, consumer.exclusive) == (False, False)

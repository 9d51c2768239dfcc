"""The fixture ``get_message_from_queue``, on ``memory://`` and on RabbitMQ."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from aiorpc import ConfigurationError, MalformedRequest
from aiorpc.config import resolve
from aiorpc.context import NO_CONTEXT
from aiorpc.testing.plugin import MessageGetter
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing, Transport
from aiorpc.wire.message import Exchange, Message, Queue
from aiorpc.wire.protocol import Wire


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def amqp_uri(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    uri: str = request.getfixturevalue("rabbitmq_uri")
    return uri


@pytest.fixture
async def transport(aiorpc_config: dict[str, Any]) -> AsyncGenerator[Transport]:
    async with open_transport(resolve(aiorpc_config), name="test") as transport:
        yield transport


@pytest.fixture
async def queue(transport: Transport) -> AsyncGenerator[Queue]:
    name = f"letters-{uuid.uuid4().hex[:8]}"
    queue = Queue(name, Exchange(name, "fanout", auto_delete=True), "key")
    await transport.declare(queues=[queue])
    yield queue
    await transport.delete(name)


@pytest.fixture
def send(transport: Transport, queue: Queue, aiorpc_config: dict[str, Any]) -> Any:
    payloads = Wire.of(resolve(aiorpc_config)).payloads

    async def send(payload: Any) -> None:
        message = payloads.encode(payload, NO_CONTEXT, headers={"colour": "red"})
        await transport.publish(
            Outgoing(exchange=queue.exchange.name, routing_key="key", message=message)
        )

    return send


async def test_messages_are_taken_in_order_with_their_properties(
    get_message_from_queue: MessageGetter, queue: Queue, send: Any
) -> None:
    await send({"to": "Ada"})
    await send({"to": "Grace"})
    first = await get_message_from_queue(queue.name)
    assert (first.payload, first.headers) == ({"to": "Ada"}, {"colour": "red"})
    assert (first.exchange, first.routing_key) == (queue.exchange.name, "key")
    assert (first.message.persistent, first.redelivered) == (True, False)
    assert (await get_message_from_queue(queue.name)).payload == {"to": "Grace"}


async def test_without_an_ack_the_message_stays_in_the_queue(
    get_message_from_queue: MessageGetter, queue: Queue, send: Any
) -> None:
    await send(1)
    assert not (await get_message_from_queue(queue.name, ack=False)).redelivered
    again = await get_message_from_queue(queue.name)
    assert (again.payload, again.redelivered) == (1, True)


async def test_an_empty_queue_is_a_timeout_and_a_missing_one_an_error_that_names_it(
    get_message_from_queue: MessageGetter, queue: Queue, send: Any
) -> None:
    with pytest.raises(TimeoutError, match=rf"queue '{queue.name}' on .* 0.05 s \(connected"):
        await get_message_from_queue(queue.name, timeout=0.05)
    await send(1)
    assert (await get_message_from_queue(queue.name)).payload == 1
    with pytest.raises(ConfigurationError, match=r"'no-such-letters'.*0.05 s \(404"):
        await get_message_from_queue("no-such-letters", timeout=0.05)


async def test_a_queue_that_a_service_declares_later_is_waited_for(
    get_message_from_queue: MessageGetter, transport: Transport, aiorpc_config: dict[str, Any]
) -> None:
    name = f"parked-{uuid.uuid4().hex[:8]}"
    waiting = asyncio.create_task(get_message_from_queue(name))
    await asyncio.sleep(0)  # it looks before the queue exists
    message = Wire.of(resolve(aiorpc_config)).payloads.encode("late", NO_CONTEXT)
    try:
        await transport.declare(queues=[Queue(name)])
        await transport.publish(Outgoing(exchange="", routing_key=name, message=message))
        assert (await waiting).payload == "late"
    finally:
        waiting.cancel()
        await transport.delete(name)


async def test_a_message_that_cannot_be_decoded_shows_its_body(
    get_message_from_queue: MessageGetter, queue: Queue, transport: Transport
) -> None:
    damaged = Message(body=b"{")
    await transport.publish(
        Outgoing(exchange=queue.exchange.name, routing_key="key", message=damaged)
    )
    taken = await get_message_from_queue(queue.name)
    assert (taken.message.body, taken.headers) == (b"{", {})
    with pytest.raises(MalformedRequest):
        _ = taken.payload

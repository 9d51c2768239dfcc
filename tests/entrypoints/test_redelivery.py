"""
A request, event or message that is redelivered to the process that runs it runs once. So does a
request that is redelivered to the process that has run it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    Exchange,
    Queue,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.testing.connections import cut
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing, State, Transport
from aiorpc.wire.message import Message
from aiorpc.wire.names import RESENT
from tests.support.transports import Inbox
from tests.support.waiting import eventually


@dataclass
class Redelivery:
    """A service whose method waits, its container, and a client."""

    container: ServiceContainer
    cluster: Any
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    runs: int = 0
    restore: Callable[[], None] = lambda: None

    @property
    def service(self) -> Any:
        return self.cluster[self.container.service_name]

    async def loses_its_connection(self) -> None:
        self.restore = cut(self.container.transport)
        await eventually(lambda: self.container.transport.state is not State.CONNECTED)

    async def has_all_back(self) -> None:
        """Return when the service consumes again and has the redelivered requests."""
        self.restore()
        await eventually(lambda: self.container.health().ok)
        assert await self.service.ping() == "pong"  # ping is behind them in the queue


@pytest.fixture
async def redelivery(broker_config: dict[str, Any]) -> AsyncIterator[Redelivery]:
    class Service:
        name = f"again_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> str:
            redelivery.runs += 1
            redelivery.entered.set()
            try:
                await redelivery.opened.wait()
            except asyncio.CancelledError:
                redelivery.cancelled.set()
                raise
            return "done"

        @rpc(delivery="at_most_once")
        async def method_once(self) -> str:
            return await Service.method(self)

        @rpc
        async def ping(self) -> str:
            return "pong"

    async with (
        ServiceContainer(Service, broker_config) as container,
        ClusterRpcProxy(broker_config, timeout=20) as cluster,
    ):
        redelivery = Redelivery(container, cluster)
        yield redelivery
        redelivery.opened.set()


@pytest.mark.parametrize("method", ["method", "method_once"])
async def test_a_request_that_still_runs_when_redelivered_runs_once(
    redelivery: Redelivery, method: str
) -> None:
    reply = redelivery.service[method].call_async()
    await redelivery.entered.wait()
    await redelivery.loses_its_connection()
    await redelivery.has_all_back()
    redelivery.opened.set()
    assert await reply.result() == "done"
    assert await redelivery.service.ping() == "pong"
    assert redelivery.runs == 1


@pytest.mark.parametrize("method", ["method", "method_once"])
async def test_a_request_that_ended_before_its_redelivery_is_answered_with_its_result(
    redelivery: Redelivery, method: str
) -> None:
    reply = redelivery.service[method].call_async()
    await redelivery.entered.wait()
    await redelivery.loses_its_connection()
    redelivery.opened.set()
    await eventually(lambda: redelivery.container.transport.waiting)
    await redelivery.has_all_back()
    assert await reply.result() == "done"
    assert redelivery.runs == 1


async def test_a_redelivered_request_can_be_cancelled(redelivery: Redelivery) -> None:
    reply = redelivery.service.method.call_async()
    await redelivery.entered.wait()
    await redelivery.loses_its_connection()
    await redelivery.has_all_back()
    reply.cancel()
    async with asyncio.timeout(5):
        await redelivery.cancelled.wait()
    assert redelivery.runs == 1


@asynccontextmanager
async def requesting(
    config: dict[str, Any], service: str
) -> AsyncIterator[tuple[Callable[..., Awaitable[None]], Inbox]]:
    """Return a function that sends the same request of ``method``, and the answers."""
    name, answers = f"replies_{service}", Inbox()
    replies = Queue(name, Exchange("nameko-rpc", "topic"), name, expires=60)

    async def request(**headers: Any) -> None:
        message = Message(
            body=b'{"args": [], "kwargs": {}}',
            content_type="application/json",
            reply_to=replies.name,
            correlation_id="1",
            headers=headers,
        )
        key = f"{service}.method"
        await caller.publish(Outgoing(exchange="nameko-rpc", routing_key=key, message=message))

    async with open_transport(resolve(config), name="a test") as caller:
        async with await caller.subscribe(replies, answers):
            yield request, answers
        await caller.delete(replies.name)


async def test_a_request_that_comes_twice_again_runs_once_and_is_answered_twice(
    redelivery: Redelivery, broker_config: dict[str, Any]
) -> None:
    """If a process loses its channel while it counts a request, the original and its copy come."""
    redelivery.opened.set()
    async with requesting(broker_config, redelivery.container.service_name) as (request, answers):
        for _ in range(2):
            await request(**{RESENT: True})
            assert b'"result":"done"' in (await answers.next()).message.body
    assert redelivery.runs == 1


async def test_a_request_that_its_copy_joined_runs_once_although_it_comes_again(
    redelivery: Redelivery, broker_config: dict[str, Any]
) -> None:
    """Another process sent the copy, and was lost before its ack of the original."""
    async with requesting(broker_config, redelivery.container.service_name) as (request, answers):
        await request()
        await redelivery.entered.wait()
        await request(**{RESENT: True})
        assert await redelivery.service.ping() == "pong"  # ping is behind the copy in the queue
        redelivery.opened.set()
        assert b'"result":"done"' in (await answers.next()).message.body
        await request(**{RESENT: True})
        assert b'"result":"done"' in (await answers.next()).message.body
    assert redelivery.runs == 1


# Events and messages


@dataclass
class Handling:
    """A service whose handlers wait, except for the payload "last"; its container and queue."""

    container: ServiceContainer
    #: Sends payloads to its queue.
    send: Callable[..., Awaitable[None]]
    #: Another connection to its broker.
    onlooker: Transport
    queue: str
    began: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    runs: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    async def run(self, payload: str) -> None:
        self.runs.append(payload)
        self.began.put_nowait(payload)
        if payload != "last":
            await self.opened.wait()
        self.ended.append(payload)

    async def begins(self, payload: str) -> None:
        assert await asyncio.wait_for(self.began.get(), 10) == payload

    async def loses_its_connection(self) -> Callable[[], None]:
        """Return a function that lets the service connect again."""
        restore = cut(self.container.transport)
        await eventually(lambda: self.container.transport.state is not State.CONNECTED)
        return restore

    async def loses_its_connection_and_has_all_back(self) -> None:
        await self.has_all_back(await self.loses_its_connection())

    async def has_all_back(self, restore: Callable[[], None]) -> None:
        restore()
        await eventually(lambda: self.container.health().ok)
        await self.send("last")  # it is behind them in the queue
        await self.begins("last")

    async def left(self) -> int:
        """The messages in the queue when the service has stopped."""
        self.opened.set()
        await self.container.stop()
        state = await self.onlooker.inspect(self.queue, 5)
        assert state is not None
        return state.messages


@pytest.fixture(params=["event", "message", "requeued"])
async def handling(
    request: pytest.FixtureRequest, broker_config: dict[str, Any]
) -> AsyncIterator[Handling]:
    name_ = f"again_{uuid.uuid4().hex[:8]}"
    queue = Queue(name_, expires=60)

    class Event:
        name = name_

        @event_handler(name_, "happened")
        async def take(self, payload: str) -> None:
            await handling.run(payload)

    class Plain:
        name = name_

        @consume(queue, requeue_on_error=request.param == "requeued")
        async def take(self, payload: str) -> None:
            await handling.run(payload)

    async def send(payload: str, message_id: str | None = None) -> None:
        if request.param == "event":
            await dispatch(name_, "happened", payload, message_id=message_id)
        else:
            message = Message(body=f'"{payload}"'.encode(), message_id=message_id)
            await onlooker.publish(Outgoing(exchange="", routing_key=name_, message=message))

    service = Event if request.param == "event" else Plain
    container = ServiceContainer(service, broker_config)
    async with (
        open_transport(resolve(broker_config), name="a test") as onlooker,
        event_dispatcher(broker_config) as dispatch,
    ):
        async with container:
            handling = Handling(container, send, onlooker, container.queues[0])
            yield handling
            handling.opened.set()
        await onlooker.delete(handling.queue)


async def test_a_message_that_still_runs_when_redelivered_runs_once_and_is_acked(
    handling: Handling,
) -> None:
    await handling.send("a")
    await handling.send("b")
    await handling.begins("a")
    await handling.begins("b")
    for _ in range(3):
        await handling.loses_its_connection_and_has_all_back()
    # "last" may run again: its ack was perhaps still on its way when the connection was lost.
    assert sorted(set(handling.runs)) == ["a", "b", "last"]
    assert (handling.runs.count("a"), handling.runs.count("b")) == (1, 1)
    assert await handling.left() == 0


@pytest.mark.parametrize("message_id", ["an id", None])
async def test_a_message_that_ended_before_its_redelivery_runs_again_only_without_an_id(
    handling: Handling, message_id: str | None
) -> None:
    """Without an id, it may be another message with the same contents."""
    await handling.send("a", message_id)
    await handling.begins("a")
    restore = await handling.loses_its_connection()
    handling.opened.set()
    await eventually(lambda: handling.ended == ["a"])
    if message_id is None:
        restore()
        await handling.begins("a")
    await handling.has_all_back(restore)
    assert handling.runs == (["a"] if message_id else ["a", "a"]) + ["last"]
    assert await handling.left() == 0


async def test_a_message_with_an_id_that_comes_twice_again_runs_once(handling: Handling) -> None:
    handling.opened.set()
    for _ in range(2):
        message = Message(body=b'"a"', message_id="an id", headers={RESENT: True})
        await handling.onlooker.publish(
            Outgoing(exchange="", routing_key=handling.queue, message=message)
        )
    await handling.send("last")
    for payload in ("a", "last"):
        await handling.begins(payload)
    assert handling.runs == ["a", "last"]
    assert await handling.left() == 0


async def test_each_redelivery_of_messages_with_equal_contents_joins_one_worker(
    handling: Handling,
) -> None:
    await handling.send("a")
    await handling.send("a")
    await handling.begins("a")
    await handling.begins("a")
    await handling.loses_its_connection_and_has_all_back()
    assert handling.runs == ["a", "a", "last"]
    assert await handling.left() == 0

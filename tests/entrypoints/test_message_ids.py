"""Events and messages have an id, and keep it when they come back: over every transport."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    Call,
    ConfigurationError,
    EventDispatcher,
    Handler,
    Publisher,
    Queue,
    Retry,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
    once,
)
from aiorpc.calling.message_options import MessageOptions
from aiorpc.calling.publishing import Events
from aiorpc.config import resolve
from aiorpc.context import NO_CONTEXT
from aiorpc.parked.messages import Selection
from aiorpc.parked.settling import Replay
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Transport
from aiorpc.wire.protocol import Wire
from tests.support.breakable import breakable
from tests.support.waiting import eventually


@pytest.fixture
def name() -> str:
    return f"ids_{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def onlooker(broker_config: dict[str, Any]) -> AsyncIterator[Transport]:
    async with open_transport(resolve(broker_config), name="a test") as transport:
        yield transport


class Ids:
    """A middleware that keeps the id of each message, and fails the first *fails* runs."""

    def __init__(self, fails: int = 0) -> None:
        self.seen: list[str | None] = []
        self._fails = fails

    async def __call__(self, call: Call, handler: Handler) -> Any:
        if call.message is not None:
            self.seen.append(call.message.message_id)
            if len(self.seen) <= self._fails:
                raise ValueError("no luck")
        return await handler(call)

    async def get(self, count: int) -> list[str | None]:
        await eventually(lambda: len(self.seen) >= count)
        assert len(self.seen) == count
        return self.seen


def handler_of(name_: str, **options: Any) -> type:
    class Service:
        name = name_

        @event_handler(name_, "happened", **options)
        async def handle(self, payload: object) -> None: ...

    return Service


@asynccontextmanager
async def handled(config: dict[str, Any], name: str, fails: int = 0) -> AsyncIterator[Ids]:
    ids = Ids(fails)
    service = handler_of(name, reliable_delivery=False)
    async with ServiceContainer(service, config, middleware=[ids]):
        yield ids


async def test_each_event_and_each_message_has_an_id_of_its_own(
    broker_config: dict[str, Any], name: str
) -> None:
    sent = Queue(name, expires=60)

    class Source:
        name = f"{sent.name}_source"
        dispatch = EventDispatcher()
        publish = Publisher()

        @once
        async def send(self) -> None:
            await self.publish("a message", routing_key=sent.name)

        @consume(sent)
        async def pass_on(self, payload: object) -> None:
            await self.dispatch("happened", payload)

    ids, passed = Ids(), Ids()
    async with (
        ServiceContainer(
            handler_of(Source.name, reliable_delivery=False), broker_config, middleware=[ids]
        ),
        ServiceContainer(Source, broker_config, middleware=[passed]),
        event_dispatcher(broker_config) as dispatch,
    ):
        await ids.get(1)
        await dispatch(Source.name, "happened")
        await dispatch(Source.name, "happened")
        seen = [*await ids.get(3), *await passed.get(1)]
    assert all(seen)
    assert len(set(seen)) == 4


async def test_the_id_that_the_sender_gives_wins_and_none_sends_no_id(
    broker_config: dict[str, Any], name: str
) -> None:
    async with handled(broker_config, name) as ids, event_dispatcher(broker_config) as dispatch:
        await dispatch(name, "happened", message_id="my id")
        await dispatch(name, "happened", message_id=None)
        assert await ids.get(2) == ["my id", None]


@pytest.mark.parametrize("declare", [EventDispatcher, Publisher])
def test_one_id_for_all_messages_of_a_declaration_is_refused(declare: Any) -> None:
    with pytest.raises(ConfigurationError, match="would be the id of all its messages"):
        declare(message_id="x")


async def test_a_dispatch_that_a_middleware_makes_again_keeps_the_id(
    broker_config: dict[str, Any], name: str
) -> None:
    """As after a lost confirm: the broker has the event, and the sender does not know it."""

    async def twice(call: Call, handler: Handler) -> Any:
        await handler(call)
        return await handler(call)

    async with (
        handled(broker_config, name) as ids,
        event_dispatcher(broker_config, middleware=[twice]) as dispatch,
    ):
        await dispatch(name, "happened")
        first, second = await ids.get(2)
        await dispatch(name, "happened")
        third = (await ids.get(4))[2]
    assert first is not None
    assert first == second != third


async def test_a_publish_that_a_middleware_makes_again_keeps_the_id(
    broker_config: dict[str, Any], name: str
) -> None:
    queue, seen = Queue(name, expires=60), Ids()

    async def twice(call: Call, handler: Handler) -> Any:
        await handler(call)
        return await handler(call)

    class Service:
        name = queue.name
        publish = Publisher(declare=[queue], middleware=[twice])

        @once
        async def send(self) -> None:
            await self.publish(1, routing_key=queue.name)

        @consume(queue)
        async def take(self, payload: int) -> None: ...

    async with ServiceContainer(Service, broker_config, middleware=[seen]):
        first, second = await seen.get(2)
    assert first is not None
    assert first == second


async def test_an_event_keeps_its_id_when_it_is_retried_parked_and_replayed(
    broker_config: dict[str, Any], onlooker: Transport, name: str
) -> None:
    ids = Ids(fails=3)
    service = handler_of(name, retry=Retry(immediate=1, delays=(0.01,)))
    container = ServiceContainer(service, broker_config, middleware=[ids])
    async with container, event_dispatcher(broker_config) as dispatch:
        queue = container.queues[0]
        await dispatch(name, "happened")
        await ids.get(3)

        async def is_parked() -> bool:
            state = await onlooker.inspect(f"{queue}.parked", 5)
            return state is not None and state.messages == 1

        await eventually(is_parked)
        assert (await Replay(onlooker, f"{queue}.parked", Selection()).run()).done == 1
        seen = await ids.get(4)
    assert seen[0] is not None
    assert len(set(seen)) == 1
    for each in (queue, f"{queue}.parked", f"{queue}.retry-10ms"):
        await onlooker.delete(each)


async def test_a_redelivered_event_and_its_counted_copy_keep_the_id(
    broker_config: dict[str, Any], onlooker: Transport, name: str
) -> None:
    async with ServiceContainer(handler_of(name), broker_config) as container:
        queue = container.queues[0]
    async with event_dispatcher(broker_config) as dispatch:
        await dispatch(name, "happened")
    taken: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
    async with open_transport(resolve(broker_config), name="is killed") as killed:
        await killed.subscribe(Queue(queue), taken.set_result, prefetch=1)
        first = (await taken).message.message_id
    copies = Ids()

    async def is_a_copy(call: Call, handler: Handler) -> Any:
        assert "aiorpc-copy" in call.message.headers
        return await copies(call, handler)

    async with ServiceContainer(handler_of(name), broker_config, middleware=[is_a_copy]):
        assert await copies.get(1) == [first]
    assert first is not None
    await onlooker.delete(queue)


async def test_an_event_whose_confirm_is_lost_is_sent_again_with_its_id(
    broker_config: dict[str, Any], name: str
) -> None:
    settings = resolve(broker_config)
    async with handled(broker_config, name) as ids, breakable(broker_config) as link:
        await link.transport.start(5)
        events = Events(link.transport, Wire.of(settings), settings, MessageOptions())
        await events.declare(name)
        link.mute()
        dispatching = asyncio.ensure_future(events.dispatch(name, "happened", 1, NO_CONTEXT, {}))
        await ids.get(1)
        await link.break_connection()
        await dispatching
        first, second = await ids.get(2)
    assert first is not None
    assert first == second

"""Discovery: containers answer the question which services run, and leave nothing at the broker."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    ConfigurationError,
    Entrypoint,
    Host,
    ServiceContainer,
    ServiceRunner,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.hosting.discovery import Fired, Instance, discover
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing, Subscription
from aiorpc.transports.memory.transport import MemoryTransport
from aiorpc.wire.message import Message, Queue
from aiorpc.wire.names import DISCOVERY_EXCHANGE, discovery_queue
from tests.support.waiting import eventually

#: Seconds to wait for answers.
WAIT = 0.3
PROCESS = f"{socket.gethostname()}:{os.getpid()}"


class One:
    name = "tests_one"

    @rpc
    async def first(self) -> None: ...

    @rpc
    async def second(self) -> None: ...


class Two:
    name = "tests_two"

    @rpc
    async def only(self) -> None: ...


def ours(instances: list[Instance]) -> list[Instance]:
    """The answers of our services: others may use the same broker."""
    return [each for each in instances if each.service in {One.name, Two.name}]


async def test_every_container_answers(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    async with (
        open_transport(settings) as transport,
        ServiceRunner(One, Two, config=settings),
        ServiceContainer(One, settings),
    ):
        found = ours(await discover(transport, WAIT))
    assert [each.service for each in found] == [One.name, One.name, Two.name]
    assert found[0] == Instance(
        One.name,
        socket.gethostname(),
        os.getpid(),
        (Fired("first", "Rpc", "rpc-tests_one"), Fired("second", "Rpc", "rpc-tests_one")),
    )


async def test_a_stopped_or_silent_service_is_not_found(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport:
        async with ServiceContainer(One, settings):
            pass
        async with ServiceContainer(Two, {**broker_config, "DISCOVERY": False}):
            assert ours(await discover(transport, WAIT)) == []


async def test_discovery_leaves_no_queue_at_the_broker(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    queues: list[str] = []
    async with open_transport(settings) as transport:
        subscribe = transport.subscribe

        async def recording(queue: Queue, *args: Any, **options: Any) -> Subscription:
            queues.append(queue.name)
            return await subscribe(queue, *args, **options)

        transport.subscribe = recording
        async with ServiceContainer(One, settings, transport=transport):
            await discover(transport, WAIT)
        looks = [await transport.inspect(name, 2) for name in queues if "discovery" in name]
    assert len(looks) == 2
    assert not any(look is None or look.exists for look in looks)


#: Bodies that are no JSON, no UTF-8, and nested too deep.
MALFORMED = (b"?", b'{"service": "\xff"}', b'{"a":' * 20_000)


async def test_a_malformed_question_does_no_harm(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, ServiceContainer(One, settings):
        for message in (
            *(Message(body=each) for each in MALFORMED),
            Message(body=b"", reply_to="aiorpc-nobody"),
        ):
            await transport.publish(
                Outgoing(exchange=DISCOVERY_EXCHANGE.name, routing_key="", message=message)
            )
        assert [each.service for each in ours(await discover(transport, WAIT))] == [One.name]
    assert "failed" not in caplog.text


async def test_malformed_answers_are_skipped(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, ServiceContainer(One, settings):

        def answer(question: Delivery) -> None:
            question.ack()
            for body in MALFORMED if question.message.reply_to else ():
                transport.send(
                    Outgoing(
                        exchange="",
                        routing_key=question.message.reply_to or "",
                        message=Message(body=body),
                    )
                )

        async with await transport.subscribe(discovery_queue("other"), answer):
            assert [each.service for each in ours(await discover(transport, WAIT))] == [One.name]
    assert caplog.text.count("an answer to `aiorpc ls` cannot be read") == 3


class Slow(Entrypoint):
    """Is ready to fire when the test allows it."""

    begun = asyncio.Event()
    allowed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def listen_all(
        cls, host: Host, entrypoints: Sequence[Entrypoint]
    ) -> AsyncGenerator[None]:
        cls.begun.set()
        await cls.allowed.wait()
        yield


async def test_a_starting_service_answers_when_it_is_ready(broker_config: dict[str, Any]) -> None:
    class NotYet:
        name = Two.name
        method = Slow.decorator(lambda self: None)

    Slow.begun, Slow.allowed = asyncio.Event(), asyncio.Event()
    settings = resolve(broker_config)
    async with open_transport(settings) as transport:
        container = ServiceContainer(NotYet, settings)
        starting = asyncio.create_task(container.start())
        await Slow.begun.wait()
        # After this first question the queue exists, and the next question waits in it.
        assert ours(await discover(transport, WAIT)) == []
        asking = asyncio.create_task(discover(transport, 2 * WAIT))
        await asyncio.sleep(WAIT)  # the question is answered at its end
        Slow.allowed.set()
        await starting
        assert [each.service for each in ours(await asking)] == [Two.name]
        await container.stop()


async def test_starting_may_be_cancelled_while_it_becomes_discoverable(
    broker_config: dict[str, Any],
) -> None:
    class NotYet:
        name = Two.name
        method = Slow.decorator(lambda self: None)

    Slow.begun, Slow.allowed = asyncio.Event(), asyncio.Event()
    settings = resolve(broker_config)
    async with open_transport(settings) as transport:
        before = len(transport.subscriptions)
        container = ServiceContainer(NotYet, settings, transport=transport)
        starting = asyncio.create_task(container.start())
        await Slow.begun.wait()
        starting.cancel()
        await asyncio.wait([starting])
        assert len(transport.subscriptions) == before
        assert [task for task in asyncio.all_tasks() if Two.name in task.get_name()] == []


class Forbidding(MemoryTransport):
    """A broker that forbids queues for discovery."""

    async def subscribe(self, queue: Queue, *args: Any, **options: Any) -> Subscription:
        if "discovery" in queue.name:
            raise ConfigurationError("the user lacks the permission to configure it")
        return await super().subscribe(queue, *args, **options)


async def test_a_service_starts_where_discovery_is_forbidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "aiorpc.hosting"):
        async with (
            Forbidding("forbidding") as transport,
            ServiceContainer(One, "memory://forbidding", transport=transport),
        ):
            pass
    assert "tests_one will not show in `aiorpc ls`: the user lacks the permission" in caplog.text
    assert "tests_one ready" in caplog.text


class OtherOne:
    name = "tests_one"

    @rpc
    async def first(self) -> None: ...

    @rpc
    async def third(self) -> None: ...


async def test_processes_that_answer_one_name_with_other_methods_are_logged_by_both(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceContainer(One, broker_config), ServiceContainer(OtherOne, broker_config):
        await eventually(lambda: caplog.text.count("answers the service name") == 2)
    assert f"process {PROCESS} answers the service name tests_one with other" in caplog.text
    assert "only here: second; only there: third" in caplog.text
    assert "only here: third; only there: second" in caplog.text


async def test_equal_instances_and_other_services_are_not_logged(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ServiceContainer(One, broker_config),
        ServiceContainer(One, broker_config),
        ServiceContainer(Two, broker_config),
        ServiceContainer(OtherOne, {**broker_config, "DISCOVERY": False}),
        open_transport(resolve(broker_config)) as transport,
    ):
        await discover(transport, WAIT)
    assert "answers the service name" not in caplog.text

"""``aiorpc ls``, and the discovery it stands on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    BROADCAST,
    ConfigurationError,
    ConnectionLost,
    Entrypoint,
    Host,
    ServiceContainer,
    ServiceRunner,
    event_handler,
    rpc,
)
from aiorpc.cli.commands.ls import Listed, list_services, print_table
from aiorpc.config import resolve
from aiorpc.hosting.discovery import Fired, Instance, discover
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing, QueueState, Subscription
from aiorpc.transports.memory.transport import MemoryTransport
from aiorpc.wire.message import Message, Queue
from aiorpc.wire.names import DISCOVERY_EXCHANGE
from tests.support.command_line import Project, Started, invoke, run

#: Seconds in which whoever is there answers.
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
    """Others may use the same broker."""
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


async def test_who_has_stopped_or_keeps_silent_is_not_found(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport:
        async with ServiceContainer(One, settings):
            pass
        async with ServiceContainer(Two, {**broker_config, "DISCOVERY": False}):
            assert ours(await discover(transport, WAIT)) == []


async def test_nothing_is_left_on_the_broker(broker_config: dict[str, Any]) -> None:
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


async def test_a_question_that_is_none_is_no_harm(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, ServiceContainer(One, settings):
        for message in (Message(body=b"?"), Message(body=b"", reply_to="aiorpc-nobody")):
            await transport.publish(
                Outgoing(exchange=DISCOVERY_EXCHANGE.name, routing_key="", message=message)
            )
        assert [each.service for each in ours(await discover(transport, WAIT))] == [One.name]


class Slow(Entrypoint):
    """Takes its time until it is ready to fire."""

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


async def test_who_is_not_ready_answers_when_it_is(broker_config: dict[str, Any]) -> None:
    class NotYet:
        name = Two.name
        method = Slow.decorator(lambda self: None)

    Slow.begun, Slow.allowed = asyncio.Event(), asyncio.Event()
    settings = resolve(broker_config)
    async with open_transport(settings) as transport:
        container = ServiceContainer(NotYet, settings)
        starting = asyncio.create_task(container.start())
        await Slow.begun.wait()
        # When this has waited in vain its queue is there, and the next question gets in.
        assert ours(await discover(transport, WAIT)) == []
        asking = asyncio.create_task(discover(transport, 2 * WAIT))
        await asyncio.sleep(WAIT)
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
    """A broker on which we may not have queues for discovery."""

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


async def test_queues_are_listed_with_who_consumes_and_what_waits() -> None:
    settings = resolve("memory://cli-ls")
    async with ServiceContainer(One, settings), ServiceContainer(One, settings):
        async with ServiceContainer(Two, settings):
            pass  # its queue stays
        assert await list_services(settings, [], WAIT) == [
            Listed("tests_one", "rpc-tests_one", 2, 0, ["first", "second"], [PROCESS])
        ]
        assert await list_services(settings, ["tests_two", "nobody"], 0.05) == [
            Listed("nobody", "rpc-nobody", None, None, [], []),
            Listed("tests_two", "rpc-tests_two", 0, 0, [], []),
        ]


class Announced:
    name = "tests_announced"

    @event_handler("tests", "told", handler_type=BROADCAST, reliable_delivery=False)
    async def hear(self, payload: Any) -> None: ...


async def test_a_queue_that_nobody_may_look_at_does_not_end_the_list(
    broker_config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = resolve(broker_config)
    async with ServiceContainer(One, settings), ServiceContainer(Announced, settings):
        listed = await list_services(settings, [Announced.name, One.name], WAIT)
    exclusive, usual = listed
    assert (exclusive.service, exclusive.methods, exclusive.processes) == (
        Announced.name,
        ["hear"],
        [PROCESS],
    )
    assert (exclusive.consumers, exclusive.untold, exclusive.consumed) == (None, True, True)
    assert (usual.consumers, usual.untold, usual.consumed) == (1, False, True)
    print_table(listed)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [Announced.name, exclusive.queue, "-", "-", "hear", PROCESS] in rows


class Silent(MemoryTransport):
    """A broker that falls silent when it has let us in."""

    async def subscribe(self, queue: Queue, *args: Any, **options: Any) -> Subscription:
        await asyncio.sleep(60)
        raise AssertionError


class Mute(MemoryTransport):
    """A broker that takes questions, and does not say how its queues are."""

    async def inspect(self, queue: str, timeout: float = 0.04) -> QueueState | None:
        await asyncio.sleep(timeout)
        return None


@pytest.mark.parametrize("kind", [Silent, Mute])
async def test_a_silent_broker_is_a_lost_connection(
    kind: type[MemoryTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "aiorpc.cli.commands.ls.open_transport", lambda settings, name: kind("silent")
    )
    monkeypatch.setattr("aiorpc.cli.commands.ls.CONNECT_TIMEOUT", 0.1)
    monkeypatch.setattr("aiorpc.cli.commands.ls.LOOK", 0.1)
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionLost, match=r"did not (confirm|describe)"):
            await list_services(resolve("memory://"), ["nobody"], 0.05)


@pytest.mark.parametrize("number", ["inf", "nan", "0"])
def test_who_waits_waits_for_a_finite_time(number: str, closed_port: int) -> None:
    done = invoke("ls", "--wait", number, "--broker", f"amqp://127.0.0.1:{closed_port}/")
    assert done.code == 2
    assert "--wait" in done.error


@pytest.mark.parametrize("name", ["x" * 300, "\udce4"])
def test_a_name_that_no_queue_can_have_is_one_line(name: str, closed_port: int) -> None:
    done = invoke("ls", name, "--broker", f"amqp://127.0.0.1:{closed_port}/")
    assert done.code == 2
    assert "cannot name a service" in done.error


def test_memory_cannot_be_listed_from_outside() -> None:
    done = invoke("ls", "--broker", "memory://")
    assert done.code == 2
    assert "memory:// does not reach beyond its own process" in done.error


def test_a_broker_that_is_not_there_exits_5(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiorpc.cli.commands.ls.CONNECT_TIMEOUT", 0.2)
    done = invoke("ls", "--broker", f"amqp://127.0.0.1:{closed_port}/")
    assert done.code == 5
    assert "no connection to" in done.error


@pytest.mark.rabbitmq
def test_ls_for_people_and_for_programs(service_on_rabbitmq: Project, rabbitmq_uri: str) -> None:
    project = service_on_rabbitmq
    queue = f"rpc-{project.name}"
    broker = ("--broker", rabbitmq_uri)
    with Started("run", "greetings", *broker, cwd=project.directory) as process:
        process.waits_for("ready")
        done = run("ls", *broker)
        assert done.code == 0
        rows = [line.split() for line in done.stdout.splitlines()]
        assert rows[0] == ["SERVICE", "QUEUE", "CONSUMERS", "WAITING", "METHODS", "PROCESSES"]
        (row,) = (row for row in rows if row[:1] == [project.name])
        assert row[1:4] == [queue, "1", "0"]
        assert row[-1] == f"{socket.gethostname()}:{process.pid}"

        done = run("ls", project.name, "--json", *broker)
        assert done.code == 0
        assert json.loads(done.stdout) == [
            {
                "service": project.name,
                "queue": queue,
                "consumers": 1,
                "waiting": 0,
                "methods": ["add", "birthday", "echo", "fail", "nap", "whoami"],
                "processes": [f"{socket.gethostname()}:{process.pid}"],
            }
        ]
    # Nobody consumes it now, and the other never was.
    done = run("ls", project.name, "nobody_ever", "--wait", "0.05", *broker)
    assert done.code == 3
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [project.name, queue, "0", "0", "-", "-"] in rows
    assert ["nobody_ever", "rpc-nobody_ever", "no", "queue", "-", "-", "-"] in rows

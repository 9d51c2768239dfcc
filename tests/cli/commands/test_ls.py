"""``aiorpc ls``: which queues it lists, what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import replace
from typing import Any

import pytest

from aiorpc import (
    BROADCAST,
    ConfigurationError,
    ConnectionLost,
    ServiceContainer,
    ServiceRunner,
    event_handler,
    rpc,
)
from aiorpc.cli.commands.ls import (
    Listed,
    _group,
    _note_differing,
    list_services,
    print_table,
)
from aiorpc.config import resolve
from aiorpc.hosting.discovery.shapes import Fired, Info, Instance
from aiorpc.http import Gateway, http
from aiorpc.transports import open_transport
from aiorpc.transports.base import QueueState, Subscription
from aiorpc.transports.memory.transport import MemoryTransport
from aiorpc.wire.message import Queue
from aiorpc.wire.names import DISCOVERY_EXCHANGE
from tests.support.command_line import Project, Started, invoke, run

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


def test_processes_with_other_methods_are_told_in_a_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def instance(pid: int, *methods: str) -> Info:
        queue = "rpc-tests_one"
        fired = tuple(Fired(method, "Rpc", queue) for method in methods)
        return Instance("tests_one", "host", pid, fired).info()

    (listed,) = _group([instance(1, "a", "b"), instance(2, "a", "c")], [])
    assert listed.differing == {"host:1": ["a", "b"], "host:2": ["a", "c"]}
    _note_differing([listed])
    assert "host:1: a, b; host:2: a, c" in capsys.readouterr().err
    (listed,) = _group([instance(1, "a", "b"), instance(2, "b", "a")], [])
    assert listed.differing == {}


async def test_queues_are_listed_with_their_consumers_and_waiting_messages() -> None:
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


class Web:
    name = "tests_web"

    @http("GET,POST", "/books/<int:number>")
    @http("GET", "/first")
    async def book(self, number: int = 1) -> None: ...


async def test_the_routes_of_a_service_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    settings = resolve({"AMQP_URI": "memory://cli-routes", "WEB_SERVER_ADDRESS": None})
    async with ServiceContainer(Web, settings):
        (listed,) = await list_services(settings, [], WAIT)
    assert listed.methods == ["book"]
    assert listed.routes == {"book": ["GET /first", "GET,POST /books/<int:number>"]}
    print_table([listed])
    assert "book (GET /first, GET,POST /books/<int:number>)" in capsys.readouterr().out


async def test_a_gateway_is_listed_with_its_methods(capsys: pytest.CaptureFixture[str]) -> None:
    config = {"AMQP_URI": "memory://cli-gateway", "WEB_SERVER_ADDRESS": None}
    offered = Gateway(services=[One], authenticate=None, title="Books", version="2")
    async with ServiceRunner(offered, config=config) as runner:
        assert runner.containers[0].activity() == []  # a gateway starts no workers
        (listed,) = await list_services(resolve(config), [], WAIT)
    assert (listed.service, listed.queue, listed.description) == ("gateway", None, "Books")
    assert listed.routes == {"serve": ["POST /rpc/{service}/{method}"]}
    assert listed.metadata == {PROCESS: {"methods": "tests_one.first, tests_one.second"}}
    print_table([listed])
    assert f"{PROCESS} (2)" in capsys.readouterr().out


class Described:
    """Sells books,
    and nothing else."""

    name = "tests_one"
    version = "1.4.0"

    @rpc
    async def first(self) -> None: ...


async def test_versions_and_descriptions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    settings = resolve("memory://cli-described")
    async with ServiceContainer(Described, settings):
        (listed,) = await list_services(settings, [], WAIT)
    assert listed.versions == {PROCESS: "1.4.0"}
    assert listed.metadata == {}
    print_table([listed])
    heading, _, row, *_ = capsys.readouterr().out.splitlines()
    assert heading.split()[-1] == "DESCRIPTION"
    assert row.rstrip().endswith(f"{PROCESS} (1.4.0)   Sells books, and nothing else.")


async def test_a_look_leaves_no_exchange_at_the_broker() -> None:
    settings = resolve("memory://cli-empty")
    async with open_transport(settings) as transport:
        assert await list_services(settings, [], 0.01) == []
        with pytest.raises(ConfigurationError, match="there is no exchange"):
            await transport.declare([replace(DISCOVERY_EXCHANGE, passive=True)])


class Announced:
    name = "tests_announced"

    @event_handler("tests", "text", handler_type=BROADCAST, reliable_delivery=False)
    async def hear(self, payload: Any) -> None: ...


async def test_a_queue_that_cannot_be_inspected_does_not_end_the_list(
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
    """A broker that stops answering after the connection is made."""

    async def subscribe(self, queue: Queue, *args: Any, **options: Any) -> Subscription:
        await asyncio.sleep(60)
        raise AssertionError


class Mute(MemoryTransport):
    """A broker that confirms messages, but does not describe its queues."""

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
def test_the_wait_is_a_finite_number(number: str, closed_port: int) -> None:
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
    assert "memory:// only reaches its own process" in done.error


def test_a_broker_that_is_not_there_exits_5(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiorpc.cli.commands.ls.CONNECT_TIMEOUT", 0.2)
    done = invoke("ls", "--broker", f"amqp://127.0.0.1:{closed_port}/")
    assert done.code == 5
    assert "no connection to" in done.error


def test_ls_prints_a_table_or_json(service_on_rabbitmq: Project, rabbitmq_uri: str) -> None:
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
                "methods": ["add", "birthday", "count", "echo", "fail", "nap", "whoami"],
                "processes": [f"{socket.gethostname()}:{process.pid}"],
            }
        ]
    # Now nobody consumes the first queue, and the second never existed.
    done = run("ls", project.name, "nobody_ever", "--wait", "0.05", *broker)
    assert done.code == 3
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [project.name, queue, "0", "0", "-", "-"] in rows
    assert ["nobody_ever", "rpc-nobody_ever", "no", "queue", "-", "-", "-"] in rows

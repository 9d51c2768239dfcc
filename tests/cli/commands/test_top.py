"""``aiorpc top``: what it asks, what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import termios
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from aiorpc import BROADCAST, ClusterRpcProxy, ServiceContainer, event_handler, rpc
from aiorpc.cli.commands import top
from aiorpc.cli.commands.top import Watch
from aiorpc.config import resolve
from aiorpc.hosting.discovery.asking import asking
from aiorpc.transports import open_transport
from aiorpc.transports.base import QueueState, State
from tests.support.command_line import PATIENCE, SCRIPT, Project, Started, invoke
from tests.support.waiting import eventually

#: Seconds to wait for answers.
WAIT = 0.3


class Shop:
    name = "tests_top"
    go_on = asyncio.Event()

    @rpc
    async def quote(self) -> str:
        return "9.90"

    @rpc(max_concurrency=1)
    async def waits(self) -> None:
        await self.go_on.wait()

    @event_handler("tests_top", "sold", BROADCAST, reliable_delivery=False)
    async def hears(self, payload: Any) -> None: ...


async def test_the_calls_between_two_looks_are_counted(broker_config: dict[str, Any]) -> None:
    Shop.go_on = asyncio.Event()
    settings = resolve(broker_config)
    async with (
        ServiceContainer(Shop, settings) as container,
        ServiceContainer(Shop, settings),
        ClusterRpcProxy(settings) as cluster,
        open_transport(settings) as transport,
        asking(transport) as asker,
    ):
        watch = Watch(transport, asker, [Shop.name], WAIT)
        await watch.look()
        for _ in range(10):
            await cluster.tests_top.quote()
        calls = [cluster.tests_top.waits.call_async() for _ in range(4)]
        await eventually(lambda: container.running)
        view = await watch.look()
        rows = {row.method: row for row in view.methods}
        Shop.go_on.set()
        for call in calls:
            await call
    assert list(view.services) == [Shop.name]
    quote, waits, hears = rows["quote"], rows["waits"], rows["hears"]
    assert (quote.instances, quote.calls, quote.errors) == (2, 10, 0)
    assert quote.calls_per_second is not None
    assert 0 < quote.calls_per_second <= 10 / WAIT
    assert quote.p50_ms is not None
    assert quote.p99_ms is not None
    assert 0 < quote.p50_ms <= quote.p99_ms
    assert waits.calls == (waits.in_flight or 0) + (waits.waiting or 0) == 4
    assert (waits.queue, waits.consumers) == (0, 2)
    assert (hears.queue, hears.consumers) == (None, None)  # exclusive to the services


async def test_a_queue_without_its_service_is_not_looked_at(
    broker_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look renews the expiry of a queue without consumers."""
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, asking(transport) as asker:
        inspect, looked = transport.inspect, list[str]()

        async def recording(queue: str, timeout: float = 0.04) -> QueueState | None:
            looked.append(queue)
            return await inspect(queue, timeout)

        monkeypatch.setattr(transport, "inspect", recording)
        watch = Watch(transport, asker, [Shop.name], WAIT)
        async with ServiceContainer(Shop, settings):
            await watch.look()
            await watch.look()
        # The queue of `hears` is exclusive: each look at it would close a channel.
        assert sorted(looked)[1:] == [f"rpc-{Shop.name}"] * 2
        del looked[:]
        await watch.look()
        assert looked == []


async def test_a_queue_is_looked_at_again_after_a_lost_connection(
    broker_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = resolve(broker_config)
    async with (
        ServiceContainer(Shop, settings),
        open_transport(settings) as transport,
        asking(transport) as asker,
    ):
        watch = Watch(transport, asker, [Shop.name], WAIT)
        with monkeypatch.context() as patch:

            async def lost(queue: str, timeout: float = 0.04) -> QueueState | None:
                patch.setattr(transport, "state", State.CONNECTING)
                return None

            patch.setattr(transport, "inspect", lost)
            await watch.look()
        view = await watch.look()
    assert {row.method: row.queue for row in view.methods}["quote"] == 0


async def test_an_instance_that_answers_no_more_is_shown_for_a_while(
    broker_config: dict[str, Any],
) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, asking(transport) as asker:
        watch = Watch(transport, asker, [Shop.name], 0.05)
        async with ServiceContainer(Shop, settings):
            while not (view := await watch.look()).services:
                pass
            assert view.silent == []
        for _ in range(top.MISSES):
            view = await watch.look()
            assert view.silent == [f"{Shop.name} in {socket.gethostname()}:{os.getpid()}"]
        view = await watch.look()
        assert (view.silent, view.services) == ([], {})


def test_top_prints_tables_and_lines_of_json(
    service_on_rabbitmq: Project, rabbitmq_uri: str
) -> None:
    project = service_on_rabbitmq
    broker = ("--broker", rabbitmq_uri)
    asked = ("top", project.name, "--interval", "0.3", "--wait", "0.3", *broker)
    with Started("run", "greetings", *broker, cwd=project.directory) as process:
        process.waits_for("ready")
        assert invoke("call", f"{project.name}.add", "[1]", *broker).code == 0
        assert invoke("call", f"{project.name}.fail", *broker).code == 1
        done = invoke(*asked, "--count", "2", "--json")
        assert done.code == 0
        first, second = map(json.loads, done.stdout.splitlines())
        assert first["time"] < second["time"]
        methods = {row["method"]: row for row in second["methods"]}
        assert methods["add"]["calls"] == 1
        assert methods["fail"]["errors"] == 1
        assert methods["fail"]["last_error"].startswith("ValueError: no such")
        assert methods["add"]["calls_per_second"] == 0.0
        assert (methods["add"]["queue"], methods["add"]["consumers"]) == (0, 1)

        done = invoke(*asked, "--count", "1")
        assert done.code == 0
        lines = done.stdout.splitlines()
        assert lines[0].startswith("aiorpc top  ")
        assert lines[1].split()[:2] == ["METHOD", "CALLS/S"]
        assert any(line.startswith(f"{project.name}.add ") for line in lines), done.stdout

        frames = in_a_terminal(*asked, width=80, height=24)
        assert f"{project.name}.add" in frames
        assert "\x1b[?1049h" in frames  # the alternate screen, and back
        assert "\x1b[?1049l" in frames

        done = invoke("top", "--stacks", project.name, *broker)
        assert done.code == 2
        assert "set DISCOVERY_STACKS: true" in done.stderr
    done = invoke("top", "--stacks", project.name, "--wait", "0.05", *broker)
    assert done.code == 3
    assert "no instance of" in done.stderr


def test_sigterm_gives_the_terminal_back(project: Project, rabbitmq_uri: str) -> None:
    asked = ("top", project.name, "--interval", "0.1", "--broker", rabbitmq_uri)
    written = in_a_terminal(*asked, width=80, height=24, until=signal.SIGTERM, code=143)
    *_, last = written.split("METHOD")
    assert "\x1b[?1049l" in last  # the screen from before
    assert "\x1b[?25h" in last  # the cursor


def in_a_terminal(
    *words: str, width: int, height: int, until: signal.Signals = signal.SIGINT, code: int = 0
) -> str:
    """What ``aiorpc *words`` writes to a terminal until a signal after its second frame."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [SCRIPT, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    with suppress(OSError):  # the end of the process
        while chunk := os.read(ours, 65536):
            if written.count(b"METHOD") < 2 <= (written + chunk).count(b"METHOD"):
                process.send_signal(until)
            written += chunk
    os.close(ours)
    assert process.wait(PATIENCE) == code, written
    return written.decode()


def test_stacks_show_the_running_calls(service_on_rabbitmq: Project, rabbitmq_uri: str) -> None:
    project = service_on_rabbitmq
    broker = ("--broker", rabbitmq_uri)
    permit = ("--define", "DISCOVERY_STACKS=true", "--define", "SHUTDOWN_TIMEOUT=0")
    with ExitStack() as stack:
        service = Started("run", "greetings", *broker, *permit, cwd=project.directory)
        stack.enter_context(service).waits_for("ready")
        stack.enter_context(Started("call", f"{project.name}.nap", *broker, cwd=project.directory))

        def shown() -> str:
            done = invoke("top", "--stacks", project.name, "--wait", "0.3", *broker)
            assert done.code == 0
            return done.stdout

        text = shown()
        while " running for " not in text:
            text = shown()
        done = invoke("top", "--stacks", project.name, "--json", *broker)
    heading, call, line, *_ = text.splitlines()
    assert heading.startswith(f"{project.name} in ")
    assert heading.endswith(": 1 call(s)")
    assert call.startswith(f"  {project.name}.nap.")
    assert call.endswith(": nap()")
    assert "greetings.py:" in line
    assert line.endswith("in Greetings.nap: await asyncio.sleep(60)")
    ((doing,),) = [answer["calls"] for answer in json.loads(done.stdout)]
    assert (doing["method"], doing["state"]) == ("nap", "running")


@pytest.mark.parametrize(
    "words",
    [
        *(("--interval", "0"), ("--interval", "31"), ("--wait", "inf")),
        *(("--count", "0"), ("--count", "1.5")),
    ],
)
def test_a_wrong_number_is_refused(words: tuple[str, ...], closed_port: int) -> None:
    done = invoke("top", *words, "--broker", f"amqp://127.0.0.1:{closed_port}/")
    assert done.code == 2
    assert words[0] in done.error


def test_stacks_are_of_one_service(closed_port: int) -> None:
    broker = f"amqp://127.0.0.1:{closed_port}/"
    done = invoke("top", "shop", "--stacks", "shop", "--broker", broker)
    assert done.code == 2
    assert "leave out SERVICE" in done.error


def test_a_broker_that_is_not_there_exits_5(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top, "CONNECT_TIMEOUT", 0.2)
    done = invoke("top", "--broker", f"amqp://127.0.0.1:{closed_port}/")
    assert done.code == 5
    assert "no connection to" in done.error

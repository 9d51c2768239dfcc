"""``aiorpc top``: what it asks, what it prints, and its exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from contextlib import ExitStack, suppress

import pytest

from aiorpc.cli.commands import top
from tests.support.command_line import PATIENCE, SCRIPT, Project, Started, invoke


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

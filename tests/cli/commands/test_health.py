"""``aiorpc health``, and the admin address of ``aiorpc run`` that it asks."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from aiorpc.admin import AdminServer
from aiorpc.hosting.report import Report, WorkerReport
from tests.support.command_line import Project, Started, invoke
from tests.support.waiting import eventually_blocking

READY = WorkerReport(1, 11, alive=True, ready=True)
CUT_OFF = WorkerReport(1, 11, alive=True, ready=False, reasons=("no connection\nto amqp://host/",))
BLOCKED = WorkerReport(1, 11, alive=False, ready=False, reasons=("the event loop is blocked",))


@contextmanager
def serving(worker: WorkerReport) -> Iterator[str]:
    with AdminServer("127.0.0.1:0", lambda: Report.of([worker])) as server:
        yield server.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("worker", "ready", "alive"),
    [
        (READY, (0, "ready\n"), (0, "alive\n")),
        (CUT_OFF, (1, "not ready: no connection\\nto amqp://host/\n"), (0, "alive\n")),
        (
            BLOCKED,
            (1, "not ready: the event loop is blocked\n"),
            (1, "not alive: the event loop is blocked\n"),
        ),
    ],
)
def test_the_exit_code_and_one_line_tell_how_the_process_is(
    worker: WorkerReport, ready: tuple[int, str], alive: tuple[int, str]
) -> None:
    with serving(worker) as address:
        for flag, expected in (((), ready), (("--live",), alive)):
            done = invoke("health", "--admin", address, *flag)
            assert (done.code, done.stdout, done.stderr) == (*expected, "")


def test_json_has_the_whole_report() -> None:
    with serving(CUT_OFF) as address:
        done = invoke("health", "--admin", address, "--json")
    assert done.code == 1
    report = json.loads(done.stdout)
    assert (report["alive"], report["ready"]) == (True, False)
    assert report["workers"][0]["pid"] == 11


def test_the_address_comes_from_the_configuration(here: Project) -> None:
    with serving(READY) as address:
        here.write("config.yaml", f"ADMIN_ADDRESS: {address}\nAMQP_URI: memory://\n")
        done = invoke("health", "--config", "config.yaml")
        assert (done.code, done.stdout) == (0, "ready\n")
        everywhere = f"0.0.0.0:{address.rpartition(':')[2]}"
        assert invoke("health", "--define", f"ADMIN_ADDRESS={everywhere}").code == 0


def test_no_answer_is_not_alive(closed_port: int) -> None:
    done = invoke("health", "--admin", f"127.0.0.1:{closed_port}", "--live")
    assert done.code == 1
    assert done.stdout.startswith(f"not alive: no answer from 127.0.0.1:{closed_port}/livez: ")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = invoke("health", "--admin", address, "--timeout", "0.05")
    assert done.code == 1
    assert "timed out" in done.stdout


def test_an_answer_that_never_ends_is_not_ready() -> None:
    ended = threading.Event()

    def answer() -> None:
        connection, _ = other.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not ended.wait(0.05):  # each step is shorter than the time limit
                connection.sendall(b"1")

    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = invoke("health", "--admin", address, "--timeout", "0.2")
        ended.set()
        thread.join()
    assert (done.code, "timed out" in done.stdout) == (1, True)


def test_an_answer_of_something_else_is_not_ready() -> None:
    def answer() -> None:
        connection, _ = other.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n<html>")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=answer)
        thread.start()
        done = invoke("health", "--admin", f"127.0.0.1:{other.getsockname()[1]}")
        thread.join()
    assert done.code == 1
    assert "not ready: no answer from" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "there is no admin address: give --admin HOST:PORT"),
        (["--admin", "localhost"], "--admin must be [address:]port, such as 0.0.0.0:8000"),
        (["--define", "ADMIN_ADDRESS=x:y"], "ADMIN_ADDRESS must be [address:]port"),
    ],
)
def test_a_wrong_address_exits_2(arguments: list[str], error: str) -> None:
    done = invoke("health", *arguments)
    assert done.code == 2
    assert error in done.error


# The admin address of `aiorpc run`

BLOCKING = """
import os, time
from aiorpc import once

class Blocking:
    name = "blocking"

    @once
    async def block(self):
        print("begun", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)  # it blocks the loop
"""


def admin_url(process: Started) -> str:
    return process.waits_for("admin address: ").partition("address: ")[2].split()[0]


def test_a_service_is_ready_when_it_is_ready_and_alive_while_it_stops(project: Project) -> None:
    project.write_slow_service(600)
    command = ("run", "slow", "--broker", "memory://", "--admin", "127.0.0.1:0")
    with Started(*command, cwd=project.directory) as process:
        url = admin_url(process)
        process.waits_for("ready")
        assert eventually_blocking(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        process.signal(signal.SIGTERM)
        process.waits_for("finishing the running calls (1)")
        assert eventually_blocking(lambda: httpx.get(f"{url}/readyz").status_code == 503, every=0)
        assert httpx.get(f"{url}/livez").status_code == 200
        process.signal(signal.SIGTERM)
        assert process.ends() == 128 + signal.SIGTERM
    assert "Traceback" not in process.output


def test_a_service_without_its_broker_is_alive_and_not_ready(
    project: Project, closed_port: int
) -> None:
    project.write_service()
    url = f"amqp://guest:secret@127.0.0.1:{closed_port}/"
    command = ("run", "greetings", "--broker", url, "--admin", "127.0.0.1:0")
    with Started(*command, cwd=project.directory) as process:
        admin = admin_url(process)
        process.waits_for("still connecting")
        answer = httpx.get(f"{admin}/readyz")
        assert answer.status_code == 503
        assert "there is no connection to amqp://guest:***@" in answer.text
        assert "secret" not in answer.text
        done = invoke("health", "--admin", admin.removeprefix("http://"), "--live")
        assert (done.code, done.stdout) == (0, "alive\n")
        assert "process_cpu_seconds_total" in httpx.get(f"{admin}/metrics").text
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_a_method_that_blocks_the_loop_is_not_alive_and_named(project: Project) -> None:
    project.write("blocking.py", BLOCKING)
    bounds = ("--define", "BLOCKED_LOOP_WARNING=0.1", "--define", "LIVENESS_TIMEOUT=0.3")
    command = ("run", "blocking", "--broker", "memory://", "--admin", "127.0.0.1:0", *bounds)
    with Started(*command, cwd=project.directory) as process:
        url = admin_url(process)
        process.waits_for("begun")
        assert eventually_blocking(lambda: httpx.get(f"{url}/livez").status_code == 503, every=0)
        (reason,) = httpx.get(f"{url}/livez").json()["reasons"][:1]
        assert "blocking.block (call id blocking.block." in reason
        project.write("go", "")
        assert eventually_blocking(lambda: httpx.get(f"{url}/livez").status_code == 200)
        process.waits_for(") blocked the event loop for ")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert "blocking.block (call id" in process.waits_for("has blocked the event loop for ")
    assert "# it blocks the loop" in process.output


def test_an_address_in_use_ends_the_command(project: Project) -> None:
    project.write_service()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = ("run", "greetings", "--broker", "memory://", "--admin", address)
        with Started(*command, cwd=project.directory) as process:
            assert process.ends() == 2
    assert f"error: ADMIN_ADDRESS {address}: cannot listen there" in process.output

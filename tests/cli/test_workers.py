"""``aiorpc run --workers N`` with real worker processes."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.command_line import SCRIPT, Project, Started
from tests.support.waiting import eventually_blocking

pytestmark = pytest.mark.slow

MEMORY = ("--broker", "memory://")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ready_pids(process: Started, times: int) -> list[int]:
    """The pids of the worker processes that were ready, when *times* of them were."""
    process.waits_for("is ready", times)
    return [int(pid) for pid in re.findall(r"worker \d+: pid (\d+) is ready", process.output)]


def test_the_workers_log_their_number_and_end_after_ctrl_c(project: Project) -> None:
    project.write_service()
    with Started("run", "greetings", "--workers", "2", *MEMORY, cwd=project.directory) as process:
        ready_pids(process, 2)
        process.presses_ctrl_c()
        assert process.ends() == 0
    for number in (1, 2):
        assert f"INFO    [worker {number}] aiorpc.hosting: {project.name} ready" in process.output
        assert f"INFO    [worker {number}] aiorpc.hosting: {project.name} stopped" in process.output
    assert process.output.count("SIGTERM: finishing the running calls") == 2
    assert "Traceback" not in process.output
    assert "ending at once" not in process.output


def test_the_parent_imports_no_service_and_no_worker_a_module_by_accident(project: Project) -> None:
    project.write(
        "counted.py",
        "import os\nfrom aiorpc import rpc\n\nprint('imported by', os.getpid(), flush=True)\n\n"
        "class Counted:\n    name = 'counted'\n\n    @rpc\n    async def method(self): ...\n",
    )
    project.write("selectors.py", "raise OSError('this is not the module of Python')\n")
    with Started("run", "counted", "--workers", "2", *MEMORY, cwd=project.directory) as process:
        workers = ready_pids(process, 2)
        parent = process.pid
    importers = {int(pid) for pid in re.findall(r"imported by (\d+)", process.output)}
    assert importers == set(workers)
    assert parent not in importers


def test_a_killed_parent_leaves_no_worker_behind(project: Project) -> None:
    project.write_slow_service(1)
    with Started("run", "slow", "--workers", "2", *MEMORY, cwd=project.directory) as process:
        workers = ready_pids(process, 2)
        process.signal(signal.SIGKILL)
        assert process.ends() == -signal.SIGKILL
        assert eventually_blocking(lambda: not any(map(is_alive, workers)), 20)
    assert process.output.count("the parent process is gone: this worker process ends too") == 2
    assert process.output.count("finished\n") == 2  # the running calls


def test_a_method_that_blocks_the_loop_does_not_outlive_a_killed_parent(project: Project) -> None:
    project.write(
        "blocking.py",
        "import os, time\nfrom aiorpc import once\n\n"
        "class Blocking:\n    name = 'blocking'\n\n    @once\n    async def block(self):\n"
        "        print('blocked:', os.getpid(), flush=True)\n        time.sleep(600)\n",
    )
    limits = ("--define", "SHUTDOWN_TIMEOUT=0", "--define", "CLEANUP_TIMEOUT=0")
    command = ("run", "blocking", "--workers", "1", *MEMORY, *limits)
    with Started(*command, cwd=project.directory) as process:
        worker = int(process.waits_for("blocked:").split()[-1])
        process.signal(signal.SIGKILL)
        assert eventually_blocking(lambda: not is_alive(worker), 20)


def test_a_mistake_is_one_line_and_exits_2(project: Project) -> None:
    with Started("run", "nosuch", "--workers", "3", *MEMORY, cwd=project.directory) as process:
        assert process.ends() == 2
    (line,) = process.output.splitlines()
    assert line.startswith("error: no module named nosuch in ")


def test_a_service_that_cannot_start_ends_the_command_with_its_reason(project: Project) -> None:
    project.write("broken.py", "raise OSError('no disk')\n")
    with Started("run", "broken", "--workers", "2", *MEMORY, cwd=project.directory) as process:
        assert process.ends() == 1
    reason = "importing broken failed: OSError: no disk"
    last = process.output.splitlines()[-1]
    assert last.startswith("error: worker 1 failed 5 times before it was ready; the last time: ")
    assert last.endswith(f"ended: {reason}")
    assert process.output.count('broken.py", line 1') == 5
    assert process.output.count(f"ended: {reason}; it starts again in") == 4


def test_a_second_signal_ends_all_at_once(project: Project) -> None:
    project.write_slow_service(600)
    with Started("run", "slow", "--workers", "2", *MEMORY, cwd=project.directory) as process:
        ready_pids(process, 2)
        process.signal(signal.SIGTERM)
        process.waits_for("finishing the running calls", times=2)
        process.signal(signal.SIGTERM)
        assert process.ends() == 128 + signal.SIGTERM
    assert process.output.count("SIGTERM again: ending at once") == 2


def test_calls_that_do_not_finish_in_time_exit_1(project: Project) -> None:
    project.write_slow_service(600)
    command = ("run", "slow", "--workers", "2", *MEMORY, "--define", "SHUTDOWN_TIMEOUT=0.2")
    with Started(*command, cwd=project.directory) as process:
        ready_pids(process, 2)
        process.signal(signal.SIGTERM)
        assert process.ends() == 1


def test_sighup_loads_the_changed_service_and_configuration(project: Project) -> None:
    def write(version: int) -> None:
        project.write(
            "versioned.py",
            "from aiorpc import Config, once\n\n"
            "class Versioned:\n    name = 'versioned'\n    config = Config()\n\n    @once\n"
            f"    async def tell(self):\n        print('version {version}', self.config['own'])\n"
            # Python takes compiled code for that of a source with the same size and second.
            + "\n"
            * version,
        )
        project.write("config.yaml", f"own: setting {version}\n")

    write(1)
    command = ("run", "versioned", "--workers", "2", *MEMORY, "--config", "config.yaml")
    with Started(*command, cwd=project.directory) as process:
        process.waits_for("version 1 setting 1", times=2)
        ready_pids(process, 2)
        write(2)
        process.signal(signal.SIGHUP)
        process.waits_for("version 2 setting 2", times=2)
        process.waits_for("all workers are replaced")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_reload_restarts_all_workers(project: Project) -> None:
    pytest.importorskip("watchfiles")
    project.write_service()
    command = ("run", "greetings", "--workers", "2", "--reload", *MEMORY)
    with Started(*command, cwd=project.directory) as process:
        ready_pids(process, 2)
        project.write_service()
        process.waits_for("reload: greetings.py changed")
        ready_pids(process, 4)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_log_formats_and_file_names_of_the_configuration_can_have_the_worker(
    project: Project,
) -> None:
    project.write_service()
    project.write(
        "config.yaml",
        """
        LOGGING:
          formatters: {short: {format: "%(processName)s %(message)s"}}
          handlers:
            file:
              class: logging.FileHandler
              filename: log-${AIORPC_WORKER:0}
              formatter: short
          root: {level: INFO, handlers: [file]}
        """,
    )
    command = ("run", "greetings", "--workers", "2", *MEMORY, "--config", "config.yaml")
    logs = [project.directory / f"log-{number}" for number in range(3)]
    with Started(*command, cwd=project.directory) as process:
        assert eventually_blocking(
            lambda: logs[0].exists() and logs[0].read_text().count("is ready") == 2, 20
        )
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert f"worker 1 {project.name} ready" in logs[1].read_text()
    assert f"worker 2 {project.name} ready" in logs[2].read_text()


def test_the_parent_serves_the_probes_and_names_the_worker_that_is_blocked(
    project: Project,
) -> None:
    project.write(
        "blocking.py",
        "import asyncio, os, time\nfrom aiorpc import once\n\n"
        "class Blocking:\n    name = 'blocking'\n\n    @once\n    async def block(self):\n"
        "        if os.environ['AIORPC_WORKER'] == '2':\n"
        "            await asyncio.sleep(0.5)  # first, it is ready\n            time.sleep(600)\n",
    )
    options = ("--workers", "2", "--admin", "127.0.0.1:0", *MEMORY)
    bounds = ("--define", "LIVENESS_TIMEOUT=0.5", "--define", "BLOCKED_LOOP_WARNING=0.1")
    command = ("run", "blocking", *options, *bounds)
    with Started(*command, cwd=project.directory) as process:
        url = process.waits_for("admin address: ").split()[-4]
        one, two = ready_pids(process, 2)

        def live() -> httpx.Response:
            return httpx.get(f"{url}/livez", verify=False)

        assert eventually_blocking(lambda: "by blocking.block (call id" in live().text, 20)
        assert live().status_code == 503
        report = live().json()
        assert [each["alive"] for each in report["workers"]] == [True, False]
        assert {each["pid"] for each in report["workers"]} == {one, two}
        assert report["reasons"][0].startswith("worker 2 ")
        process.signal(signal.SIGTERM)
        process.waits_for("SIGTERM: the workers finish their calls")
        process.signal(signal.SIGTERM)
        assert process.ends() == 128 + signal.SIGTERM


WEB = """
import os
from aiorpc.http import http

class Web:
    name = "web"

    @http("GET", "/pid")
    async def pid(self):
        return str(os.getpid())
"""


@pytest.mark.parametrize("keep_alive", [0, pytest.param(4, marks=pytest.mark.long)])
def test_a_roll_refuses_no_connection_and_loses_no_request(
    keep_alive: int, project: Project
) -> None:
    project.write("web.py", WEB)
    address = ("--define", "WEB_SERVER_ADDRESS=127.0.0.1:0")
    command = ("run", "web", "--workers", "2", *MEMORY, *address)
    limits = httpx.Limits(max_keepalive_connections=keep_alive)
    with (
        Started(*command, cwd=project.directory) as process,
        httpx.Client(limits=limits, timeout=20, verify=False) as client,
        ThreadPoolExecutor() as pool,
    ):
        old = ready_pids(process, 2)
        url = process.waits_for("HTTP on ").rpartition(" ")[2].strip()
        answered: list[int] = []
        rolled: list[bool] = []

        def ask() -> None:
            while not rolled:
                answered.append(int(client.get(f"{url}/pid").raise_for_status().text))
                time.sleep(0.01)  # leaves the processor to the new workers

        asking = [pool.submit(ask) for _ in range(3)]
        try:
            assert eventually_blocking(lambda: len(answered) > 20)
            process.signal(signal.SIGHUP)
            process.waits_for("all workers are replaced")
        finally:
            rolled.append(True)
        for each in asking:
            each.result()  # no request failed
        new = ready_pids(process, 4)[2:]
        assert int(client.get(f"{url}/pid").text) in new
        assert set(answered) & set(old)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_one_scrape_has_the_requests_of_all_workers_also_of_dead_ones(project: Project) -> None:
    pytest.importorskip("prometheus_client")
    project.write("web.py", WEB)
    defined = (
        "WEB_SERVER_ADDRESS=127.0.0.1:0",
        "MIDDLEWARE=[aiorpc.middleware.prometheus:metrics]",
    )
    options = ("--workers", "2", "--admin", "127.0.0.1:0", *MEMORY)
    defines = [word for each in defined for word in ("--define", each)]
    with Started("run", "web", *options, *defines, cwd=project.directory) as process:
        admin = process.waits_for("admin address: ").split()[-4]
        killed, _ = ready_pids(process, 2)
        url = process.waits_for("HTTP on ").rpartition(" ")[2].strip()

        def ask(until: int) -> None:
            """Send requests until this number is answered."""
            while len(answered) < until:
                answered.append(httpx.get(f"{url}/pid", verify=False).text)

        def counted() -> int:
            text = httpx.get(f"{admin}/metrics", verify=False).text
            name = "http_server_request_duration_seconds_count"
            found = re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE)
            return sum(int(float(each)) for each in found)

        answered: list[str] = []
        ask(20)
        assert counted() == 20
        os.kill(killed, signal.SIGKILL)
        ready_pids(process, 3)
        assert counted() == 20
        ask(30)
        process.signal(signal.SIGHUP)
        process.waits_for("all workers are replaced")
        assert counted() == 30
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_workers_end_with_their_terminal(project: Project) -> None:
    """The kernel sends SIGHUP when a terminal closes: that is no order to replace the workers."""
    project.write_service()
    code = (
        "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # `nohup make test` ignores it
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, SCRIPT, "run", "greetings", "--workers", "2", *MEMORY]
    log = project.directory / "log"
    ours, theirs = pty.openpty()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=project.directory,
            stdin=theirs,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    os.close(theirs)
    try:
        assert eventually_blocking(lambda: log.read_text().count("is ready") == 2, 20)
        os.close(ours)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "SIGHUP: the workers finish their calls" in log.read_text()

"""
Starts the servers and clients of peers, each in its own process, and finds their broker. It ends
only processes that it started. ``peers/`` holds the code that runs in those processes.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from environments import REPOSITORY, python_of
from peers import load, procfs

__all__ = [
    "Broker",
    "Failed",
    "Measured",
    "Peer",
    "Process",
    "Serving",
    "describe_machine",
    "environment",
    "output_of",
]

HERE = Path(__file__).resolve().parent
#: Seconds that a server may take until it is ready, and until it has ended.
PATIENCE = 30.0
#: Which environment variables name the broker; the first that is set counts.
VARIABLES = ("AIORPC_BENCH_AMQP_URI", "AIORPC_TEST_AMQP_URI")

Measured = dict[str, Any]


class Failed(Exception):
    """A process did not do what it should; the text is the end of what it printed."""


@dataclass(frozen=True)
class Broker:
    """The broker, and the process that it is, where that is one of this machine and visible."""

    url: str
    pid: int | None

    @classmethod
    def find(cls, url: str | None = None) -> Broker:
        """
        That of *url*, of the environment, or of ``make servers``.

        Raises:
            Failed: there is none.
        """
        url = url or next(filter(None, map(os.environ.get, VARIABLES)), None) or _test_server()
        if url is None:
            raise Failed(f"there is no RabbitMQ: `make servers`, or name one in {VARIABLES[0]}")
        parts = urlsplit(url)
        local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        return cls(url, procfs.listener(parts.port or 5672) if local else None)

    def delete(self, queues: Sequence[str]) -> None:
        """Delete what peers left behind; what is not there is no error."""
        code = (
            "import asyncio, sys, aio_pika\n"
            "async def main(url, *names):\n"
            "    async with await aio_pika.connect(url) as connection:\n"
            "        channel = await connection.channel()\n"
            "        for name in names: await channel.queue_delete(name)\n"
            "asyncio.run(main(*sys.argv[1:]))"
        )
        subprocess.run([python_of("aio-pika"), "-c", code, self.url, *queues], check=False)


def _test_server() -> str | None:
    sys.path.append(str(REPOSITORY))
    from tests.servers import urls

    url: str | None = urls().rabbitmq
    return url


@dataclass(frozen=True)
class Peer:
    """
    A contender.

    Attributes:
        name: how tables call it.
        environment: one of ``environments.PINS``.
        module: one of ``peers``.
        arguments: of both its server and its client.
        left_behind: formats of the names of queues that outlive it, with ``{token}``.
    """

    name: str
    environment: str
    module: str
    arguments: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()

    @contextmanager
    def serving(self, broker: Broker, *arguments: str, processes: int = 1) -> Iterator[Serving]:
        """Its servers, ready; the end of the block ends them and deletes their queues."""
        token = secrets.token_hex(4)
        common = [
            *("--broker", broker.url, "--token", token, "--port", str(free_port())),
            *self.arguments,
            *arguments,
        ]
        running: list[Process] = []
        try:
            for _ in range(processes):
                running.append(Process(self.command("server", common)))
                ready = running[-1].wait_for(load.READY)
            yield Serving(self, broker, token, common, [each.pid for each in running], ready)
        finally:
            for process in running:
                process.end()
            if self.left_behind:
                broker.delete([each.format(token=token) for each in self.left_behind])

    def alone(self, broker_url: str, *arguments: str) -> Measured:
        """Its client without a server: it has one of its own."""
        command = self.command("client", ["--broker", broker_url, *self.arguments, *arguments])
        return output_of(command)[-1]

    def command(self, role: str, arguments: Sequence[str]) -> list[str]:
        python = str(python_of(self.environment))
        return [python, "-m", f"peers.{self.module}", role, *arguments]


@dataclass(frozen=True)
class Serving:
    """A peer whose servers run; the last of them took ``ready`` seconds for that."""

    peer: Peer
    broker: Broker
    token: str
    arguments: Sequence[str]
    pids: Sequence[int]
    ready: float

    def measure(self, *arguments: str) -> Measured:
        """Run its client with these, and return what :class:`peers.load.Window` gives."""
        return self.measure_laps(*arguments)[-1]

    def measure_laps(self, *arguments: str) -> list[Measured]:
        """The same of each of the ``--laps``, which one client runs one after the other."""
        watched = ["--server-pid", *map(str, self.pids)]
        if self.broker.pid is not None:
            watched += ["--broker-pid", str(self.broker.pid)]
        return output_of(self.peer.command("client", [*self.arguments, *arguments, *watched]))


class Process:
    """A server process; its output goes to a file of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment(),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        # Not by seeking: the process shares the place in the file with us, and writes there.
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def wait_for(self, text: str) -> float:
        """Return the seconds from its start until it printed *text*; exact to some 2 ms."""
        while text not in self.output():
            elapsed = time.perf_counter() - self.started
            if self._process.poll() is not None or elapsed > PATIENCE:
                raise Failed(f"it did not say {text!r}:\n{self.output()[-2000:]}")
            time.sleep(0.002)
        return time.perf_counter() - self.started

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output.close()


def environment() -> dict[str, str]:
    """That of every process measured: byte code is written and found, wherever we were told not."""
    cache = HERE / ".venvs" / "byte-code"
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPYCACHEPREFIX": str(cache),
        "PYTHONPATH": "",
    }


def output_of(command: Sequence[str | Path]) -> list[Measured]:
    """
    Run a command in the directory of the benchmarks, and return the JSON of the lines it prints.

    Raises:
        Failed: it printed something else, or nothing.
    """
    done = subprocess.run(
        command, cwd=HERE, capture_output=True, text=True, check=False, env=environment()
    )
    try:
        found: list[Measured] = [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:
        found = []
    if not found or done.returncode:
        raise Failed((done.stdout + done.stderr)[-2000:])
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def describe_machine() -> str:
    """One line: processor, cores, memory, system, Python, how busy it is."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo")), 0) / 2**20
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GB; {platform.system()} "
        f"{platform.release().partition('-')[0]}; {platform.python_implementation()} "
        f"{platform.python_version()}; load average {os.getloadavg()[0]:.1f}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

"""
What `aiorpc console` costs while it watches 20 services at 1,000 calls per second.

    python benchmarks/console.py                                  30 s without a page, 30 s with one
    python benchmarks/console.py --seconds 60 --broker amqp://guest:guest@localhost/

Two processes of `aiorpc run` host 20 services of 10 methods each; each service calls another one in
one of its calls of ten. A third process starts calls at a fixed rate. Then the console runs, and a
page is open: a client that reads its events, as a browser does. CPU is that of the console's
process, user and system, as a share of one core; memory is its resident size. The last row has the
CPU of a process that hosts the services, with and without a page: what it costs to be asked.

Needs Linux and RabbitMQ.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from contest import Broker, describe_machine
from peers import procfs

from aiorpc.config import resolve
from aiorpc.transports import open_transport

SERVICES, METHODS, PROCESSES = 20, 10, 2
#: Seconds until the services are ready, and until all is warm.
PATIENCE, WARM = 30.0, 5.0

MODULE = '''
import random

from aiorpc import RpcProxy, rpc


NAMES = [f"PREFIX_{number:02}" for number in range(SERVICES)]
for number, name in enumerate(NAMES):

    class Service:
        """One of many services."""

        other = RpcProxy(NAMES[(number + 1) % SERVICES])

        @rpc
        async def method_0(self, n: int) -> int:
            """Return the number."""
            return n

    Service.name, Service.__name__ = name, f"Service{number}"
    for each in range(1, METHODS):

        async def method(self, n: int, text: str = "x") -> int:
            """Return the number, and ask another service for it sometimes."""
            return await self.other.method_0(n) if random.random() < 0.1 else n

        method.__name__ = f"method_{each}"
        setattr(Service, f"method_{each}", rpc(method))
    globals()[f"Service{number}"] = Service
del Service
'''

LOAD = """
import asyncio
import itertools
import random
import sys

from aiorpc import ClusterRpcProxy


async def main(url, prefix, rate):
    async with ClusterRpcProxy(url) as cluster:
        loop = asyncio.get_running_loop()
        methods = [
            cluster[f"{prefix}_{number:02}"][f"method_{each}"]
            for number in range(SERVICES)
            for each in range(METHODS)
        ]
        began = loop.time()
        for number in itertools.count():
            early = began + number / rate - loop.time()
            if early > 0.002:
                await asyncio.sleep(early)
            random.choice(methods).call_async(number)


asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""


@contextlib.contextmanager
def started(*words: str, home: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the block ends."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def reads_until(lines: IO[str] | None, text: str, times: int = 1) -> str:
    """Return the line in which *text* stands for the last of some times; then drop what follows."""
    assert lines is not None
    for line in lines:
        times -= text in line
        if times <= 0:
            threading.Thread(target=drop, args=(lines,), daemon=True).start()
            return line.strip()
    raise SystemExit(f"a process ended before it printed {text!r}")


def cpu_of(process: subprocess.Popen[str]) -> float:
    """Return the CPU seconds of a process until now."""
    seconds = procfs.cpu_seconds([process.pid])
    assert seconds is not None, "the process ended"
    return seconds


def drop(lines: IO[str]) -> None:
    with contextlib.suppress(ValueError):  # closed
        for _ in lines:
            pass


class Page:
    """Reads the events of the console, as an open page does."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"))
        self._connection.request("GET", "/api/live")
        self._response = self._connection.getresponse()
        self.bytes = self.looks = 0
        self.rate = 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            for line in self._response:
                self.bytes += len(line)
                if line.startswith(b'data: {"view":'):
                    self.looks += 1
                    rows = json.loads(line.removeprefix(b"data: "))["view"]["methods"]
                    self.rate = sum(row["calls_per_second"] or 0 for row in rows)


def measured(url: str, seconds: float, rate: float) -> Iterator[str]:
    """Yield the rows."""
    prefix = f"bench_{secrets.token_hex(3)}"
    constants = f"SERVICES, METHODS = {SERVICES}, {METHODS}\n"
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as running:
        module = constants + MODULE.replace("PREFIX", prefix)
        Path(home, "many.py").write_text(module, encoding="utf-8")
        Path(home, "load.py").write_text(constants + LOAD, encoding="utf-8")
        run = ("-m", "aiorpc", "run", "many", "--broker", url)
        hosts = [running.enter_context(started(*run, home=home)) for _ in range(PROCESSES)]
        for host in hosts:
            reads_until(host.stderr, " ready: ", SERVICES)
        running.enter_context(started("load.py", url, prefix, str(rate), home=home))
        words = ("-m", "aiorpc", "console", "--bind", "127.0.0.1:0", "--broker", url)
        console = running.enter_context(started(*words, home=home))
        address = reads_until(console.stdout, "http://")
        page: Page | None = None
        for pages in (0, 1):
            if pages:
                page = Page(address)
            time.sleep(WARM)
            before = cpu_of(console), cpu_of(hosts[0])
            read = 0 if page is None else page.bytes
            looks = 0 if page is None else page.looks
            began = time.perf_counter()
            time.sleep(seconds)
            took = time.perf_counter() - began
            own = (cpu_of(console) - before[0]) / took * 100
            host = (cpu_of(hosts[0]) - before[1]) / took * 100
            got = 0 if page is None else (page.bytes - read) / took / 1000
            seen = 0 if page is None else (page.looks - looks) / took
            memory = procfs.resident_mb([console.pid]) or 0
            shown = "-" if page is None else f"{page.rate:,.0f}"
            yield (
                f"| {pages} | {own:.1f} | {memory:.0f} | {seen:.2f} | {got:.0f} | {shown} "
                f"| {host:.1f} |"
            )
        queues = [f"rpc-{prefix}_{number:02}" for number in range(SERVICES)]
    asyncio.run(delete(url, queues))


async def delete(url: str, queues: list[str]) -> None:
    """Delete the queues of the services."""
    async with open_transport(resolve(url)) as transport:
        for queue in queues:
            await transport.delete(queue)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=1000.0, help="calls per second")
    parser.add_argument("--broker")
    options = parser.parse_args()
    broker = Broker.find(options.broker)
    print(f"{describe_machine()}\n{SERVICES} services, {options.rate:,.0f} calls per second\n")
    heads = ("open pages", "CPU of the console, %", "MB", "looks/s", "KB/s to the page")
    heads = (*heads, "calls/s that it shows", "CPU of one host, %")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for row in measured(broker.url, options.seconds, options.rate):
        print(row, flush=True)


if __name__ == "__main__":
    main()

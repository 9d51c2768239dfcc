"""
Compares the CPU per call of two checkouts of aiorpc: this one and another.

    git worktree add ../before v0.1.0
    python benchmarks/two_versions.py ../before
    python benchmarks/two_versions.py ../before --profile fast --max-workers 10 --starts 6

The servers and clients of both run at the same time, and take turns in batches of some 0.3 s.
Other load on the machine then hits both, so the ratio is steadier than that of two runs of
``compare.py``. The processes restart ``--starts`` times, because memory layout changes the cost
of a process by 2 to 4 %.

Prints for each start, and then for all: CPU per call of client and server (user and system) of both
checkouts, and the median of the ratios of the batches. Needs RabbitMQ (see ``compare.py``) and an
interpreter in which both can be imported; aiorpc need not be installed in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import secrets
import statistics
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from contest import Broker

HERE = Path(__file__).resolve()


def cpu() -> float:
    """Return the user and system time of this process, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def answer_lines(answer: Callable[[int], Coroutine[Any, Any, float]]) -> None:
    """Print ``ready``; then read numbers from stdin, and print the answer to each."""
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(await answer(int(line)), flush=True)


async def serve(options: argparse.Namespace) -> None:
    from aiorpc import ServiceContainer, rpc

    class Echo:
        name = options.service

        @rpc
        async def hello(self, value: str) -> str:
            return value + "-y"

    async def used(_: int) -> float:
        return cpu()

    config = {
        "AMQP_URI": options.broker,
        "CALL_PROFILE": options.profile,
        "max_workers": options.max_workers,
    }
    async with ServiceContainer(Echo, config):
        await answer_lines(used)


async def call(options: argparse.Namespace) -> None:
    from aiorpc import ClusterRpcProxy

    config = {"AMQP_URI": options.broker, "CALL_PROFILE": options.profile}
    context = {"user_id": "u1"}
    async with ClusterRpcProxy(config, timeout=30, context_data=context) as cluster:
        hello = cluster[options.service].hello

        async def caller(calls: int) -> None:
            for _ in range(calls):
                await hello("hello")

        async def spent(calls: int) -> float:
            before, callers = cpu(), options.in_flight
            await asyncio.gather(*(caller(calls // callers) for _ in range(callers)))
            return cpu() - before

        await answer_lines(spent)


class Process:
    """A server or a client of one checkout. It answers numbers with numbers."""

    def __init__(self, role: str, checkout: Path, options: argparse.Namespace, service: str):
        words = [f"--{name.replace('_', '-')}={value}" for name, value in vars(options).items()]
        self._process = subprocess.Popen(
            [sys.executable, HERE, *words, f"--role={role}", f"--service={service}"],
            env=os.environ | {"PYTHONPATH": f"{checkout}:{HERE.parent}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            sys.exit(f"the {role} of {checkout} did not start")

    def ask(self, number: int = 0) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(number, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


def measure(checkouts: list[Path], options: argparse.Namespace) -> list[list[float]]:
    """Return microseconds per call of each checkout, batch by batch."""
    token = secrets.token_hex(4)
    running = []
    for number, checkout in enumerate(checkouts):
        service = f"versions_{token}_{number}"
        server = Process("serve", checkout, options, service)
        running.append((server, Process("call", checkout, options, service)))
    figures: list[list[float]] = [[] for _ in checkouts]
    for batch in range(options.batches):
        order = range(len(checkouts))
        for number in order if batch % 2 else reversed(order):
            server, client = running[number]
            before = server.ask()
            seconds = client.ask(options.calls) + server.ask() - before
            figures[number].append(seconds / options.calls * 1e6)
    for server, client in running:
        client.end()
        server.end()
    return figures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    arguments.add_argument("other", nargs="?", type=Path, default=HERE.parent.parent)
    arguments.add_argument("--broker", default="")
    arguments.add_argument("--profile", choices=["durable", "fast"], default="durable")
    arguments.add_argument("--max-workers", type=int, default=100)
    arguments.add_argument("--in-flight", type=int, default=100)
    arguments.add_argument("--calls", type=int, default=1500, help="of a batch")
    arguments.add_argument("--batches", type=int, default=10)
    arguments.add_argument("--starts", type=int, default=3)
    arguments.add_argument("--role", choices=["serve", "call"], help=argparse.SUPPRESS)
    arguments.add_argument("--service", default="", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.role is not None:
        import uvloop

        return uvloop.run(serve(options) if options.role == "serve" else call(options))
    checkouts = [options.other.resolve(), HERE.parent.parent]
    options.broker = Broker.find(options.broker or None).url
    for unused in ("other", "role", "service"):
        delattr(options, unused)
    ratios = []
    for start in range(options.starts):
        other, this = measure(checkouts, options)
        ratios.append(statistics.median(b / a for a, b in zip(other, this, strict=True)))
        print(
            f"start {start + 1}: other {statistics.median(other):.1f} us, this "
            f"{statistics.median(this):.1f} us, ratio {ratios[-1]:.3f}"
        )
    print(f"{options.profile}, {options.max_workers} workers: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()

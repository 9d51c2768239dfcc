"""
The fuzzing client: sends malformed messages to a hosted service, and a good call after each one.
"""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiorpc import ClusterRpcProxy, ServiceContainer, event_handler, rpc
from tests.chaos.log_lines import counted_log
from tests.chaos.malformed import malformed
from tests.support.raw_publisher import RawMessage, RawPublisher

__all__ = ["RequestReport", "fuzz_requests"]

#: Seconds for each good call.
TIMEOUT = 20.0
#: Messages after which the memory counts: caches are full by then.
WARM = 1000
#: Bytes by which the memory may grow after that.
GROWTH = 32 << 20


@dataclass
class RequestReport:
    """
    Attributes:
        sent: malformed messages that the broker accepted.
        refused: malformed messages that the broker refused.
        answered: good calls that got the right answer.
        lines: lines in the log.
        before, after: bytes of the process's memory when warm, and at the end.
        longest: seconds of the slowest good call.
        failures: what was wrong, with the seed.
    """

    sent: int = 0
    refused: int = 0
    answered: int = 0
    lines: int = 0
    before: int = 0
    after: int = 0
    longest: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.sent} malformed messages sent, {self.refused} refused by the broker; "
            f"{self.answered} good calls answered, the slowest in {self.longest * 1000:.0f} ms; "
            f"{self.lines} lines of log; memory {self.before >> 20} -> {self.after >> 20} MiB; "
            f"{self.seconds:.1f} s"
        )


def _service() -> type:
    class Service:
        name = f"fuzzed_{secrets.token_hex(4)}"

        @rpc
        async def echo(self, number: int) -> int:
            return number

        @event_handler(f"source_of_{name}", "sold")
        async def heard(self, payload: Any) -> None:
            pass

    return Service


async def fuzz_requests(url: str, seeds: Iterable[int], *, show: bool = False) -> RequestReport:
    """
    Send the message of each seed to a service at *url*.

    Args:
        show: print the lines of the log.
    """
    report, cls = RequestReport(), _service()
    config = {"AMQP_URI": url, "ACCEPT": ["json", "yaml"], "RPC_TIMEOUT": TIMEOUT}
    began = time.monotonic()
    with counted_log() as log:
        async with (
            ServiceContainer(cls, config) as container,
            ClusterRpcProxy(config) as cluster,
            RawPublisher(url) as publisher,
        ):
            echo, budget = cluster[cls.name].echo, 0
            log.take()  # the lines of the start
            for number, seed in enumerate(seeds):
                if number <= WARM:
                    report.before = _memory()
                message = malformed(seed, cls.name, "echo", f"source_of_{cls.name}.events", "sold")
                log.seed = seed
                report.sent += await publisher.publish(message)
                await _good_call(report, echo, seed)
                # A service logs once in 60 s that nobody gets its answers, whatever the message.
                lines = [line for line in log.take() if "nobody gets it" not in line]
                for line in lines if show else ():
                    print(f"  seed {seed}: {line[:300]}")
                # A line of the message before may come now: some bodies are read in a thread.
                budget = min(budget, 2) + _lines_for(message, cls.name) - len(lines)
                if budget < 0:
                    report.failures.append(f"seed {seed} wrote {len(lines)} lines: {lines}")
                    budget = 0
            report.refused = publisher.refused
            if not container.health().ok:
                report.failures.append(f"the service is ill: {container.health().problems}")
        report.after = _memory()
    report.lines, report.seconds = log.count, time.monotonic() - began
    report.failures += log.faults
    if report.after > report.before + GROWTH:
        report.failures.append(f"the memory grew to {report.after >> 20} MiB")
    return report


def _lines_for(message: RawMessage, service: str) -> int:
    """Return the lines that *message* may cost: one, and one for a reply to the service itself."""
    return 1 + message.properties.get("reply_to", b"")[1:].startswith(f"{service}.".encode())


async def _good_call(report: RequestReport, echo: Any, seed: int) -> None:
    start = time.monotonic()
    try:
        if await echo(seed) == seed:
            report.answered += 1
        else:
            report.failures.append(f"seed {seed}: the good call got a wrong answer")
    except Exception as error:
        report.failures.append(f"seed {seed}: the good call failed: {error!r}")
    report.longest = max(report.longest, time.monotonic() - start)


def _memory() -> int:
    """Return the bytes of memory that this process uses."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

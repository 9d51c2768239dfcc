"""
What aiorpc costs before the first call, and what stays after many: imports, the first connection,
a server until it is ready, memory.

    python benchmarks/startup.py                      with 50,000 calls, some two minutes
    python benchmarks/startup.py --calls 1000000      is the memory flat?
    python benchmarks/startup.py --repeats 3 --calls 2000

Needs what compare.py needs, and makes the same virtual environments. Processes are fresh ones, with
their byte code written before, and take turns; what is printed are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from compare import DURABLE, PATTERNS
from contest import Broker, Failed, Process, describe_machine, output_of
from environments import Unavailable, python_of

#: Goals of issue 6: milliseconds more than aio-pika alone, milliseconds, megabytes.
IMPORT, CONNECT, READY, MEMORY = 40.0, 20.0, 250.0, 40.0
#: How much memory may grow in the second half of the calls and count as flat, in MB.
FLAT = 1.0
LAPS = 10

#: What ``import aiorpc`` must leave alone; ``aio_pika`` comes with the first connection.
LAZY = ("aio_pika", "yaml", "argparse", "rich", "sqlalchemy", "starlette")

SERVICE = """
from aiorpc import rpc


class Service:
    name = "bench_started"

    @rpc
    async def hello(self, value: str) -> str:
        return value
"""

Medians = Mapping[str, float]


def medians(ways: Mapping[str, Callable[[], float]], repeats: int) -> Medians:
    """Each way once per round, in turns; the first round only warms the caches."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(repeats + 1):
        for way, measure in ways.items():
            value = measure()
            if number:
                found[way].append(value)
    return {way: statistics.median(values) for way, values in found.items()}


def imports(repeats: int) -> Iterator[str]:
    """CPU time, which what else the machine does hardly changes."""

    def importing(statement: str) -> Callable[[], float]:
        code = (
            f"import time; began = time.process_time(); {statement}; "
            "print((time.process_time() - began) * 1000)"
        )
        command = [str(python_of("aiorpc")), "-c", code]
        return lambda: float(json.dumps(output_of(command)[0]))

    found = medians(
        {
            statement: importing(statement)
            for statement in (
                "import asyncio",
                "import aio_pika",
                "import aiorpc",
                "import aiorpc, aiorpc.transports.amqp.transport",
            )
        },
        repeats,
    )
    yield from (f"{statement:<44} {ms:6.0f} ms CPU" for statement, ms in found.items())
    more = found["import aiorpc, aiorpc.transports.amqp.transport"] - found["import aio_pika"]
    yield _verdict("imports of a connected program, more than aio-pika's", more, IMPORT, "ms")
    code = f"import aiorpc, json, sys; print(json.dumps([m for m in {LAZY} if m in sys.modules]))"
    loaded = output_of([python_of("aiorpc"), "-c", code])[0]
    yield f"  import aiorpc pulls none of {', '.join(LAZY)}: {loaded or 'met'}"


def connects(broker: Broker, repeats: int) -> Iterator[str]:
    def connecting(library: str) -> Callable[[], float]:
        command = [str(python_of("aiorpc")), "-m", "peers.first_connect", library, broker.url]
        return lambda: float(output_of(command)[0]["connect_ms"])

    found = medians({each: connecting(each) for each in ("aio-pika", "aiorpc")}, repeats)
    yield from (f"first connection of {each:<24} {ms:6.1f} ms" for each, ms in found.items())
    yield _verdict(
        "first connection, more than aio-pika's", found["aiorpc"] - found["aio-pika"], CONNECT, "ms"
    )


def servers(broker: Broker, repeats: int) -> Iterator[str]:
    """From the start of the process until it says that it is ready."""

    def starting(command: Sequence[str], text: str) -> Callable[[], float]:
        def start() -> float:
            process = Process(command)
            try:
                return process.wait_for(text) * 1000
            finally:
                process.end()

        return start

    arguments = ["--broker", broker.url, "--token", "started"]
    one = ["--services", "1"]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "service.py").write_text(SERVICE)
        code = f"import sys; sys.path.insert(0, {directory!r}); from aiorpc.cli import main; main()"
        python = str(python_of("aiorpc"))
        run = [python, "-c", code, "run", "service", "--broker", broker.url]
        found = medians(
            {
                PATTERNS.name: starting(PATTERNS.command("server", arguments), "READY"),
                "aiorpc": starting(DURABLE.command("server", [*arguments, *one]), "READY"),
                "aiorpc, two containers": starting(DURABLE.command("server", arguments), "READY"),
                "aiorpc run": starting(run, "ready"),
            },
            repeats,
        )
    broker.delete([f"rpc-bench_started{each}" for each in ("_x", "_y", "_y0", "")])
    yield from (f"server ready: {each:<30} {ms:6.0f} ms" for each, ms in found.items())
    yield from (
        f"{each} / patterns.RPC, ready in the same run: {found[each] / found[PATTERNS.name]:.2f}"
        for each in ("aiorpc", "aiorpc run")
    )
    yield _verdict("server ready", found["aiorpc"], READY, "ms")


def memory(broker: Broker, calls: int) -> Iterator[str]:
    with DURABLE.serving(broker) as serving:
        per_lap = ("--laps", str(LAPS), "--calls", str(calls // LAPS), "--seconds", "100000")
        laps = serving.measure_laps("--in-flight", "100", *per_lap)
    for role in ("server", "client"):
        resident = [lap[f"{role}_mb"] for lap in laps]
        if None in resident:
            yield f"memory of the {role}: cannot be seen here"
            continue
        yield f"memory of the {role}, MB, each {calls // LAPS:,} calls: " + ", ".join(
            f"{each:.1f}" for each in resident
        )
        yield _verdict(f"{role} after {calls:,} calls", resident[-1], MEMORY, "MB")
        grown = resident[-1] - resident[LAPS // 2 - 1]
        yield _verdict(f"{role} grew in the second half", grown, FLAT, "MB")


def _verdict(what: str, value: float, bound: float, unit: str) -> str:
    return (
        f"  {what}: {value:.1f} {unit}, {'met' if value <= bound else 'MISSED'}: at most {bound:g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--broker", metavar="URL", help="wins over the environment")
    options = parser.parse_args()
    broker = Broker.find(options.broker)
    print(f"{describe_machine()}. Medians of {options.repeats}.")
    for part in (
        imports(options.repeats),
        connects(broker, options.repeats),
        servers(broker, options.repeats),
        memory(broker, options.calls),
    ):
        print()
        for line in part:
            print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (Failed, Unavailable) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None

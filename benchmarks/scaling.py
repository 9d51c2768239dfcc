"""
Measures how the cost of a call grows with calls in flight, payload, server processes, and services
in one process, over RabbitMQ and on memory://.

    python benchmarks/scaling.py                      all of it, some ten minutes
    python benchmarks/scaling.py --only payload --seconds 0.5
    python benchmarks/scaling.py --into somewhere     not into benchmarks/results

Writes scaling.csv (every point), scaling.md (the tables) and PNG plots. It needs what compare.py
needs, and creates the same virtual environments and one with matplotlib. README.md explains how to
read the results.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from compare import DURABLE, FAST
from contest import Broker, Failed, Measured, Peer, describe_machine, environment
from environments import Unavailable, python_of

HERE = Path(__file__).resolve().parent

IN_FLIGHT = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
PAYLOADS = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
PROCESSES = (1, 2, 3, 4)
SERVICES = (1, 2, 5, 10, 20, 50, 100, 200)
#: Calls at a time where it is not this that grows; few of them where the payload does.
USUAL, FEW = "100", "4"

#: Server and client in one process, whose CPU is counted as the client's.
MEMORY = Peer("memory://", "aiorpc", "ours", ("--local",))
MEMORY_URL = "memory://scaling"


#: What of a measurement is kept, by the names of :meth:`peers.load.Window.close`.
FIGURES = (
    "rate",
    "cpu_client",
    "cpu_server",
    "cpu_broker",
    "p50_us",
    "p99_us",
    "server_mb",
)


@dataclass(frozen=True)
class Point:
    """
    One measurement. ``x`` is what the series varies; CPU in ms per call, times in microseconds,
    ``ready_ms`` the start of the server process until it is ready. ``None``: not to be had.
    """

    series: str
    way: str
    x: int
    rate: float
    cpu_client: float | None
    cpu_server: float | None
    cpu_broker: float | None
    p50_us: float | None
    p99_us: float | None
    server_mb: float | None
    ready_ms: float | None = None

    @classmethod
    def of(
        cls, series: str, way: str, x: int, measured: Measured, ready_ms: float | None = None
    ) -> Point:
        measured = {**measured, "server_mb": measured["server_mb"] or measured["client_mb"]}
        figures = {name: measured[name] for name in FIGURES}
        return cls(series, way, x, ready_ms=ready_ms, **figures)


def in_flight(broker: Broker, seconds: str) -> Iterator[Point]:
    def arguments(number: int) -> tuple[str, ...]:
        return ("--in-flight", str(number), "--latencies", "--seconds", seconds)

    for peer in (DURABLE, FAST):
        with peer.serving(broker) as serving:
            for number in IN_FLIGHT:
                measured = serving.measure(*arguments(number))
                yield Point.of("in flight", peer.name, number, measured)
    for number in IN_FLIGHT:
        measured = MEMORY.alone(MEMORY_URL, *arguments(number))
        yield Point.of("in flight", MEMORY.name, number, measured)


def payload(broker: Broker, seconds: str) -> Iterator[Point]:
    def arguments(size: int) -> tuple[str, ...]:
        few = ("--in-flight", FEW, "--latencies")
        return ("--payload", str(size), *few, "--seconds", seconds)

    with DURABLE.serving(broker) as serving:
        for size in PAYLOADS:
            measured = serving.measure(*arguments(size))
            yield Point.of("payload", DURABLE.name, size, measured)
    for size in PAYLOADS:
        measured = MEMORY.alone(MEMORY_URL, *arguments(size))
        yield Point.of("payload", MEMORY.name, size, measured)


def processes(broker: Broker, seconds: str) -> Iterator[Point]:
    """A method that does next to nothing, and one that computes for 1 ms."""
    for way, busy in (("nothing to do", ()), ("1 ms of computing", ("--busy",))):
        for number in PROCESSES:
            with DURABLE.serving(broker, processes=number) as serving:
                measured = serving.measure(
                    "--in-flight", USUAL, "--latencies", "--seconds", seconds, *busy
                )
            yield Point.of("processes", way, number, measured)


def services(broker: Broker, seconds: str) -> Iterator[Point]:
    """Each call goes to the next service."""
    arguments = ("--in-flight", USUAL, "--latencies", "--seconds", seconds)
    for number in SERVICES:
        with DURABLE.serving(broker, "--services", str(number)) as serving:
            measured = serving.measure(*arguments)
            token = serving.token
        broker.delete([f"rpc-bench_{token}_y{each}" for each in range(number)])
        yield Point.of("services", DURABLE.name, number, measured, serving.ready * 1000)
    for number in SERVICES:
        measured = MEMORY.alone(MEMORY_URL, "--services", str(number), *arguments)
        yield Point.of("services", MEMORY.name, number, measured)


SERIES: dict[str, Callable[[Broker, str], Iterator[Point]]] = {
    "in flight": in_flight,
    "payload": payload,
    "processes": processes,
    "services": services,
}
TITLES = {
    "in flight": "Calls in flight: 10 bytes, one server process",
    "payload": f"Length of the argument in bytes: {FEW} in flight, one server process",
    "processes": f"Server processes: 10 bytes, {USUAL} in flight",
    "services": f"Services in one process: 10 bytes, {USUAL} in flight",
}


def over_the_limit(broker: Broker) -> str:
    """What a caller is told whose argument is larger than MAX_MESSAGE_SIZE."""
    limited = ("--payload", "2000000", "--max-message-size", "1000000", "--in-flight", "1")
    with DURABLE.serving(broker) as serving:
        try:
            serving.measure(*limited, "--seconds", "0.1")
        except Failed as error:
            return str(error).strip().splitlines()[-1]
    raise Failed("a message larger than MAX_MESSAGE_SIZE went through")


# Reporting


def tables(points: list[Point]) -> Iterator[str]:
    heading = "calls/s | CPU client | server | broker, ms | p50 | p99, ms | server MB"
    for series, title in TITLES.items():
        rows = [point for point in points if point.series == series]
        if not rows:
            continue
        ready = any(point.ready_ms for point in rows)
        yield f"## {title}\n"
        yield f"| | {series} | {heading} |{' ready, ms |' if ready else ''}"
        yield "| --- |" + " ---: |" * (9 if ready else 8)
        for point in rows:
            cells = [
                point.way,
                f"{point.x:,}",
                _text(point.rate, 0 if point.rate >= 100 else 1),
                *(_text(each, 3) for each in (point.cpu_client, point.cpu_server)),
                _text(point.cpu_broker, 3),
                *(_text(each and each / 1000, 2) for each in (point.p50_us, point.p99_us)),
                _text(point.server_mb, 0),
                *([_text(point.ready_ms, 0)] if ready else []),
            ]
            yield f"| {' | '.join(cells)} |"
        yield ""


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def write(points: list[Point], notes: list[str], into: Path) -> None:
    """scaling.csv, scaling.md and the plots."""
    into.mkdir(parents=True, exist_ok=True)
    data = into / "scaling.csv"
    with data.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(asdict(points[0]))
        writer.writerows(astuple(point) for point in points)
    text = "\n".join(["# How the cost of a call grows\n", *notes, *tables(points)])
    (into / "scaling.md").write_text(text)
    plotting = [python_of("plots"), HERE / "plots.py", data, into]
    subprocess.run(plotting, check=True, env=environment())
    print(f"wrote {into}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--seconds", default="3", help="per point")
    parser.add_argument("--broker", metavar="URL", help="wins over the environment")
    parser.add_argument("--into", type=Path, default=HERE / "results", metavar="DIRECTORY")
    options = parser.parse_args()
    python_of("plots")  # better now than after ten minutes
    broker = Broker.find(options.broker)
    notes = [f"{describe_machine()}; uvloop; {options.seconds} s per point.\n"]
    points = []
    for series in options.only:
        for point in SERIES[series](broker, options.seconds):
            print(f"{series} {point.x:,}: {point.rate:,.0f} calls/s, {point.way}", file=sys.stderr)
            points.append(point)
    if "payload" in options.only:
        told = over_the_limit(broker)
        notes.append(f"With `MAX_MESSAGE_SIZE: 1000000`, 2 MB are refused:\n\n    {told}\n")
    write(points, notes, options.into)


if __name__ == "__main__":
    try:
        main()
    except (Failed, Unavailable) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None

"""
Compares aiorpc with its peers on one machine in one run: calls per second, CPU per call, latency.

    python benchmarks/compare.py                            all of it, some 15 minutes
    python benchmarks/compare.py --rounds 1 --seconds 1     a quick look
    python benchmarks/compare.py --peers aiorpc grpc        those whose names contain these words
    python benchmarks/compare.py --with faststream loop     and those that are left out otherwise

Needs Python 3.11 with venv and pip, and RabbitMQ: the server of AIORPC_BENCH_AMQP_URI, or the one
of `make servers`. Each peer has its own virtual environment with pinned versions
(``environments.py``). Peers take turns in each round, and the output has medians. ``--keep FILE``
saves every measurement, and ``--report FILE`` prints a saved file again. README.md explains the
figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contest import Broker, Failed, Measured, Peer, describe_machine
from environments import Unavailable, python_of

#: What is measured: mode -> arguments of the client.
MODES: dict[str, tuple[str, ...]] = {
    "one caller": ("--in-flight", "1"),
    "100 in flight": ("--in-flight", "100"),
    "two hops": ("--in-flight", "100", "--two-hops"),
    "10 KB": ("--in-flight", "100", "--payload", "10240"),
}

QUEUES = ("rpc-bench_{token}_x", "rpc-bench_{token}_y")


def _ours(name: str, *arguments: str) -> Peer:
    return Peer(name, "aiorpc", "ours", arguments, QUEUES)


PATTERNS = Peer("aio-pika patterns.RPC", "aio-pika", "patterns_rpc")
NAMEKO = Peer("Nameko 2.14.1", "nameko", "nameko_rpc", left_behind=QUEUES)
GRPC = Peer("grpc.aio (no broker)", "grpc", "grpc_aio")
HTTP = Peer("FastAPI + aiohttp (no broker)", "fastapi", "fastapi_aiohttp")
DURABLE = _ours("aiorpc durable")
FAST = _ours("aiorpc fast", "--profile", "fast")
DURABLE_10 = _ours("aiorpc durable, 10 workers", "--max-workers", "10")
FAST_10 = _ours("aiorpc fast, 10 workers", "--profile", "fast", "--max-workers", "10")
PEERS = (PATTERNS, NAMEKO, GRPC, HTTP, DURABLE, FAST, DURABLE_10, FAST_10)

FASTSTREAM = "faststream", "faststream_rpc"
OPTIONAL = (
    Peer("FastStream request", *FASTSTREAM),
    Peer("FastStream, own reply queue", *FASTSTREAM, ("--reply-queue",)),
    Peer(
        "aio-pika patterns.RPC, asyncio's loop", "aio-pika", "patterns_rpc", ("--loop", "asyncio")
    ),
    _ours("aiorpc durable, asyncio's loop", "--loop", "asyncio"),
)


class Results:
    """Measurements of many rounds, and their medians."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], list[Measured]] = {}

    def add(self, peer: str, mode: str, measured: Measured) -> None:
        self._runs.setdefault((peer, mode), []).append(measured)

    def peers(self) -> list[str]:
        return list(dict.fromkeys(peer for peer, _ in self._runs))

    def median(self, peer: str, mode: str, field: str) -> float | None:
        values = [run[field] for run in self._runs.get((peer, mode), ()) if run[field] is not None]
        return statistics.median(values) if values else None

    def p50(self, peer: str) -> float | None:
        """Of one caller, in microseconds."""
        return self.median(peer, "one caller", "p50_us")

    def rate(self, peer: str, mode: str = "100 in flight") -> float | None:
        """Calls per second."""
        return self.median(peer, mode, "rate")

    def cpu(self, peer: str, mode: str = "100 in flight") -> float | None:
        """Of client and server, in milliseconds per call."""
        client, server = (self.median(peer, mode, each) for each in ("cpu_client", "cpu_server"))
        return None if client is None or server is None else client + server


@dataclass(frozen=True)
class Goal:
    """
    One of issue 6: a ratio of ours to a peer's.

    ``durable`` and ``fast`` are the bounds for the profiles; ``None`` is none. Ratios of costs are
    to be at most that, ratios of rates (``more_is_better``) at least.
    """

    text: str
    figure: Callable[[Results, str], float | None]
    peer: Peer
    durable: float | None
    fast: float | None
    more_is_better: bool = False

    def judge(self, results: Results, ours: str) -> tuple[float, float, bool] | None:
        """(the ratio, its bound, whether it is met), or ``None``: there is nothing to compare."""
        bound = self.fast if "fast" in ours else self.durable
        mine, theirs = self.figure(results, ours), self.figure(results, self.peer.name)
        if bound is None or not mine or not theirs:
            return None
        ratio = mine / theirs
        return ratio, bound, ratio >= bound if self.more_is_better else ratio <= bound


def _rate_in(mode: str) -> Callable[[Results, str], float | None]:
    return lambda results, peer: results.rate(peer, mode)


GOALS = (
    Goal("CPU per call, of patterns.RPC's", Results.cpu, PATTERNS, 1 / 8, 1 / 12),
    Goal("CPU per call, of grpc.aio's", Results.cpu, GRPC, 1 / 4, 1 / 5),
    Goal("calls/s, times patterns.RPC's", Results.rate, PATTERNS, 4, 5, True),
    Goal("calls/s, times Nameko's", Results.rate, NAMEKO, 10, 12, True),
    Goal("calls/s, times FastAPI's", Results.rate, HTTP, None, 1, True),
    Goal("p50 of one caller, of patterns.RPC's", Results.p50, PATTERNS, 0.8, 0.55),
    Goal("two hops, calls/s, times patterns.RPC's", _rate_in("two hops"), PATTERNS, 4, 5, True),
    Goal("10 KB, calls/s, times patterns.RPC's", _rate_in("10 KB"), PATTERNS, 4, 5, True),
)


# Measuring


def run_all(
    peers: Sequence[Peer], broker: Broker, rounds: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Every measurement of every peer, as it is made."""
    for number in range(rounds):
        # Every other round backwards: who comes first is not always the same.
        for peer in peers if number % 2 == 0 else reversed(peers):
            print(f"round {number + 1} of {rounds}: {peer.name}", file=sys.stderr)
            try:
                yield from run_one(peer, broker, seconds)
            except Failed as error:
                print(f"{peer.name} failed: {error}", file=sys.stderr)


def run_one(peer: Peer, broker: Broker, seconds: float) -> Iterator[dict[str, Any]]:
    with peer.serving(broker) as serving:
        for mode, arguments in MODES.items():
            measured = serving.measure("--seconds", str(seconds), *arguments)
            yield {"peer": peer.name, "mode": mode, **measured}


def chosen(words: Sequence[str], more: Sequence[str]) -> list[Peer]:
    """The usual peers, or those whose names contain one of *words*; and optional ones by *more*."""
    usual = [peer for peer in PEERS if not words or _matches(peer, words)]
    return usual + [peer for peer in OPTIONAL if _matches(peer, more)]


def _matches(peer: Peer, words: Iterable[str]) -> bool:
    return any(word.lower() in peer.name.lower() for word in words)


def available(peers: Sequence[Peer]) -> list[Peer]:
    """Those whose environments can be had; why not, for the others, goes to stderr."""
    found = []
    for peer in peers:
        try:
            python_of(peer.environment)
        except Unavailable as error:
            print(f"without {peer.name}: {error}", file=sys.stderr)
        else:
            found.append(peer)
    return found


# Reporting

COLUMNS = (
    "peer",
    "1 caller: p50 us",
    "100 in flight: calls/s",
    "CPU ms, client + server",
    "broker",
    "two hops: calls/s",
    "10 KB: calls/s",
    "server MB",
)


def table(results: Results) -> Iterator[str]:
    """The figures of all peers, as a table of Markdown."""
    rows = [COLUMNS]
    for peer in results.peers():

        def median(field: str, peer: str = peer) -> float | None:
            return results.median(peer, "100 in flight", field)

        cpu = f"{_text(median('cpu_client'), 3)} + {_text(median('cpu_server'), 3)}"
        rows.append(
            (
                peer,
                _text(results.p50(peer)),
                _text(results.rate(peer)),
                cpu,
                _text(median("cpu_broker"), 3),
                _text(results.rate(peer, "two hops")),
                _text(results.rate(peer, "10 KB")),
                _text(results.median(peer, "10 KB", "server_peak_mb")),
            )
        )
    return _markdown(rows)


def goals(results: Results) -> Iterator[str]:
    """Which goals are met, by each variant of ours that was measured."""
    ours = [peer for peer in results.peers() if peer.startswith("aiorpc")]
    verdicts = [(goal.text, *(_verdict(goal, results, each) for each in ours)) for goal in GOALS]
    return _markdown([("goal", *ours), *verdicts])


def _verdict(goal: Goal, results: Results, ours: str) -> str:
    judged = goal.judge(results, ours)
    if judged is None:
        return "-"
    ratio, bound, met = judged
    if goal.more_is_better:
        return f"{ratio:.2f}, {'met' if met else 'MISSED'}: at least {bound:g}"
    if bound <= 0.25:  # such as an eighth
        return f"1/{1 / ratio:.1f}, {'met' if met else 'MISSED'}: at most 1/{1 / bound:.0f}"
    return f"{ratio:.2f}, {'met' if met else 'MISSED'}: at most {bound:g}"


def _text(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _markdown(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield f"| {' | '.join(cells)} |"
        if number == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def report(header: str, results: Results) -> str:
    return "\n".join([header, "", *table(results), "", *goals(results), ""])


# The command


def main() -> None:
    options = parse_arguments()
    if options.report:
        header, *lines = options.report.read_text().splitlines()
        runs: Iterable[dict[str, Any]] = map(json.loads, lines)
    else:
        peers = available(chosen(options.peers, options.include))
        broker = Broker.find(options.broker)
        header = (
            f"Medians of {options.rounds} interleaved rounds of {options.seconds:g} s; uvloop "
            f"unless said otherwise. {describe_machine()}."
        )
        runs = run_all(peers, broker, options.rounds, options.seconds)
    results = Results()
    with _keeping(options.keep) as keep:
        keep(header)
        for run in runs:
            keep(json.dumps(run))
            results.add(run["peer"], run["mode"], run)
    print(report(header, results))


class _keeping:  # noqa: N801 - a context manager that reads like a word
    """Gives what writes a line to the file, if there is one."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("w") if path else None

    def __enter__(self) -> Callable[[str], None]:
        return self._write

    def __exit__(self, *exc_info: object) -> None:
        if self._file:
            self._file.close()

    def _write(self, line: str) -> None:
        if self._file:
            print(line, file=self._file, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--with", dest="include", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="per measurement")
    parser.add_argument("--broker", metavar="URL", help="wins over the environment")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="every single measurement")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print what was kept there")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (Failed, Unavailable) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None

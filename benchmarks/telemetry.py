"""
What the middleware for telemetry costs: CPU of a call with ``tracing`` and ``metrics``.

    python benchmarks/telemetry.py                      11 rounds of 10,000 calls
    python benchmarks/telemetry.py --rounds 5 --calls 20000
    python benchmarks/telemetry.py --alone              the middleware alone, without calls

Client and service run in one process on ``memory://``, so a call has two spans: one at the caller,
one at the service. Each figure is a process of its own. The processes take turns in each round, and
every second round runs in reverse order. CPU is the user and system time of the process. The table
has medians and minima of the rounds, and what each side adds to a call without middleware.

Spans go to the SDK's batch processor, whose exporter discards them: an exporter costs more, in a
thread of its own. Unsampled is a sampler with ``parentbased_traceidratio`` 0. The garbage collector
runs as seldom as in ``aiorpc run``. The last lines are what the SDK alone takes for a span.

With ``--alone``, a loop calls the middleware with the same ``Call`` and a handler that returns at
once. The figures are minima of many short runs, so that they are steady on a busy machine too. They
leave out what a call with any middleware costs more, and what its trace costs on the wire.

Needs ``pip install -e '.[opentelemetry,prometheus]' opentelemetry-sdk``, and no broker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

IN_FLIGHT = 100
#: Where the middleware is: client, server.
SIDES = {"client": (True, False), "service": (False, True), "both sides": (True, True)}
#: The name of a case, its middleware, and where the middleware is.
CASES: dict[str, tuple[str, bool, bool]] = {
    "no middleware": ("none", False, False),
    "a middleware that does nothing, both sides": ("empty", True, True),
    "tracing without an SDK, both sides": ("no-sdk", True, True),
    **{
        f"{name}, {side}": (name.split()[-1], *where)
        for name in ("tracing unsampled", "tracing sampled", "metrics")
        for side, where in SIDES.items()
    },
    "metrics of several processes, both sides": ("metrics-files", True, True),
}


def middleware_of(kind: str) -> Sequence[Any]:
    if kind == "none":
        return []
    if kind == "empty":

        async def empty(call: Any, handler: Any) -> Any:
            return await handler(call)

        return [empty]
    if kind.startswith("metrics"):
        from aiorpc.middleware.prometheus import metrics

        return [metrics]
    from opentelemetry import trace

    from aiorpc.middleware.opentelemetry import Tracing

    if kind == "no-sdk":
        return [Tracing(trace.NoOpTracerProvider())]
    return [Tracing(provider_of(0.0 if kind == "unsampled" else 1.0))]


def provider_of(ratio: float) -> Any:
    """Return a tracer provider that samples this part of the traces."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    class Discard(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(ParentBasedTraceIdRatio(ratio))
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    return provider


async def measure(kind: str, client: bool, server: bool, calls: int) -> float:
    """Return the microseconds of CPU of a call."""
    from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
    from aiorpc.cli.app import COLLECT_AFTER

    gc.set_threshold(COLLECT_AFTER)

    class Echo:
        name = "echo"

        @rpc
        async def echo(self, value: str) -> str:
            return value

    used = middleware_of(kind)
    container = ServiceContainer(Echo, "memory://", middleware=used if server else [])
    proxy = ClusterRpcProxy("memory://", middleware=used if client else [])
    async with container, proxy as cluster:
        echo = cluster.echo.echo

        async def caller(count: int) -> None:
            for _ in range(count):
                await echo("hello")

        async def load(count: int) -> None:
            await asyncio.gather(*(caller(count // IN_FLIGHT) for _ in range(IN_FLIGHT)))

        await load(2000)
        gc.collect()
        began = time.process_time()
        await load(calls)
        return (time.process_time() - began) / calls * 1e6


def span_alone(ratio: float, calls: int) -> float:
    """Return the microseconds of CPU of a span that is started and ended, without a call."""
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind

    tracer = provider_of(ratio).get_tracer("benchmark")
    attributes = {"rpc.system.name": "nameko", "rpc.method": "echo/echo"}
    context = Context()
    began = time.process_time()
    for _ in range(calls):
        tracer.start_span("echo/echo", context, SpanKind.CLIENT, attributes).end()
    return (time.process_time() - began) / calls * 1e6


def alone(kind: str, side: str) -> float:
    """Return the microseconds that the middleware adds to a handler; the minimum of many runs."""
    from aiorpc.call import Call
    from aiorpc.context import Context, Deadline
    from aiorpc.entrypoints.rpc import Rpc
    from aiorpc.wire.message import Message

    async def handler(call: Any) -> None: ...

    (middleware,) = middleware_of(kind)
    deadline = Deadline(time.monotonic() + 600)
    call = Call("echo", "echo", ("hello",), context=Context(("a.b.c",), {}, deadline))
    if side == "service":
        headers = {"aiorpc-deadline": str(int(time.time() + 600) * 1000)}
        trace = f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{int(kind == 'sampled'):02x}"
        call = Call(
            *("echo", "echo", ("hello",)),
            context=Context(("a.b.c",), {"traceparent": trace}, deadline),
            id="echo.echo.1",
            entrypoint=Rpc(),
            message=Message(body=b"", headers=headers, expiration=600_000),
            received_at=time.monotonic(),
        )

    def best(wrapped: Any) -> float:
        def repeat() -> float:
            began = time.perf_counter()
            for _ in range(20):
                try:  # noqa: SIM105 - suppress() takes longer than what we measure
                    wrapped().send(None)
                except StopIteration:
                    pass
            return (time.perf_counter() - began) / 20 * 1e6

        return min(contextvars.copy_context().run(repeat) for _ in range(2000))

    return best(lambda: middleware(call, handler)) - best(lambda: handler(call))


def print_alone() -> None:
    print(f"load average {os.getloadavg()[0]:.2f}")
    print()
    print("| | caller, us | service, us |")
    print("| --- | --- | --- |")
    for name, kind in {
        "tracing unsampled": "unsampled",
        "tracing sampled": "sampled",
        "metrics": "metrics",
        "metrics of several processes": "metrics-files",
    }.items():
        found = [run(kind, 0, "--alone", side) for side in ("client", "service")]
        print(f"| {name} | {found[0]:.1f} | {found[1]:.1f} |")
    span = min(span_alone(1.0, 20) for _ in range(100))
    print(f"| the SDK's part: one sampled span | {span:.1f} | {span:.1f} |")


def run(case: str, calls: int, *options: str) -> float:
    kind = CASES[case][0] if case in CASES else case
    environment = {**os.environ}
    with tempfile.TemporaryDirectory() as folder:
        if kind == "metrics-files":
            environment["PROMETHEUS_MULTIPROC_DIR"] = folder
        command = [sys.executable, __file__, "--case", case, "--calls", str(calls), *options]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--alone", nargs="?", const="all", help="the middleware without calls")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case and options.alone:
        print(alone(options.case, options.alone))
        return
    if options.alone:
        print_alone()
        return
    if options.case:
        kind, client, server = CASES[options.case]
        print(asyncio.run(measure(kind, client, server, options.calls)))
        return
    found: dict[str, list[float]] = {case: [] for case in CASES}
    print(
        f"load average {os.getloadavg()[0]:.2f}, {options.rounds} rounds of {options.calls} calls"
    )
    for number in range(options.rounds):
        for case in list(CASES)[:: -1 if number % 2 else 1]:
            found[case].append(run(case, options.calls))
    print(f"load average {os.getloadavg()[0]:.2f} at the end")
    print()
    print("| | CPU a call, median (minimum), us | a side adds, median (minimum), us |")
    print("| --- | --- | --- |")
    first = found["no middleware"]
    for case, each in found.items():
        sides = sum(CASES[case][1:])
        added = "-"
        if sides:
            median = (statistics.median(each) - statistics.median(first)) / sides
            added = f"{median:.1f} ({(min(each) - min(first)) / sides:.1f})"
        print(f"| {case} | {statistics.median(each):.1f} ({min(each):.1f}) | {added} |")
    for name, ratio in (("unsampled", 0.0), ("sampled", 1.0)):
        spans = [span_alone(ratio, 3000) for _ in range(options.rounds)]
        text = f"{statistics.median(spans):.1f} ({min(spans):.1f})"
        print(f"| the SDK's part: one {name} span | {text} | - |")


if __name__ == "__main__":
    main()

"""
``aiorpc bench``: measures how fast a running service answers, and counts errors.

Connects, and prints the figures of ``measurement``. Imports rich to draw progress.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ...config import Settings
from ...exceptions import IncorrectSignature, MethodNotFound, RemoteError
from ...logs import one_line
from ..calls import Wanted, add_call, explain, wanted_of
from ..measurement import Figures, Measurement, Plan, percentile, report_of
from ..output import ExitCode, print_json
from ..parser import Parser, at_least_one, number, settings_for_server
from ..progress import progress
from ..serving import fastest_loop

__all__ = ["configure", "execute", "measure_service"]

#: The default limits of concurrent calls. With --rate, the rate is the real limit.
IN_FLIGHT, IN_FLIGHT_WITH_RATE = 10, 1000
#: Seconds between two updates of the progress on a terminal.
REFRESH = 0.25

ARGUMENTS = "SERVICE.METHOD [ARGS] [KWARGS]"

DESCRIPTION = """\
The first call only checks that the service answers. Then the measurement
starts, and repeats the same call. With --rate, the latency of a call counts
from its planned time. Ctrl-C ends the measurement, and prints its figures.
The exit code is 1 if a call failed."""

EXAMPLES = """\
  $ aiorpc bench service_x.remote_method '["hello"]'
  $ aiorpc bench orders.price '[42]' --in-flight 100 --duration 30
  $ aiorpc bench orders.price '[42]' --rate 200 --json | jq .latency_ms.p99
"""


def configure(parser: Parser) -> None:
    add_call(parser)
    most = f"The most calls at a time. (default: {IN_FLIGHT}; {IN_FLIGHT_WITH_RATE} with --rate)"
    rate = "Calls to make per second. (default: as fast as the service answers)"
    duration = "Seconds to measure. (default: 10)"
    parser.option("--in-flight -n N", most, type=at_least_one)
    parser.option("--rate -r PER_SECOND", rate, type=number(0.001, 1e6))
    parser.option("--duration -s SECONDS", duration, type=number(0.01), default=10.0)
    parser.option("--json", "Print JSON, for programs.")


def execute(arguments: argparse.Namespace) -> int:
    """Measure, print the figures, and return the exit status."""
    wanted = wanted_of(arguments)
    settings = settings_for_server(arguments, "bench")
    usual = IN_FLIGHT if arguments.rate is None else IN_FLIGHT_WITH_RATE
    plan = Plan(arguments.in_flight or usual, arguments.rate, arguments.duration)
    try:
        with asyncio.Runner(loop_factory=fastest_loop()) as runner:
            measured = runner.run(measure_service(settings, wanted, plan))
    except (MethodNotFound, IncorrectSignature) as error:
        return explain(wanted, error, debug=arguments.debug)
    report = report_of(arguments.target, measured)
    if arguments.json:
        print_json(report)
    else:
        _print(report)
    if measured.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if report.errors else ExitCode.OK


async def measure_service(settings: Settings, wanted: Wanted, plan: Plan) -> Measurement:
    """
    Connect, make one call, and then measure. A terminal shows the progress.

    Raises:
        AioRpcError: the first call could not be made, or was not answered. An error that the method
            raises is not raised here, but counted.
    """
    async with wanted.connected(settings) as call:
        with suppress(RemoteError):
            await call()
        measurement = Measurement(call, plan)
        with _ended_by_ctrl_c(measurement), _shown(measurement):
            await measurement.run()
    return measurement


@contextmanager
def _ended_by_ctrl_c(measurement: Measurement) -> Iterator[None]:
    """End the measurement at the first Ctrl-C. The second Ctrl-C raises ``KeyboardInterrupt``."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        measurement.interrupt()

    with suppress(NotImplementedError, ValueError, RuntimeError):
        loop.add_signal_handler(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        with suppress(NotImplementedError, ValueError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)


def _print(report: Figures) -> None:
    wanted = "" if report.rate is None else f", {report.rate:g} calls/s wanted"
    print(
        f"{report.target}: {report.calls:,} calls in {report.seconds:.1f} s, "
        f"{report.in_flight} in flight at most{wanted}"
    )
    print(f"  results  {report.results:,}, {report.results_per_second:,.0f} per second")
    if report.latency_ms is not None:
        figures = (f"{name} {value:.2f}" for name, value in report.latency_ms.items())
        print(f"  latency  {', '.join(figures)} ms")
    for name, failures in report.errors.items():
        share = failures.count / report.calls
        first = " ".join(failures.first.split())
        print(f"  errors   {failures.count:,} ({share:.1%}) {one_line(f'{name}: {first}')}")


@contextmanager
def _shown(measurement: Measurement) -> Iterator[None]:
    """Show the time and the latest figures on stderr, if stderr is a terminal."""
    with progress("{task.completed:4.0f} s", measurement.plan.duration) as show:
        if show is None:
            yield
            return

        async def keep_showing() -> None:
            seen, before = 0, measurement.elapsed
            while True:
                await asyncio.sleep(REFRESH)
                elapsed = measurement.elapsed
                now = _now(measurement, measurement.latencies[seen:], elapsed - before)
                show(elapsed, now)
                seen, before = len(measurement.latencies), elapsed

        showing = asyncio.ensure_future(keep_showing())
        try:
            yield
        finally:
            showing.cancel()


def _now(measurement: Measurement, last: Sequence[float], seconds: float) -> str:
    """Describe the *last* latencies, measured in the last *seconds*."""
    text = f"{len(last) / seconds:8,.0f} results/s"
    if last:
        ordered = sorted(last)
        p50, p99 = (percentile(ordered, percent) * 1000 for percent in (50, 99))
        text += f"  p50 {p50:.2f}  p99 {p99:.2f} ms"
    if measurement.failures:
        text += f"  [red]{measurement.failed:,} errors[/red]"
    return text

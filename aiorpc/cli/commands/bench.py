"""
``aiorpc bench``: how fast a running service answers, and how many of its answers are errors.

Two ways to load it. Without ``--rate`` each of so many callers makes the next call when the last
one was answered: that finds what the service can do. With ``--rate`` calls fall due at fixed times,
whether or not the earlier ones were answered: that is how users come. There latency counts from
when a call was due, so that what waits for its turn behind a slow call counts, too.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import logging
import math
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import msgspec
import typer

from ...calling.standalone import ClusterRpcProxy
from ...config import Settings
from ...exceptions import IncorrectSignature, MethodNotFound, RemoteError
from ..calling import (
    Args,
    Context,
    Kwargs,
    Target,
    Timeout,
    arguments_of,
    context_of,
    in_words,
    target_of,
)
from ..exit_codes import ExitCode, exit_code_of
from ..options import Broker, ConfigFile, Debug, Define, finite
from ..output import print_error, print_json
from ..serving import fastest_loop
from ..settings import require_server, settings_of
from .call import CONNECT_TIMEOUT

__all__ = ["bench"]

#: Calls at a time unless told otherwise; with a rate it is the rate that limits.
IN_FLIGHT, IN_FLIGHT_WITH_RATE = 10, 1000
#: Seconds between two looks at what goes on.
REFRESH = 0.25


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured: *in_flight* calls at a time at most, *rate* per second, *duration* in s."""

    in_flight: int
    rate: float | None
    duration: float


class Failures(msgspec.Struct):
    """Calls that ended with an error of one type; ``first`` is what the first of them said."""

    count: int
    first: str


class Latency(msgspec.Struct):
    """Of the calls that were answered with a result, in milliseconds."""

    min: float
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Report(msgspec.Struct):
    """What came of it. ``seconds`` go from the first call to the last answer."""

    target: str
    in_flight: int
    rate: float | None
    seconds: float
    calls: int
    results: int
    results_per_second: float
    latency_ms: Latency | None
    errors: dict[str, Failures]


def bench(
    target: Target,
    args: Args = "[]",
    kwargs: Kwargs = "{}",
    in_flight: Annotated[
        int | None,
        typer.Option(
            "--in-flight",
            "-n",
            metavar="N",
            min=1,
            show_default=f"{IN_FLIGHT}; {IN_FLIGHT_WITH_RATE} with --rate",
            help="Calls at a time, at most.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            "-r",
            metavar="PER_SECOND",
            min=0.001,
            max=1e6,
            callback=finite,
            show_default="as fast as it answers",
            help="Make so many calls per second.",
        ),
    ] = None,
    duration: Annotated[
        float,
        typer.Option(
            "--duration", "-s", metavar="SECONDS", min=0.01, callback=finite, help="For so long."
        ),
    ] = 10.0,
    timeout: Timeout = None,
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    config: ConfigFile = None,
    define: Define = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """
    Call a method again and again, and print how fast it answered.

    One call is made first, to see that it can be. Then it is measured. With
    --rate, latency counts from when a call was due. Ctrl-C ends it early, with
    what was found so far. The exit code is 1 if a call failed.
    """
    service, method = target_of(target)
    positional, named = arguments_of(args, kwargs)
    context_data = context_of(context)
    settings = settings_of(config, define, broker)
    require_server(settings, "bench")
    logging.getLogger("aiorpc").setLevel(logging.CRITICAL)
    usual = IN_FLIGHT if rate is None else IN_FLIGHT_WITH_RATE
    plan = Plan(in_flight=in_flight or usual, rate=rate, duration=duration)
    measuring = measure_service(
        settings,
        (service, method),
        positional,
        named,
        plan,
        timeout=timeout,
        context_data=context_data,
    )
    try:
        with asyncio.Runner(loop_factory=fastest_loop()) as runner:
            measured = runner.run(measuring)
    except (MethodNotFound, IncorrectSignature) as error:
        if debug:
            raise
        print_error(in_words(service, method, error))
        raise typer.Exit(exit_code_of(error)) from None
    report = report_of(target, measured)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if measured.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if report.errors:
        raise typer.Exit(ExitCode.FAILED)


async def measure_service(
    settings: Settings,
    target: tuple[str, str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    plan: Plan,
    *,
    timeout: float | None = None,
    context_data: Mapping[str, Any] | None = None,
) -> Measurement:
    """
    Connect, make one call, and then measure, showing on a terminal how it goes.

    Raises:
        AioRpcError: why the one call could not be made or answered. That the method itself raises
            is no reason to stop: it is measured.
    """
    connecting = CONNECT_TIMEOUT if timeout is None else min(timeout, CONNECT_TIMEOUT)
    limit = settings.rpc_timeout if timeout is None else timeout
    cluster = ClusterRpcProxy(settings, timeout=connecting, context_data=context_data)
    async with cluster as services:
        service, method = target
        called = services[service][method].with_options(timeout=limit)
        with suppress(RemoteError):
            await called(*args, **kwargs)
        measurement = Measurement(lambda: called(*args, **kwargs), plan)
        with _ended_by_ctrl_c(measurement), _shown(measurement):
            await measurement.run()
    return measurement


class Measurement:
    """Makes calls as the plan says, and remembers how each of them went."""

    def __init__(self, call: Callable[[], Awaitable[Any]], plan: Plan) -> None:
        self._call = call
        self._stop = asyncio.Event()
        self.plan = plan
        self.began = self.ended = time.perf_counter()
        #: Seconds, one for each result.
        self.latencies = array.array("d")
        self.failures: dict[str, Failures] = {}
        self.interrupted = False

    @property
    def elapsed(self) -> float:
        """Seconds from the beginning until now, or to the end."""
        return (self.ended or time.perf_counter()) - self.began

    @property
    def failed(self) -> int:
        return sum(each.count for each in self.failures.values())

    def interrupt(self) -> None:
        """Begin no more calls."""
        self.interrupted = True
        self._stop.set()

    async def run(self) -> None:
        """Return when the time is over and all calls were answered."""
        self.began, self.ended = time.perf_counter(), 0.0
        due = self._due_times()
        async with asyncio.TaskGroup() as callers:
            for _ in range(self.plan.in_flight):
                callers.create_task(self._keep_calling(due))
        self.ended = time.perf_counter()

    def _due_times(self) -> Iterator[float]:
        """When the next call is due, until the time is over. All callers take from this."""
        rate, began = self.plan.rate, self.began
        end = began + self.plan.duration
        due = began
        for number in itertools.count():
            due = time.perf_counter() if rate is None else began + number / rate
            if due >= end or self._stop.is_set():
                return
            yield due

    async def _keep_calling(self, due_times: Iterator[float]) -> None:
        for due in due_times:
            began = due
            early = due - time.perf_counter()
            if early > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(early):
                        await self._stop.wait()
                        return
                began = time.perf_counter()  # how late a timer fires is not the service's fault
            try:
                await self._call()
            except Exception as error:  # noqa: BLE001 - registered errors are of any class
                self._count(error)
            else:
                self.latencies.append(time.perf_counter() - began)

    def _count(self, error: Exception) -> None:
        name = error.exc_type if isinstance(error, RemoteError) else type(error).__name__
        failures = self.failures.get(name)
        if failures is None:
            text = error.value if isinstance(error, RemoteError) else error
            failures = self.failures[name] = Failures(0, str(text))
        failures.count += 1


@contextmanager
def _ended_by_ctrl_c(measurement: Measurement) -> Iterator[None]:
    """The first Ctrl-C ends the measurement; the second one is Python's again."""
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


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that *percent* of all are not above. *ordered* is not empty."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def report_of(target: str, measured: Measurement) -> Report:
    """The figures of a measurement that has ended."""
    latencies = sorted(measured.latencies)
    results, seconds = len(latencies), measured.elapsed
    return Report(
        target,
        measured.plan.in_flight,
        measured.plan.rate,
        round(seconds, 3),
        results + measured.failed,
        results,
        round(results / seconds, 1) if seconds else 0.0,
        _latency(latencies) if latencies else None,
        dict(sorted(measured.failures.items(), key=lambda item: -item[1].count)),
    )


def _latency(ordered: Sequence[float]) -> Latency:
    return Latency(
        *(
            round(seconds * 1000, 3)
            for seconds in (
                ordered[0],
                sum(ordered) / len(ordered),
                percentile(ordered, 50),
                percentile(ordered, 95),
                percentile(ordered, 99),
                ordered[-1],
            )
        )
    )


def _print(report: Report) -> None:
    wanted = "" if report.rate is None else f", {report.rate:g} calls/s wanted"
    typer.echo(
        f"{report.target}: {report.calls:,} calls in {report.seconds:.1f} s, "
        f"{report.in_flight} in flight at most{wanted}"
    )
    typer.echo(f"  results  {report.results:,}, {report.results_per_second:,.0f} per second")
    if (latency := report.latency_ms) is not None:
        figures = (f"{name} {getattr(latency, name):.2f}" for name in latency.__struct_fields__)
        typer.echo(f"  latency  {', '.join(figures)} ms")
    for name, failures in report.errors.items():
        share = failures.count / report.calls
        first = " ".join(failures.first.split())
        typer.echo(f"  errors   {failures.count:,} ({share:.1%}) {name}: {first}")


# What a terminal shows meanwhile


@contextmanager
def _shown(measurement: Measurement) -> Iterator[None]:
    """On stderr, if that is a terminal: how far it is, and how the last moments were."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    progress = Progress(
        TextColumn("{task.completed:4.0f} s"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[now]}"),
        console=Console(stderr=True),
        auto_refresh=False,  # that would be a thread
        transient=True,
    )
    with progress:
        bar = progress.add_task("", total=measurement.plan.duration, now="")

        def show(now: str) -> None:
            progress.update(bar, completed=measurement.elapsed, now=now, refresh=True)

        showing = asyncio.ensure_future(_keep_showing(measurement, show))
        try:
            yield
        finally:
            showing.cancel()


async def _keep_showing(measurement: Measurement, show: Callable[[str], None]) -> None:
    seen, before = 0, measurement.elapsed
    while True:
        await asyncio.sleep(REFRESH)
        elapsed = measurement.elapsed
        show(_now(measurement, measurement.latencies[seen:], elapsed - before))
        seen, before = len(measurement.latencies), elapsed


def _now(measurement: Measurement, last: Sequence[float], seconds: float) -> str:
    """What the last *seconds* were like."""
    text = f"{len(last) / seconds:8,.0f} results/s"
    if last:
        ordered = sorted(last)
        p50, p99 = (percentile(ordered, percent) * 1000 for percent in (50, 99))
        text += f"  p50 {p50:.2f}  p99 {p99:.2f} ms"
    if measurement.failures:
        text += f"  [red]{measurement.failed:,} errors[/red]"
    return text

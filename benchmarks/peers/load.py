"""
The work that every peer does, and how it is measured. Standard library only: this runs in the
virtual environment of each peer, Nameko's included.

Service y answers ``hello(value)`` with ``value + "-y"``; service x answers it with what y says to
``value + "-x"``. Both run in one server process; all callers are in one client process.

A peer is a module of this package that calls :func:`main`, or :func:`main_blocking`:

    python -m peers.NAME server [options]    prints READY, and serves until SIGTERM
    python -m peers.NAME client [options]    prints what it measured, one line of JSON per lap
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from . import procfs

__all__ = ["READY", "Options", "Window", "main", "main_blocking", "percentile"]

READY = "READY"
#: Seconds of load before anything is measured.
WARM_UP = 0.5

Options = argparse.Namespace
Call = Callable[[str], Awaitable[str]]
Serve = Callable[[Options], AbstractAsyncContextManager[object]]
Connect = Callable[[Options], AbstractAsyncContextManager[Call]]
#: Runs a command line in an event loop of the kind that it asks for.
Run = Callable[[Coroutine[Any, Any, None]], None]


def parser() -> argparse.ArgumentParser:
    """The options of all peers; a peer adds its own."""
    found = argparse.ArgumentParser()
    found.add_argument("role", choices=["server", "client"])
    found.add_argument("--broker", default="amqp://guest:guest@127.0.0.1:5672/")
    found.add_argument("--token", default="bench", help="makes names of queues this run's own")
    found.add_argument("--port", type=int, default=0, help="of peers without a broker")
    found.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop")
    found.add_argument("--two-hops", action="store_true", help="client: ask x, which asks y")
    found.add_argument("--payload", type=int, default=10, help="client: length of the value")
    found.add_argument("--in-flight", type=int, default=100, help="client: calls at a time")
    found.add_argument("--seconds", type=float, default=4, help="client: measure for so long")
    found.add_argument("--calls", type=int, help="client: stop after so many calls")
    found.add_argument("--laps", type=int, default=1, help="client: measure so many times")
    found.add_argument("--latencies", action="store_true", help="client: time every call")
    found.add_argument("--server-pid", type=int, nargs="*", default=[])
    found.add_argument("--broker-pid", type=int, nargs="*", default=[])
    return found


def service_names(options: Options) -> tuple[str, str]:
    """The names of x and y in this run."""
    return f"bench_{options.token}_x", f"bench_{options.token}_y"


def main(serve: Serve, connect: Connect, arguments: argparse.ArgumentParser | None = None) -> None:
    """
    Run the server or the client of a peer, as the command line says.

    Args:
        serve: serves inside its block, whose beginning means that calls are taken.
        connect: gives what calls x (``options.two_hops``) or y.
        arguments: :func:`parser`, with what the peer added.
    """
    options = (arguments or parser()).parse_args()
    if options.role == "server":
        _run(_serve(serve(options)), options.loop)
    else:
        _run(_measure(connect(options), options), options.loop)


def _run(coroutine: Coroutine[Any, Any, None], loop: str) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(coroutine)
    else:
        asyncio.run(coroutine)


async def _serve(serving: AbstractAsyncContextManager[object]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serving:
        print(READY, flush=True)
        await stop.wait()


async def _measure(connecting: AbstractAsyncContextManager[Call], options: Options) -> None:
    async with connecting as call:
        _check(await call("v"), options)
        load = Load(call, options)
        await load.run(WARM_UP)
        for _ in range(options.laps):
            load.forget()
            window = Window(options.server_pid, options.broker_pid)
            await load.run(options.seconds, options.calls)
            print(json.dumps(window.close(load.calls, load.latencies)), flush=True)


def _check(answer: str, options: Options) -> None:
    wanted = "v-x-y" if options.two_hops else "v-y"
    if answer != wanted:
        raise SystemExit(f"the answer to 'v' was {answer!r} instead of {wanted!r}")


class Load:
    """So many callers, each with one call at a time. Wrong answers end the program."""

    def __init__(self, call: Call, options: Options) -> None:
        self._call = call
        self._in_flight = options.in_flight
        self._value = "v" * options.payload
        self._length = options.payload + len("-x-y" if options.two_hops else "-y")
        self._timed = options.latencies or options.in_flight == 1
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.calls = 0
        self.latencies: list[float] = []

    async def run(self, seconds: float, calls: int | None = None) -> None:
        """Call for so many seconds, or until so many calls were made."""
        caller = self._timing_caller if self._timed else self._caller
        end = time.perf_counter() + seconds
        left = itertools.count() if calls is None else iter(range(calls))
        await asyncio.gather(*(caller(end, left) for _ in range(self._in_flight)))

    async def _caller(self, end: float, left: Iterable[int]) -> None:
        call, value, length, clock = self._call, self._value, self._length, time.perf_counter
        for _ in left:
            if len(await call(value)) != length:
                raise SystemExit("an answer was of another length")
            self.calls += 1
            if clock() > end:
                return

    async def _timing_caller(self, end: float, left: Iterable[int]) -> None:
        call, value, length, clock = self._call, self._value, self._length, time.perf_counter
        before = clock()
        for _ in left:
            if len(await call(value)) != length:
                raise SystemExit("an answer was of another length")
            after = clock()
            self.latencies.append(after - before)
            self.calls += 1
            if after > end:
                return
            before = after


def main_blocking(serve: Callable[[Options], None], connect: Callable[[Options], Any]) -> None:
    """
    The same for peers without asyncio.

    Args:
        serve: prints READY when calls are taken, and serves for ever.
        connect: gives ``batch(value, n)``, which has *n* calls in flight and returns the answers.
    """
    options = parser().parse_args()
    if options.role == "server":
        serve(options)
        return
    batch = connect(options)
    _check(batch("v", 1)[0], options)
    _run_batches(batch, options, WARM_UP)
    window = Window(options.server_pid, options.broker_pid)
    calls, latencies = _run_batches(batch, options, options.seconds)
    print(json.dumps(window.close(calls, latencies)), flush=True)


def _run_batches(
    batch: Callable[[str, int], Sequence[str]], options: Options, seconds: float
) -> tuple[int, list[float]]:
    value, clock = "v" * options.payload, time.perf_counter
    calls, latencies = 0, []
    before = clock()
    end = before + seconds
    while before < end and calls < (options.calls or float("inf")):
        batch(value, options.in_flight)
        after = clock()
        if options.in_flight == 1:
            latencies.append(after - before)
        calls += options.in_flight
        before = after
    return calls, latencies


class Window:
    """CPU and time from here to :meth:`close`: of this process, its servers, and the broker."""

    def __init__(self, server_pids: Sequence[int], broker_pids: Sequence[int]) -> None:
        self._servers = [pid for root in server_pids for pid in procfs.with_children(root)]
        self._brokers = list(broker_pids)
        self._before = self._look()

    def _look(self) -> tuple[float, float, float | None, float | None]:
        return (
            time.perf_counter(),
            time.process_time(),
            procfs.cpu_seconds(self._servers),
            procfs.cpu_seconds(self._brokers),
        )

    def close(self, calls: int, latencies: list[float]) -> dict[str, float | None]:
        """
        What was measured: ``cpu_*`` in ms per call, ``p50_us`` and ``p99_us`` in microseconds,
        ``server_mb`` and ``client_mb`` memory now, ``server_peak_mb`` at its peak. ``None`` is what
        could not be seen.
        """
        elapsed, client, server, broker = (
            None if before is None or after is None else after - before
            for before, after in zip(self._before, self._look(), strict=True)
        )
        assert elapsed is not None
        latencies.sort()
        return {
            "calls": calls,
            "seconds": elapsed,
            "rate": calls / elapsed,
            "cpu_client": _per_call(client, calls),
            "cpu_server": _per_call(server, calls) if self._servers else None,
            "cpu_broker": _per_call(broker, calls) if self._brokers else None,
            "p50_us": percentile(latencies, 50),
            "p99_us": percentile(latencies, 99),
            "server_mb": procfs.resident_mb(self._servers) if self._servers else None,
            "server_peak_mb": procfs.memory_peak_mb(self._servers) if self._servers else None,
            "client_mb": procfs.resident_mb([os.getpid()]),
        }


def _per_call(seconds: float | None, calls: int) -> float | None:
    return None if seconds is None or not calls else seconds / calls * 1000


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Of latencies in seconds, ascending: in microseconds."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e6

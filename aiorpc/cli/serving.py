"""
Runs ``aiorpc run``: imports the services, hosts them until a signal, and ends the process.

Imports ``hosting`` and ``config``; makes the event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NoReturn

from ..config import Settings
from ..exceptions import AioRpcError
from ..hosting.report import Report
from ..hosting.runner import ServiceRunner, run_until_signal
from ..hosting.threads import MethodThread
from ..logs import logger
from .admin import admin_address, metrics_of_process, settings_of_run
from .loading import UserCodeFailed, load_services
from .logging_setup import set_up_logging
from .output import ExitCode, report

__all__ = ["Serving", "fastest_loop", "run_services"]

log = logger("aiorpc.cli")

#: Seconds that idle threads may take to end.
GRACE = 0.2


def run_services(arguments: argparse.Namespace) -> int:
    """
    Serve until a signal stops the process, and return the exit status.

    Raises:
        AioRpcError: see :func:`aiorpc.serve`; or the modules or the configuration are wrong.
        UserCodeFailed: a module raised at import, or an extension of a service raised.
    """
    settings = settings_of_run(arguments)
    serving = Serving(
        settings,
        fail_fast=arguments.fail_fast,
        report=partial(report, debug=arguments.debug),
        beside=lambda serving: admin_address(settings, serving.status, metrics_of_process),
    )
    set_up_logging(settings)
    return serving.run(load_services(arguments.modules))


class Serving:
    """
    Runs services in an event loop, and ends the services and the loop within SHUTDOWN_TIMEOUT.

    Otherwise, asyncio would wait without limit for tasks that ignore cancellation, and Python for
    busy threads. ``Serving`` does not wait for threads that are older than itself.

    Args:
        report: reports an error that ``run`` cannot raise, and returns the exit status.
        beside: returns what is open while the services run, and asks for their status.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fail_fast: bool,
        report: Callable[[AioRpcError | UserCodeFailed], int],
        beside: Callable[[Serving], AbstractContextManager[object]],
    ) -> None:
        self._settings = settings
        self._fail_fast = fail_fast
        self._report = report
        self._beside = beside
        self._threads = set(threading.enumerate())
        self._runner: ServiceRunner | None = None
        self._error: AioRpcError | UserCodeFailed | None = None
        self._status = 0

    def run(self, services: Sequence[type]) -> int:
        """Serve until a signal stops the process. Returns and raises like :func:`run_services`."""
        with self._beside(self):
            self._run(services)
        if self._error is not None:
            raise self._error
        return self._status

    def _run(self, services: Sequence[type]) -> None:
        runner = asyncio.Runner(loop_factory=fastest_loop())
        try:
            self._status = runner.run(self._host(services))
        except AioRpcError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            self._error = UserCodeFailed(f"a service failed: {type(error).__name__}: {error}")
            self._error.__cause__ = error
        finally:
            self._close(runner)

    @property
    def is_stopping(self) -> bool:
        """Whether the services finish their calls."""
        return self._runner is not None and self._runner.stopping_for > 0

    def status(self) -> Report:
        """Return the report for probes. Any thread may call this method."""
        if self._runner is None:
            return Report.of((), ["the services are not started yet"])
        return Report.of([self._runner.vitals.report()])

    async def _host(self, services: Sequence[type]) -> int:
        self._runner = ServiceRunner(*services, config=self._settings, fail_fast=self._fail_fast)
        return await run_until_signal(self._runner)

    def _close(self, runner: asyncio.Runner) -> None:
        """Close the loop. End the process if tasks or threads take too long."""
        gone = 0.0 if self._runner is None else self._runner.stopping_for
        left = max(GRACE, self._settings.shutdown_timeout - gone)
        ends = time.monotonic() + left
        # Only the thread that ran the loop can close the loop, because of signal handlers. So
        # another thread watches the time.
        watchdog = threading.Timer(left, self._end_now)
        watchdog.daemon = True
        watchdog.start()
        try:
            runner.close()
            watchdog.cancel()
            threads = self._running_threads()
            for thread in threads:  # an idle thread ends within GRACE
                thread.join(max(GRACE / len(threads), ends - time.monotonic()))
        except KeyboardInterrupt:
            _exit(ExitCode.INTERRUPTED)
        if self._running_threads():
            self._end_now()

    def _running_threads(self) -> list[threading.Thread]:
        """The newer threads that Python would wait for, or that run a method while it ends."""
        started = set(threading.enumerate()) - self._threads
        return [each for each in started if not each.daemon or isinstance(each, MethodThread)]

    def _end_now(self) -> NoReturn:
        """End the process. Running tasks and threads belong to calls that the host abandoned."""
        status = self._status or ExitCode.FAILED
        try:
            if self._error is not None:  # `run` cannot raise the error, because `run` still waits
                status = self._report(self._error)
            names = ", ".join(sorted(thread.name for thread in self._running_threads()))
            what = f"threads that did not return: {names}" if names else "tasks that ignored cancel"
            log.warning("ending without %s", what)
        finally:
            _exit(status)


def _exit(status: int) -> NoReturn:
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory of loops if uvloop is installed, else None for asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop

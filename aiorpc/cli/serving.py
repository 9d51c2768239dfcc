"""
From the names of modules to a process that serves, and its end: what ``aiorpc run`` does.

Does without typer, which takes longer to import than the broker takes to be reached.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..config import Settings
from ..exceptions import AioRpcError, ConfigurationError
from ..hosting.runner import ServiceRunner, run_until_signal
from .exit_codes import ExitCode
from .failures import report
from .loading import UserCodeFailed, load_services, look_in_current_directory
from .settings import settings_of

__all__ = ["fastest_loop", "run_services", "set_up_logging"]

log = logging.getLogger("aiorpc.cli")

#: Seconds for idle threads to end.
GRACE = 0.2
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def run_services(
    modules: Sequence[str],
    config: Path | None,
    define: Sequence[str] | None,
    broker: str | None,
    debug: bool = False,
) -> int:
    """
    Serve until a signal says stop, and return the exit status.

    Raises:
        AioRpcError: as :func:`aiorpc.serve`; the modules or the configuration are wrong.
        UserCodeFailed: importing a module, or something that a service declares, raised.
    """
    threads = set(threading.enumerate())
    settings = settings_of(config, define, broker)
    set_up_logging(settings)
    look_in_current_directory()
    services = load_services(modules)
    return Hosting(services, settings, threads, debug).run()


class Hosting:
    """
    Services in an event loop of their own, and the end of both: bounded by SHUTDOWN_TIMEOUT, where
    asyncio would wait for tasks that resist, and Python for busy threads, as long as those like.
    """

    def __init__(
        self,
        services: Sequence[type],
        settings: Settings,
        threads: Collection[threading.Thread],
        debug: bool,
    ) -> None:
        self._services = services
        self._settings = settings
        self._threads = threads  # of others
        self._debug = debug
        self._runner: ServiceRunner | None = None
        self._error: AioRpcError | UserCodeFailed | None = None
        self._status = 0

    def run(self) -> int:
        """
        Serve until a signal says stop, and return the exit status.

        Raises:
            AioRpcError: as :func:`aiorpc.serve`.
            UserCodeFailed: something that a service declares raised.
        """
        runner = asyncio.Runner(loop_factory=fastest_loop())
        try:
            self._status = runner.run(self._host())
        except AioRpcError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - of the user's code
            self._error = UserCodeFailed(f"a service failed: {type(error).__name__}: {error}")
            self._error.__cause__ = error
        finally:
            self._close(runner)
        if self._error is not None:
            raise self._error
        return self._status

    async def _host(self) -> int:
        self._runner = ServiceRunner(*self._services, config=self._settings)
        return await run_until_signal(self._runner)

    def _close(self, runner: asyncio.Runner) -> None:
        """Close the loop, and see that nothing keeps the process."""
        ends = time.monotonic() + self._time_left()
        # The loop is closed in the thread that it ran in: it may have handlers of signals.
        giving_up = threading.Timer(ends - time.monotonic(), self._end_now)
        giving_up.daemon = True
        giving_up.start()
        try:
            runner.close()
            giving_up.cancel()
            threads = self._keeping()
            for thread in threads:  # one with nothing to do is about to end
                thread.join(max(GRACE / len(threads), ends - time.monotonic()))
        except KeyboardInterrupt:
            _exit(ExitCode.INTERRUPTED)
        if self._keeping():
            self._end_now()

    def _time_left(self) -> float:
        """Seconds until the services' time for stopping is over."""
        gone = 0.0 if self._runner is None else self._runner.stopping_for
        return max(GRACE, self._settings.shutdown_timeout - gone)

    def _keeping(self) -> list[threading.Thread]:
        """The threads that were not there when we began, and for which Python would wait."""
        return [
            thread
            for thread in threading.enumerate()
            if not thread.daemon and thread not in self._threads
        ]

    def _end_now(self) -> NoReturn:
        """End the process: what it still does was for calls that have been given up."""
        status = self._status or ExitCode.FAILED
        try:
            if self._error is not None:  # who else would tell it waits
                status = report(self._error, debug=self._debug)
            names = ", ".join(sorted(thread.name for thread in self._keeping()))
            what = f"threads that did not return: {names}" if names else "tasks that resist"
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


def set_up_logging(settings: Settings) -> None:
    """
    As ``LOGGING`` says, or INFO and above to stderr.

    Raises:
        ConfigurationError: ``LOGGING`` is nothing for ``logging.config.dictConfig``.
    """
    if settings.logging is None:
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    else:
        from logging.config import dictConfig  # brings handlers, sockets and queues along

        # Loggers of modules are made when they are imported, and dictConfig would switch off all
        # that it does not name, the lines that say that a service is ready among them.
        defaults: dict[str, Any] = {"version": 1, "disable_existing_loggers": False}
        try:
            dictConfig(defaults | settings.logging)
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            reasons = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
            raise ConfigurationError(f"{settings.source}: LOGGING: {': '.join(reasons)}") from error


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop when it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop

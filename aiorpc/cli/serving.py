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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config import Settings
from ..exceptions import AioRpcError, ConfigurationError
from ..hosting.runner import serve
from .loading import UserCodeFailed, load_services, look_in_current_directory
from .settings import settings_of

__all__ = ["fastest_loop", "run_services", "set_up_logging"]

log = logging.getLogger("aiorpc.cli")

#: Seconds for idle threads to end.
GRACE = 0.2
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def run_services(
    modules: Sequence[str], config: Path | None, define: Sequence[str] | None, broker: str | None
) -> int:
    """
    Serve until a signal says stop, and return the exit status.

    Raises:
        AioRpcError: as :func:`aiorpc.serve`; the modules or the configuration are wrong.
        UserCodeFailed: importing a module, or something that a service declares, raised.
    """
    settings = settings_of(config, define, broker)
    set_up_logging(settings)
    look_in_current_directory()
    services = load_services(modules)
    status = serve_until_stopped(services, settings)
    leave_threads_behind(status)
    return status


def serve_until_stopped(services: Sequence[type], settings: Settings) -> int:
    """
    Serve in an event loop of their own, and return the exit status.

    Raises:
        AioRpcError: as :func:`aiorpc.serve`.
        UserCodeFailed: something that a service declares raised.
    """
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        try:
            return runner.run(serve(*services, config=settings))
        except AioRpcError:
            raise
        except Exception as error:
            raise UserCodeFailed(f"a service failed: {type(error).__name__}: {error}") from error


def leave_threads_behind(status: int) -> None:
    """
    End the process now if a sync method still runs. Python would wait for its thread, for as long
    as it likes, although the drain has given it up and its call went back.
    """
    if status == 0:
        return
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("aiorpc-")]
    for thread in ours:
        thread.join(GRACE / len(ours))  # one with nothing to do is about to end
    held = [thread for thread in ours if thread.is_alive()]
    if not held:
        return
    log.warning("%d sync method(s) did not return: ending without them", len(held))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
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
    for note in settings.notes:
        log.warning("%s", note)


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop when it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop

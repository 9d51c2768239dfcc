"""
Runs ``aiorpc run --workers N``: the parent of the worker processes. Sets up logging; makes the
event loop. Imports no service.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from ..exceptions import ConfigurationError
from ..hosting.processes.slot import WorkersFailed
from ..hosting.processes.supervisor import ProcessSupervisor
from .admin import admin_address, settings_of_run
from .logging_setup import set_up_logging
from .output import print_error
from .worker_metrics import shared_metrics

__all__ = ["run_workers"]


def run_workers(arguments: argparse.Namespace) -> int:
    """
    Run ``--workers`` processes with the same command, until a signal, and return the exit status.

    Raises:
        ConfigurationError: the configuration is wrong, or the system is Windows.
    """
    if sys.platform == "win32":
        raise ConfigurationError(
            "--workers needs the signals and sockets of a Unix: start several `aiorpc run` instead"
        )
    settings = settings_of_run(arguments)
    set_up_logging(settings)
    words = arguments.words[arguments.words.index("run") + 1 :]
    if arguments.debug and "--debug" not in words:  # it stood before `run`
        words = ["--debug", *words]

    # -P: a file in the current directory must not hide a module of Python, as under `aiorpc run`.
    path = [] if Path(__file__).is_relative_to(Path.cwd()) else ["-P"]

    def command(number: int, descriptor: int) -> Sequence[str]:
        worker = [sys.executable, *path, "-m", f"{__package__}.worker"]
        return [*worker, str(number), str(descriptor), *words]

    with shared_metrics(settings) as metrics:
        collect, bury = (None, None) if metrics is None else (metrics.collect, metrics.bury)
        supervisor = ProcessSupervisor(command, arguments.workers, bury)
        try:
            with admin_address(settings, supervisor.report, lambda: collect):
                return asyncio.run(supervisor.run())
        except WorkersFailed as error:
            print_error(str(error))
            return error.status

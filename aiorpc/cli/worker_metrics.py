"""
The metrics of worker processes, in a folder that they share with their parent. Imports
prometheus-client only if somebody asks for metrics; makes and deletes the folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..config import Settings

__all__ = ["SharedMetrics", "refresh", "shared_metrics"]

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True)
class SharedMetrics:
    """
    Attributes:
        collect: returns the metrics of all processes.
        bury: keeps the counters of a process that has ended, by its pid.
    """

    collect: Callable[[], bytes]
    bury: Callable[[int], None]


@contextmanager
def shared_metrics(settings: Settings) -> Iterator[SharedMetrics | None]:
    """
    Let the processes started inside the block share their metrics, if there is an admin address or
    ``PROMETHEUS_MULTIPROC_DIR``, and prometheus-client is installed. A temporary folder is deleted
    at the end.
    """
    given = os.environ.get(_FOLDER)
    wanted = settings.admin_address is not None or given
    if not wanted or importlib.util.find_spec("prometheus_client") is None:
        yield None
        return
    from ..middleware.exposition import bury, exposition, share

    folder = share()
    try:
        yield SharedMetrics(exposition, bury)
    finally:
        if not given:
            del os.environ[_FOLDER]
            shutil.rmtree(folder, ignore_errors=True)


def refresh() -> None:
    """Write the gauges of this process to the folder, if its services have metrics."""
    metrics = sys.modules.get("aiorpc.middleware.prometheus")
    # The main thread may be importing the module just now: then it has no function yet.
    write = getattr(metrics, "refresh", None)
    if write is not None and os.environ.get(_FOLDER):
        write()

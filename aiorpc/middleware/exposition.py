"""
The metrics of this process, or of several processes, as Prometheus reads them.

Several processes share a folder, ``PROMETHEUS_MULTIPROC_DIR``: each process has files in it, and
one process reads all of them. Nothing here awaits; it reads and writes files of that folder.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .requirements import require

require("prometheus_client", "prometheus")

from prometheus_client import (  # noqa: E402
    REGISTRY,
    CollectorRegistry,
    generate_latest,
    multiprocess,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4  # noqa: E402
from prometheus_client.mmap_dict import MmapedDict  # noqa: E402

__all__ = ["CONTENT_TYPE", "bury", "exposition", "share"]

#: The ``Content-Type`` of :func:`exposition`.
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
#: Files whose values only grow. They are ``<kind>_<process id>.db``.
_GROWING = ("counter", "histogram", "summary")
#: Stands for the process id in the files with the values of dead processes.
_DEAD = "dead"
#: A scrape must not see a value twice, or not at all, while it moves to another file.
_lock = threading.Lock()


def exposition() -> bytes:
    """
    Return the metrics in Prometheus's text format: with ``PROMETHEUS_MULTIPROC_DIR`` those of all
    processes that share the folder, dead ones too, and otherwise those of this process.
    """
    folder = os.environ.get(_FOLDER)
    if not folder:
        return _target_info() + generate_latest(REGISTRY)
    registry = CollectorRegistry()
    collector: Any = multiprocess.MultiProcessCollector  # which has no types
    collector(registry, path=folder)
    with _lock:
        return _target_info() + generate_latest(registry)


def share() -> Path:
    """
    Prepare the folder that the processes started from now on share, and return it. Without
    ``PROMETHEUS_MULTIPROC_DIR``, it is a new temporary folder, which the caller deletes at its end.
    Call this before the first process starts: a process reads the variable when it imports
    prometheus-client.

    Files of earlier processes are deleted: Prometheus treats the start of a service as a reset.
    """
    folder = os.environ.get(_FOLDER)
    if not folder:
        folder = os.environ[_FOLDER] = tempfile.mkdtemp(prefix="aiorpc-metrics-")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for file in path.glob("*.db"):
        file.unlink(missing_ok=True)
    return path


def bury(pid: int) -> None:
    """
    Move the counters of the ended process *pid* to the files of dead processes, so that no counter
    falls, and delete the files of the process. Its gauges end.

    The process that serves the metrics calls this when a process has ended.
    """
    folder = Path(os.environ[_FOLDER])
    with _lock:
        for kind in _GROWING:
            for name in (f"{kind}_{pid}.db", f"{kind}_{pid}_aiorpc.db"):
                file = folder / name
                if file.exists():
                    _merge(file, folder / f"{kind}_{_DEAD}.db")
                    file.unlink()
        for file in folder.glob(f"gauge_*_{pid}.db"):
            file.unlink()


def _merge(source: Path, target: Path) -> None:
    """Add the values in *source* to those in *target*."""
    files: Any = MmapedDict  # which has no types
    sums = files(str(target))
    try:
        for key, value, _, _ in files.read_all_values_from_file(str(source)):
            before, _ = sums.read_value(key)
            sums.write_value(key, before + value, 0.0)
    finally:
        sums.close()


def _target_info() -> bytes:
    """
    Return the metric ``target_info``: what OpenTelemetry's variables of the environment say about
    the process. Prometheus joins it with the other metrics.
    """
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(_resource()))
    return (
        "# HELP target_info Target metadata\n"
        "# TYPE target_info gauge\n"
        f"target_info{{{labels}}} 1.0\n"
    ).encode()


def _resource() -> Iterator[tuple[str, str]]:
    given = {"telemetry.sdk.language": "python"}
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, found, value = pair.partition("=")
        if found:
            given[name.strip()] = unquote(value.strip())
    if service := os.environ.get("OTEL_SERVICE_NAME"):
        given["service.name"] = service
    for name, value in given.items():
        label = re.sub(r"[^a-zA-Z0-9_]", "_", name)
        yield (
            f"_{label}" if label[:1].isdigit() else label,
            value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"),
        )

"""
Histograms of durations, in one process or in several. An observation takes a bisection and two
additions; one of prometheus-client takes several times as long (``docs/adr/0030`` has the figures).

Imports prometheus-client. With ``PROMETHEUS_MULTIPROC_DIR``, it writes a file of that folder, in
the format of prometheus-client.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

from .metric_names import Metric
from .requirements import require

require("prometheus_client", "prometheus")

from prometheus_client.core import HistogramMetricFamily, Metric as Family  # noqa: E402
from prometheus_client.mmap_dict import MmapedDict, mmap_key  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402
from prometheus_client.utils import floatToGoString  # noqa: E402

__all__ = ["FOLDER", "Durations", "Series", "leave"]

#: The variable of the environment with the folder that processes share.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

#: Threads with event loops of their own may observe at once, and an addition is not atomic.
_lock = Lock()


class Series:
    """
    The durations of one time series.

    Args:
        values: numbers of this and other time series.
        places: where *values* have the sum of the durations, and the count of each bucket.
    """

    __slots__ = ("_bounds", "_buckets", "_sum", "_values")

    def __init__(self, bounds: Sequence[float], values: Any, places: Sequence[int]) -> None:
        self._bounds = bounds
        self.move(values, places)

    def move(self, values: Any, places: Sequence[int]) -> None:
        self._values = values
        self._sum, *self._buckets = places

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        values, bucket = self._values, self._buckets[bisect_left(self._bounds, seconds)]
        with _lock:
            values[self._sum] += seconds
            values[bucket] += 1.0

    def read(self) -> tuple[float, list[float]]:
        """Return the sum of the durations, and how many each bucket has."""
        with _lock:
            return self._values[self._sum], [self._values[each] for each in self._buckets]


class Durations(Collector):
    """
    A histogram of seconds.

    Args:
        bounds: the upper bounds of its buckets, without infinity.
    """

    def __init__(self, metric: Metric, bounds: Sequence[float]) -> None:
        self._metric, self._bounds = metric, bounds
        spelled: Any = floatToGoString  # which has no types
        self._names: list[str] = [spelled(each) for each in (*bounds, float("inf"))]
        self._series: dict[tuple[str, ...], Series] = {}
        _all.add(self)

    def labels(self, *values: str) -> Series:
        """Return the time series with these labels."""
        found = self._series.get(values)
        if found is None:
            # Another thread may make it meanwhile.
            made = Series(self._bounds, *self._places(values))
            found = self._series.setdefault(values, made)
        return found

    def collect(self) -> Iterator[Family]:
        metric = self._metric
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, series in list(self._series.items()):
            total, counts = series.read()
            buckets = list(zip(self._names, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, total)
        yield family

    def move(self) -> None:
        """Let all time series begin again, in the file of this process."""
        for labels, series in self._series.items():
            series.move(*self._places(labels))

    def _places(self, labels: tuple[str, ...]) -> tuple[Any, Sequence[int]]:
        """Return where the numbers of a new time series are."""
        folder = os.environ.get(FOLDER)
        if not folder:
            count = len(self._names) + 1
            return [0.0] * count, range(count)
        metric = self._metric
        keys = [
            self._key("_sum", metric.labels, labels),
            *(self._key("_bucket", (*metric.labels, "le"), (*labels, le)) for le in self._names),
        ]
        return _places_in(Path(folder, f"histogram_{os.getpid()}_aiorpc.db"), keys)

    def _key(self, suffix: str, names: Sequence[str], labels: Sequence[str]) -> str:
        name, text = self._metric.name, self._metric.help
        return mmap_key(name, f"{name}{suffix}", list(names), list(labels), text)


_all: WeakSet[Durations] = WeakSet()
#: The file of this process, which stays open; None: it has none yet.
_file: Any = None


def _places_in(path: Path, keys: Sequence[str]) -> tuple[Any, Sequence[int]]:
    """Return the numbers in the file *path*, and the places of *keys*; new numbers are 0."""
    global _file
    with _lock:
        if _file is None or _file._fname != str(path):
            leave()
            files: Any = MmapedDict  # which has no types
            _file = files(str(path))
        for key in keys:
            _file.read_value(key)
        # A file that grows is mapped again. Earlier views still show the same file.
        return memoryview(_file._m).cast("d"), [_file._positions[key] // 8 for key in keys]


def leave() -> None:
    """Close the file of this process. Its time series still write to its map."""
    global _file
    if _file is not None:
        _file._f.close()
    _file = None


def _after_fork() -> None:
    global _lock
    _lock = Lock()
    if _file is not None:  # it is the parent's
        leave()
        for each in list(_all):
            each.move()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

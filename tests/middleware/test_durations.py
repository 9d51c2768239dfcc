"""Durations: the same counts as those of prometheus-client, in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, Histogram, multiprocess
from prometheus_client.samples import Sample

from aiorpc.middleware import exposition
from aiorpc.middleware.conventions import BUCKETS
from aiorpc.middleware.durations import FOLDER, Durations, leave
from aiorpc.middleware.metric_names import Metric
from tests.support.files import REPOSITORY

METRIC = Metric("seconds", "For this test", ("method",))

#: Observes each of its arguments, with one of the two classes.
OBSERVE = """
import sys
from prometheus_client import Histogram
from aiorpc.middleware.durations import Durations
from tests.middleware.test_durations import BUCKETS, METRIC

kind, *seconds = sys.argv[1:]
if kind == "ours":
    made = Durations(METRIC, BUCKETS)
else:
    made = Histogram(METRIC.name, METRIC.help, METRIC.labels, buckets=BUCKETS)
for at, each in enumerate(seconds):
    made.labels(f"method {at % 3}").observe(float(each))
"""

#: Observes once in a process, and once in a process that it forks.
FORK = """
import os
from aiorpc.middleware.durations import Durations
from tests.middleware.test_durations import BUCKETS, METRIC

durations = Durations(METRIC, BUCKETS)
series = durations.labels("sell")
series.observe(1.0)
if pid := os.fork():
    assert os.waitpid(pid, 0)[1] == 0
else:
    series.observe(1.0)
assert series.read()[0] == 1.0
"""


def samples(registry: CollectorRegistry) -> Sequence[Sample]:
    return [
        sample
        for family in registry.collect()
        for sample in family.samples
        if "created" not in sample.name
    ]


def both(seconds: Sequence[float]) -> Sequence[Sequence[Sample]]:
    """Return the samples of our class, and those of the library's."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    durations = Durations(METRIC, BUCKETS)
    ours.register(durations)
    histogram = Histogram(METRIC.name, METRIC.help, METRIC.labels, registry=theirs, buckets=BUCKETS)
    for at, each in enumerate(seconds):
        durations.labels(f"method {at % 3}").observe(each)
        histogram.labels(f"method {at % 3}").observe(each)
    return samples(ours), samples(theirs)


@given(st.lists(st.floats(0, 100), max_size=30))
def test_the_quick_histogram_counts_like_the_librarys(seconds: list[float]) -> None:
    ours, theirs = both([*seconds, *BUCKETS])
    assert ours == theirs


@pytest.mark.slow
def test_its_file_is_read_like_the_librarys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for kind in ("ours", "theirs"):
        folder = tmp_path / kind
        folder.mkdir()
        environment = {**os.environ, FOLDER: str(folder), "PYTHONPATH": str(REPOSITORY)}
        texts = map(str, [0.0, *BUCKETS, 0.3, 99.0])
        subprocess.run([sys.executable, "-c", OBSERVE, kind, *texts], env=environment, check=True)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(folder))
        found[kind] = samples(registry)
    assert found["ours"]
    assert found["ours"] == found["theirs"]


def test_a_file_that_grows_keeps_what_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    request.addfinalizer(leave)
    durations = Durations(METRIC, BUCKETS)
    first = durations.labels("first")
    first.observe(0.3)
    for number in range(100):
        durations.labels(f"method {number}").observe(0.3)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size > 1 << 16  # the size that prometheus-client begins with
    first.observe(0.3)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(tmp_path))
    assert registry.get_sample_value("seconds_count", {"method": "first"}) == 2
    assert registry.get_sample_value("seconds_sum", {"method": "first"}) == 0.6
    exposition.bury(os.getpid())
    assert [file.name for file in tmp_path.iterdir()] == ["histogram_dead.db"]
    assert registry.get_sample_value("seconds_count", {"method": "first"}) == 2


def test_no_observation_of_several_threads_is_lost() -> None:
    series = Durations(METRIC, BUCKETS).labels("sell")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def observe() -> None:
        for _ in range(5000):
            series.observe(1.0)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert series.read()[0] == 20_000


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_writes_to_a_file_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, FOLDER: str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", FORK], env=environment, check=True)
    assert len(list(tmp_path.iterdir())) == 2
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(tmp_path))
    assert registry.get_sample_value("seconds_count", {"method": "sell"}) == 2

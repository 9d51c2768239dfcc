"""The metrics of several processes: one scrape has all, and no counter falls when one dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiorpc.middleware import exposition
from tests.support.files import REPOSITORY

#: A process that counts, says so, and waits for the end of its standard input.
WORKER = """
import sys
from prometheus_client import Counter, Gauge, Histogram

calls = Counter("calls", "For this test", ["method"])
seconds = Histogram("seconds", "For this test")
for _ in range(int(sys.argv[1])):
    calls.labels("sell").inc()
    seconds.observe(0.1)
Gauge("running", "For this test", multiprocess_mode="livesum").set(1)
print("ready", flush=True)
sys.stdin.read()
"""


class Worker:
    def __init__(self, folder: Path, calls: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(calls)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PROMETHEUS_MULTIPROC_DIR": str(folder),
                "PYTHONPATH": str(REPOSITORY),
            },
        )

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=10)


def samples() -> dict[str, float]:
    """The samples that one scrape has now, without labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition.exposition().decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def counters(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name != "running"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    return exposition.share()


@pytest.mark.slow
def test_one_scrape_has_all_processes_and_no_counter_falls_when_one_is_killed(
    folder: Path,
) -> None:
    workers = [Worker(folder, calls) for calls in (1, 10, 100, 1000)]
    for worker in workers:
        worker.ready()
    try:
        before = samples()
        assert (before["calls_total"], before["seconds_count"], before["running"]) == (
            1111,
            1111,
            4,
        )
        for number, worker in enumerate(workers, 1):
            worker.kill()
            assert counters(samples()) == counters(before)  # its files are still there
            exposition.bury(worker.process.pid)
            after = samples()
            assert counters(after) == counters(before)
            assert after.get("running", 0) == 4 - number
            assert not [file for file in folder.iterdir() if str(worker.process.pid) in file.name]
        before = samples()
        exposition.bury(workers[0].process.pid)  # again
        assert samples() == before
    finally:
        for worker in workers:
            worker.kill()


def test_the_files_of_an_earlier_run_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counter_1.db").write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert exposition.share() == tmp_path
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_without_a_folder_the_processes_get_a_temporary_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # restored after the test
    folder = exposition.share()
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)
    assert list(folder.iterdir()) == []
    folder.rmdir()


def test_target_info_has_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setenv("OTEL_SERVICE_NAME", 'the "shop"')
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=a%20b,odd,9=x")
    text = exposition.exposition().decode()
    (info,) = re.findall(r"^target_info{.*$", text, re.MULTILINE)
    (family,) = text_string_to_metric_families(f"# TYPE target_info gauge\n{info}\n")
    assert family.samples[0].labels == {
        "service_name": 'the "shop"',
        "deployment_environment_name": "a b",
        "telemetry_sdk_language": "python",
        "_9": "x",
    }

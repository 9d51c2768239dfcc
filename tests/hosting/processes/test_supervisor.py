"""The supervisor of worker processes, with processes that only play workers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiorpc.hosting.processes import process, slot, supervisor
from aiorpc.hosting.processes.slot import WorkersFailed
from aiorpc.hosting.processes.supervisor import ProcessSupervisor
from tests.support import fake_worker
from tests.support.waiting import eventually


class Stage:
    """Workers that do what ``do`` says when they start, and their journal."""

    supervisor: ProcessSupervisor

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.do("serve")

    def do(self, what: str) -> None:
        self._journal.with_name(f"{self._journal.name}.does").write_text(what, encoding="utf-8")

    def command(self, number: int, descriptor: int) -> list[str]:
        script = [sys.executable, "-I", "-S", fake_worker.__file__, str(self._journal)]
        return [*script, str(number), str(descriptor)]

    @property
    def events(self) -> list[tuple[int, int, str]]:
        """(number, pid, event), in the order in which they happened."""
        if not self._journal.exists():
            return []
        lines = self._journal.read_text(encoding="utf-8").splitlines()
        split = [line.split(" ", 2) for line in lines]
        return [(int(number), int(pid), event) for number, pid, event in split]

    def pids(self, event: str) -> list[int]:
        return [pid for _, pid, happened in self.events if happened == event]

    async def until(self, event: str, times: int) -> list[int]:
        """Wait until *event* has happened *times* times, and return the pids."""
        await eventually(lambda: len(self.pids(event)) >= times)
        return self.pids(event)

    @asynccontextmanager
    async def supervising(self, workers: int) -> AsyncGenerator[asyncio.Task[int]]:
        """Run a supervisor, and stop it at the end."""
        self.supervisor = ProcessSupervisor(self.command, workers)
        running = asyncio.create_task(self.supervisor.run())
        try:
            yield running
        finally:
            if not running.done():
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait((running,))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(slot, "PAUSE", 0.01)
    return Stage(tmp_path / "journal")


def send(signum: signal.Signals) -> None:
    os.kill(os.getpid(), signum)


async def test_sigterm_ends_each_worker_once(stage: Stage) -> None:
    async with stage.supervising(3) as running:
        await stage.until("ready", 3)
        send(signal.SIGTERM)
        assert await running == 0
    assert sorted(number for number, _, event in stage.events if event == "ready") == [1, 2, 3]
    assert Counter(stage.pids("SIGTERM")) == dict.fromkeys(stage.pids("ready"), 1)


async def test_a_worker_that_dies_is_replaced_and_the_others_stay(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage.supervising(2):
        pids = await stage.until("ready", 2)
        killed = next(pid for number, pid, event in stage.events if number == 2)
        os.kill(killed, signal.SIGKILL)
        await stage.until("ready", 3)
    assert [number for number, pid, event in stage.events if event == "ready"].count(2) == 2
    assert sorted(stage.pids("SIGTERM")) == sorted({*stage.pids("ready")} - {killed})
    assert set(pids) - {killed} <= set(stage.pids("SIGTERM"))
    assert f"worker 2: pid {killed} ended: killed by SIGKILL; it starts again in " in caplog.text


async def test_the_pauses_between_attempts_grow(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.do("dies")
    async with stage.supervising(1) as running:
        with pytest.raises(WorkersFailed):
            await running
    seconds = [float(line.args[-1]) for line in caplog.records if "again in" in line.msg]
    assert len(seconds) == slot.ATTEMPTS - 1
    for before, pause in enumerate(seconds):
        assert 0.5 <= pause / (slot.PAUSE * 2**before) <= 1


async def test_a_worker_that_never_becomes_ready_ends_the_command_with_its_reason(
    stage: Stage,
) -> None:
    async with stage.supervising(3) as running:
        await stage.until("ready", 3)
        stage.do("fails")
        os.kill(stage.pids("ready")[0], signal.SIGKILL)
        with pytest.raises(WorkersFailed) as failure:
            await running
    assert str(failure.value).startswith("worker 1 failed 5 times before it was ready; ")
    assert str(failure.value).endswith("ended: no disk")
    assert failure.value.status == 1
    assert len(stage.pids("SIGTERM")) == 2  # the others finished their calls


async def test_a_mistake_in_the_configuration_ends_the_command_at_once(stage: Stage) -> None:
    stage.do("fails-for-good")
    async with stage.supervising(3) as running:
        with pytest.raises(WorkersFailed) as failure:
            await running
    assert (str(failure.value), failure.value.status) == ("no disk", 2)
    assert len(stage.pids("started")) == 1  # the others waited for it


async def test_a_worker_without_a_last_word_has_its_signal_as_reason(stage: Stage) -> None:
    stage.do("dies")
    async with stage.supervising(1) as running:
        with pytest.raises(WorkersFailed, match="ended: killed by SIGKILL"):
            await running


async def test_a_process_that_cannot_start_counts_as_an_attempt(stage: Stage) -> None:
    def command(number: int, descriptor: int) -> list[str]:
        return ["/nosuch/python"]

    with pytest.raises(WorkersFailed, match="cannot start: No such file or directory"):
        await ProcessSupervisor(command, 2).run()


# The roll


async def test_sighup_replaces_one_after_the_other_and_the_new_one_is_ready_first(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with stage.supervising(3):
        await stage.until("ready", 3)
        before = len(stage.events)
        send(signal.SIGHUP)
        await eventually(lambda: "all workers are replaced" in caplog.text)
        rolled = [(number, event) for number, _, event in stage.events[before:]]
    once = ["started", "ready", "SIGTERM"]
    assert rolled == [(number, event) for number in (1, 2, 3) for event in once]


async def test_a_new_process_that_fails_ends_the_roll_and_the_old_one_stays(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage.supervising(2):
        await stage.until("ready", 2)
        stage.do("fails-for-good")
        send(signal.SIGHUP)
        text = "SIGHUP: the new process of worker 1 is not ready: no disk."
        await eventually(lambda: text in caplog.text)
        assert stage.pids("SIGTERM") == []
        assert len(stage.pids("started")) == 3


async def test_a_second_sighup_begins_again(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "PATIENCE", 0.0)
    caplog.set_level(logging.INFO)
    async with stage.supervising(1):
        (old,) = await stage.until("ready", 1)
        stage.do("hangs")
        send(signal.SIGHUP)
        hanging = (await stage.until("started", 2))[1]
        text = f"the new process (pid {hanging}) is not ready yet: "
        await eventually(lambda: text in caplog.text)
        stage.do("serve")
        send(signal.SIGHUP)
        await eventually(lambda: "all workers are replaced" in caplog.text)
        assert sorted(stage.pids("SIGTERM")) == sorted([hanging, old])


async def test_sigterm_during_a_roll_ends_all(stage: Stage) -> None:
    async with stage.supervising(2) as running:
        await stage.until("ready", 2)
        stage.do("hangs")
        send(signal.SIGHUP)
        await stage.until("started", 3)
        send(signal.SIGTERM)
        assert await running == 0
    assert sorted(stage.pids("SIGTERM")) == sorted(stage.pids("started"))


# More and fewer


async def test_sigttin_adds_one_and_sigttou_removes_the_last(stage: Stage) -> None:
    async with stage.supervising(1) as running:
        (first,) = await stage.until("ready", 1)
        send(signal.SIGTTIN)
        _, second = await stage.until("ready", 2)
        send(signal.SIGTTOU)
        assert await stage.until("SIGTERM", 1) == [second]
        send(signal.SIGTTIN)
        await stage.until("ready", 3)
        assert not running.done()
    assert first in stage.pids("SIGTERM")


async def test_sigttou_leaves_the_last_worker(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage.supervising(1):
        await stage.until("ready", 1)
        send(signal.SIGTTOU)
        await eventually(lambda: "SIGTTOU: the last worker stays" in caplog.text)
        assert stage.pids("SIGTERM") == []


# Processes that do not obey


async def test_a_second_signal_ends_them_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "HURRY", 0.05)
    stage.do("resists")
    async with stage.supervising(2) as running:
        await stage.until("ready", 2)
        send(signal.SIGTERM)
        await stage.until("SIGTERM", 2)
        send(signal.SIGINT)
        assert await running == 128 + signal.SIGINT


async def test_a_worker_that_does_not_end_is_killed(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.05)
    stage.do("resists")
    async with stage.supervising(1) as running:
        await stage.until("ready", 1)
        send(signal.SIGTERM)
        assert await running == 1
    assert "has not ended 0.05 s after the signal and is killed" in caplog.text


async def test_nonsense_from_a_worker_is_logged_and_changes_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.do("speaks-nonsense")
    async with stage.supervising(1) as running:
        await stage.until("ready", 1)
        send(signal.SIGTERM)
        assert await running == 0
    assert "worker 1: an unreadable message" in caplog.text


# Probes


async def test_the_report_has_each_worker(stage: Stage) -> None:
    async with stage.supervising(2):
        pids = dict.fromkeys(await stage.until("ready", 2))
        await eventually(lambda: stage.supervisor.report().ready)
        report = stage.supervisor.report()
        assert [each.number for each in report.workers] == [1, 2]
        assert {each.pid for each in report.workers} == set(pids)
        assert report.alive


async def test_a_worker_that_is_not_ready_has_its_reason_in_the_report(stage: Stage) -> None:
    async with stage.supervising(2):
        await stage.until("ready", 2)
        stage.do("hangs")
        os.kill(stage.pids("ready")[0], signal.SIGKILL)
        await eventually(lambda: any("killed by SIGKILL" in r for r in reasons(stage)))
        assert not stage.supervisor.report().ready
        await eventually(lambda: any(r.endswith("no broker yet") for r in reasons(stage)))
        assert not stage.supervisor.report().ready
        assert stage.supervisor.report().alive


def reasons(stage: Stage) -> tuple[str, ...]:
    return stage.supervisor.report().reasons


async def test_a_worker_that_is_silent_is_not_alive(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.supervising(1):
        await stage.until("ready", 1)
        await eventually(lambda: stage.supervisor.report().ready)
        monkeypatch.setattr(process, "SILENT", 0.0)
        report = stage.supervisor.report()
        assert not report.alive
        assert report.reasons == ("it has been silent for 0 s",)


# Sockets


async def test_all_workers_get_the_same_socket(stage: Stage) -> None:
    stage.do("listens 127.0.0.1:0")
    async with stage.supervising(2):
        await stage.until("ready", 2)
        told = [event for _, _, event in stage.events if event.startswith("listens")]
    assert len(told) == 2
    assert len(set(told)) == 1
    assert "[" in told[0]


async def test_an_address_in_use_is_an_error_of_the_worker(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        stage.do(f"listens {address}")
        async with stage.supervising(1):
            await stage.until("ready", 1)
            told = [event for _, _, event in stage.events if event.startswith("listens")]
    (error,) = told
    assert error.startswith(f"listens WEB_SERVER_ADDRESS {address}: cannot listen there: Address")
    assert error.endswith("Set another address, or stop the program that uses it")

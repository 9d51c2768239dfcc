"""The watchdog names what blocks an event loop, and tells how long it did."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ServiceRunner, rpc
from aiorpc.config import resolve
from aiorpc.hosting.heartbeat import Heartbeat
from aiorpc.hosting.watchdog import Watchdog
from tests.support.waiting import PATIENCE, eventually

CONFIG: dict[str, Any] = {"AMQP_URI": "memory://watchdog", "BLOCKED_LOOP_WARNING": 0.05}
#: Set when the log names what blocks the loop.
NAMED = threading.Event()


class Sets(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if "has blocked the event loop" in record.getMessage():
            NAMED.set()


@pytest.fixture(autouse=True)
def _named() -> Iterator[None]:
    log, handler = logging.getLogger("aiorpc.hosting"), Sets()
    log.addHandler(handler)
    NAMED.clear()
    yield
    log.removeHandler(handler)


class Report:
    name = "report"

    @rpc
    async def write(self) -> None:
        NAMED.wait(PATIENCE)

    @rpc
    async def in_a_task(self) -> None:
        async def part() -> None:
            NAMED.wait(PATIENCE)

        await asyncio.create_task(part(), name="a part")

    @rpc
    async def compute(self) -> None:
        for _ in range(100):
            sum(range(10_000_000))  # in C, which lets no other thread run
            if NAMED.is_set():
                break

    @rpc
    def in_a_thread(self) -> None:
        time.sleep(0.2)  # longer than the bound

    @rpc
    async def wait(self) -> None:
        await asyncio.sleep(0.2)  # longer than the bound


@asynccontextmanager
async def watched(**settings: Any) -> AsyncIterator[Any]:
    config = {**CONFIG, **settings}
    async with ServiceRunner(Report, config=config) as runner, ClusterRpcProxy(config) as cluster:
        with runner.vitals.watching():
            yield cluster.report


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if "event loop" in each.getMessage()]


async def test_a_method_that_blocks_is_named_with_its_stack_and_at_the_end_with_its_length(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with watched() as report:
        await report.write()
        await eventually(lambda: len(warnings(caplog)) == 2)
    first, last = warnings(caplog)
    name = r"report\.write \(call id report\.write\.[\w-]+\)"
    assert re.match(rf"{name} has blocked the event loop for \d\.\d\d s: ", first.getMessage())
    assert "Declare the method with `def`" in first.getMessage()
    assert first.stack_info is not None
    assert "in write" in first.stack_info.splitlines()[1]  # nothing of the loop stands above it
    assert "NAMED.wait(PATIENCE)" in first.stack_info.splitlines()[2]
    assert (first.__dict__["service"], first.__dict__["method"]) == ("report", "write")
    length = re.fullmatch(rf"{name} blocked the event loop for (\d\.\d\d) s", last.getMessage())
    assert length is not None
    assert float(length[1]) >= 0.05
    assert last.stack_info is None


async def test_a_task_that_a_method_started_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as report:
        await report.in_a_task()
        await eventually(lambda: warnings(caplog))
    text = warnings(caplog)[0].getMessage()
    # Only Python 3.12 and later tell the context of another task.
    known = "a task of report.in_a_task (call id " if sys.version_info >= (3, 12) else "'a part'"
    assert known in text


async def test_methods_that_do_not_block_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as report:
        await report.in_a_thread()
        await report.wait()
    assert warnings(caplog) == []


async def test_without_the_setting_no_thread_watches(caplog: pytest.LogCaptureFixture) -> None:
    async with watched(BLOCKED_LOOP_WARNING=None) as report:
        assert "aiorpc watchdog" not in {thread.name for thread in threading.enumerate()}
        NAMED.set()
        await report.write()
    assert warnings(caplog) == []


async def test_the_thread_ends_with_the_runner() -> None:
    async with watched():
        assert "aiorpc watchdog" in {thread.name for thread in threading.enumerate()}
    assert "aiorpc watchdog" not in {thread.name for thread in threading.enumerate()}


def test_the_setting_is_a_number_of_seconds_or_null() -> None:
    assert resolve("memory://").blocked_loop_warning == 0.5
    assert resolve({"BLOCKED_LOOP_WARNING": None}).blocked_loop_warning is None


class Frozen(Heartbeat):
    """A heartbeat whose next beat is long overdue."""

    late = 60.0


async def test_a_process_that_did_not_run_blames_no_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heart = Frozen(60.0, 0.05)
    watchdog = Watchdog(heart, 0.05, lambda task: None)
    watchdog.stop()
    watchdog._look(starved=True)
    assert watchdog.blocker is None
    heart.stalls, heart.length = 1, 5.0
    watchdog._look(starved=False)
    heart.stop()
    assert warnings(caplog)[-1].getMessage() == (
        "the event loop did not run for 5.00 s: this process was stopped, or the machine had no "
        "free processor"
    )


@pytest.mark.parametrize(("level", "named"), [(logging.WARNING, True), (logging.ERROR, False)])
async def test_the_level_of_the_logger_decides_whether_a_blocker_is_logged(
    level: int, named: bool
) -> None:
    log = logging.getLogger("aiorpc.hosting")
    heart = Frozen(60.0, 0.05)
    watchdog = Watchdog(heart, 0.05, lambda task: None)
    watchdog.stop()
    log.setLevel(level)
    try:
        watchdog._look(starved=False)
    finally:
        log.setLevel(logging.NOTSET)
        heart.stop()
    assert watchdog.blocker is not None
    assert NAMED.is_set() is named


async def test_code_in_c_that_holds_pythons_lock_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as report:
        await report.compute()
        await eventually(lambda: warnings(caplog))
    first = warnings(caplog)[0]
    assert "report.compute (call id " in first.getMessage()
    assert first.stack_info is not None
    assert "in compute" in first.stack_info

"""Whether a runner is alive and ready, as probes see it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ServiceRunner, rpc
from aiorpc.hosting import vitals
from aiorpc.testing.connections import cut
from tests.support.waiting import PATIENCE, eventually

CONFIG: dict[str, Any] = {"AMQP_URI": "memory://vitals", "BLOCKED_LOOP_WARNING": 0.05}


#: Set when a probe has seen that the loop is blocked.
SEEN = threading.Event()


class Desk:
    name = "desk"

    @rpc
    async def work(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @rpc
    async def block(self) -> None:
        SEEN.wait(PATIENCE)


async def test_a_runner_is_ready_from_its_start_to_its_stop() -> None:
    runner = ServiceRunner(Desk, config=CONFIG)
    before = runner.vitals.report()
    assert (before.alive, before.ready) == (True, False)
    async with runner:
        report = runner.vitals.report(3)
        assert (report.number, report.pid) == (3, os.getpid())
        assert (report.alive, report.ready, report.reasons) == (True, True, ())
    after = runner.vitals.report()
    assert (after.alive, after.ready) == (True, False)
    assert "is stopping" in after.reasons[0]


async def test_a_lost_connection_is_not_ready_and_alive(broker_config: dict[str, Any]) -> None:
    async with ServiceRunner(Desk, config=broker_config) as runner:
        restore = cut(runner.containers[0].transport)
        await eventually(lambda: not runner.vitals.report().ready)
        report = runner.vitals.report()
        assert report.alive
        assert "there is no connection to" in report.reasons[0]
        restore()
        await eventually(lambda: runner.vitals.report().ready)


async def test_a_blocked_loop_is_not_alive_and_names_the_call() -> None:
    config = {**CONFIG, "LIVENESS_TIMEOUT": 0.1}
    async with ServiceRunner(Desk, config=config) as runner, ClusterRpcProxy(config) as cluster:
        with runner.vitals.watching():
            SEEN.clear()
            seen = asyncio.create_task(asyncio.to_thread(first_not_alive, runner))
            await asyncio.sleep(0)
            await cluster.desk.block()
            report = await seen
            assert not report.ready
            assert report.reasons[0].startswith("the event loop has been blocked for ")
            assert " s by desk.block (call id desk.block." in report.reasons[0]
            await eventually(lambda: runner.vitals.report().alive)


def first_not_alive(runner: ServiceRunner) -> Any:
    """Ask in a thread, as the admin address does, until the loop is blocked."""
    while (report := runner.vitals.report()).alive:
        time.sleep(0.005)  # there is no event to wait for
    SEEN.set()
    return report


@pytest.mark.parametrize("patience", [0.05, None])
async def test_workers_that_all_run_the_same_calls_for_long_are_not_ready(
    patience: float | None,
) -> None:
    config = {**CONFIG, "max_workers": 2, "READINESS_TIMEOUT": patience}
    async with ServiceRunner(Desk, config=config) as runner, ClusterRpcProxy(config) as cluster:
        with runner.vitals.watching():
            calls = [cluster.desk.work.call_async(60) for _ in range(2)]
            if patience is None:
                await asyncio.sleep(0.1)  # some beats
                assert runner.vitals.report().ready
            else:
                await eventually(lambda: not runner.vitals.report().ready)
                report = runner.vitals.report()
                assert report.alive
                assert report.reasons[0].startswith("all 2 workers of desk have run the same calls")
                assert report.reasons[0].endswith(": desk.work (2)")
            calls[0].cancel()
            await eventually(lambda: runner.vitals.report().ready)
            calls[1].cancel()


async def test_only_calls_that_do_not_end_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(vitals, "monotonic", lambda: now)
    config = {**CONFIG, "max_workers": 1, "READINESS_TIMEOUT": 60}
    async with ServiceRunner(Desk, config=config) as runner, ClusterRpcProxy(config) as cluster:
        for _ in range(3):
            call = cluster.desk.work.call_async(60)
            await eventually(lambda: runner.containers[0].running)
            runner.vitals._look()
            now += 50
            assert runner.vitals.report().ready
            call.cancel()
            await eventually(lambda: not runner.containers[0].running)
        call = cluster.desk.work.call_async(60)
        await eventually(lambda: runner.containers[0].running)
        runner.vitals._look()
        now += 61
        assert not runner.vitals.report().ready
        call.cancel()

"""
The short form of the chaos suite: each short scenario once, on one private broker.
"""

from __future__ import annotations

import asyncio
import re
import secrets

import pytest

from aiorpc import ClusterRpcProxy
from tests.chaos.cluster_scenarios import CLUSTER_SCENARIOS
from tests.chaos.load import Load
from tests.chaos.processes import ROOT
from tests.chaos.refusals import REFUSALS
from tests.chaos.report import table
from tests.chaos.scenarios import SCENARIOS, Scenario, play
from tests.chaos.stage import set_stage
from tests.servers import Rabbit
from tests.support.waiting import eventually

# Alone: the limits for lateness and success hold for a machine that does nothing else.
pytestmark = [pytest.mark.postgresql, pytest.mark.alone]

SHORT = [scenario for scenario in SCENARIOS if scenario.short]
#: Scenarios that break the whole broker run one by one. The others break only their own service.
ALONE = ("broker restarted", "memory alarm")
GROUPS = {
    **{each.name: [each] for each in SHORT if each.name in ALONE},
    "processes, network and queues": [each for each in SHORT if each.name not in ALONE],
}


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, id=name, marks=[pytest.mark.long] if name == "memory alarm" else [])
        for name, group in GROUPS.items()
    ],
)
async def test_nothing_hangs_and_nothing_is_lost(
    group: list[Scenario], node: Rabbit, postgresql_uri: str
) -> None:
    # At the same time, because they mostly wait. Each has its own service, network and ledger.
    plays = [play(scenario, node, postgresql_uri) for scenario in group]
    reports = await asyncio.gather(*plays)
    print(table(reports))
    broken = {
        scenario.name: failures
        for scenario, report in zip(group, reports, strict=True)
        if (failures := scenario.failures(report))
    }
    assert not broken


async def test_cancelled_calls_are_rolled_back_over_two_hops(
    node: Rabbit, postgresql_uri: str
) -> None:
    """The callers cancel inside a transaction: none stays open and none is committed."""
    async with (
        set_stage(node, postgresql_uri, servers=2, booking=True) as stage,
        ClusterRpcProxy(stage.config, timeout=20) as cluster,
    ):
        service = cluster[stage.service]
        tag = secrets.token_hex(2)
        calls = [service.relay_booking.call_async(f"{tag}{each}", 5.0) for each in range(40)]

        async def open_transactions_are(number: int) -> bool:
            return await stage.ledger.open_transactions() == number

        await eventually(
            lambda: open_transactions_are(16), 15
        )  # two pools of 8 connections, all in use
        for call in calls:
            call.cancel()
        await eventually(lambda: open_transactions_are(0), 4)  # less than the method takes
        assert await service.relay_booking("kept", 0.0) == "done kept"
        assert await stage.ledger.runs() == {"kept": 1}


async def test_a_load_counts_hung_wrong_failed_and_late_calls() -> None:
    """Test the suite itself: it sees a hang, a wrong answer, an error and a late answer."""

    async def call(call_id: str, timeout: float) -> object:
        match int(call_id) % 4:
            case 0:
                return f"done {call_id}"
            case 1:
                return "done something else"
            case 2:
                raise ConnectionError
            case _:
                await asyncio.Event().wait()
                raise AssertionError

    load = Load(call, timeout=0.1, rate=200, hangs=0.2)
    running = asyncio.create_task(load.run())
    await eventually(lambda: len(load.outcomes) >= 16)
    load.stop()
    await running
    report = load.report("scales", load.as_if_all_ran(), lifted_at=0.0, outlasts=True)
    assert min(report.answered, report.wrong, report.hung, report.errors["ConnectionError"]) > 0
    assert report.offered == report.answered + report.wrong + report.hung + report.errors.total()
    assert report.overrun >= 0.2
    assert (report.lost, report.twice) == (0, 0)
    failures = " ".join(report.failures(floor=0.9, allowed=frozenset(), twice=0))
    for word in ("hung", "wrong answer", "ConnectionError", "past its deadline", "succeeded"):
        assert word in failures
    assert load.report("", report.errors, lifted_at=0.0, outlasts=True).lost == report.answered


GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_each_scenario_that_the_guarantees_name_is_there() -> None:
    named = {
        name
        for line in re.findall(r"scenarios? (\"[^|]*)", GUARANTEES)
        for name in re.findall(r'"([^"]+)"', line)
    }
    assert named
    assert named <= {each.name for each in (*SCENARIOS, *CLUSTER_SCENARIOS, *REFUSALS)}

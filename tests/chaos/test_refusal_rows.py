"""The short form of the refusals: each short one once, on one private broker."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.refusal_report import RefusalReport, refusal_table
from tests.chaos.refusals import REFUSALS, played
from tests.chaos.report import Report
from tests.servers import Rabbit

# Alone: the limits for lateness and success hold for a machine that does nothing else.
pytestmark = [pytest.mark.postgresql, pytest.mark.alone]

SHORT = [refusal for refusal in REFUSALS if refusal.short]


async def test_what_the_broker_refuses_hurts_no_neighbour(
    node: Rabbit, postgresql_uri: str
) -> None:
    # At the same time, because they mostly wait. Each has its own service, ledger and vhost.
    reports = await asyncio.gather(*(played(each, node, postgresql_uri) for each in SHORT))
    print(refusal_table(reports))
    broken = {
        refusal.name: failures
        for refusal, report in zip(SHORT, reports, strict=True)
        if (failures := refusal.failures(report))
    }
    assert not broken


def test_a_report_names_each_broken_promise() -> None:
    """Test the suite itself."""
    calls = Report("", offered=10, answered=4, again=0.1, hung=1, wrong=1, lost=1, twice=3)
    calls.errors["ConnectionLost"] = 4
    report = RefusalReport("a name", calls, calls, calls, lost=2, twice_here=5)
    said = " ".join(report.failures(floor=0.9, errors=frozenset(), refused_errors=frozenset()))
    for words in (
        *("1 calls hung", "1 calls were lost", "1 calls got a wrong answer", "40.0% of the calls"),
        *("callers saw ConnectionLost", "refused calls saw ConnectionLost", "1 refused calls hung"),
        *("3 calls ran twice", "2 confirmed events were lost", "5 calls ran twice in one process"),
    ):
        assert words in said
    assert report.row() == [
        *("a name", "20", "8", "8 ConnectionLost", "3", "5", "3", "5", "3", "3"),
        "4 ConnectionLost, 4 answers",
    ]

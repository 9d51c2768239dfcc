"""A sample of the points, on all databases at a time: `make kills` plays all points."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.once.databases import KINDS
from tests.once.report import table
from tests.once.stage import play
from tests.servers import Urls

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

#: One of so many points is played.
EVERY = 16


@pytest.fixture
def servers(rabbitmq_uri: str, postgresql_uri: str, mysql_uri: str) -> Urls:
    return Urls(rabbitmq_uri, postgresql_uri, mysql_uri)


async def test_an_order_and_its_effect_are_there_once_wherever_a_process_dies(
    servers: Urls,
) -> None:
    first = random.randrange(EVERY)
    reports = await asyncio.gather(
        *(play(servers, kind, every=EVERY, first=first) for kind in KINDS)
    )
    print(table(reports))
    assert [wrong for report in reports for wrong in report.wrong] == []
    for report in reports:
        assert len(report.killed) > 3 * len(report.missed), report.missed


async def test_without_keys_outbox_and_inbox_the_ledger_shows_what_happened_twice(
    servers: Urls,
) -> None:
    report = await play(servers, "sqlite", at="before the write of basic.ack #1", once=False)
    assert report.killed
    assert [each for each in report.twice if "effects" in each]

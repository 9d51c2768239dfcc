"""
The short form of the fuzzing; `tests/chaos/fuzz.py` is the whole, and plays a single seed again.
"""

from __future__ import annotations

import pytest

from tests.chaos.fuzzed_connections import fuzz_connections
from tests.chaos.fuzzed_requests import fuzz_requests
from tests.servers import Rabbit

# Alone: a call must end in time although 16 seeds run at once.
pytestmark = [pytest.mark.rabbitmq, pytest.mark.alone]

#: Seeds that take at most 5 s: none of them loses an answer for which a connection waits 10 s.
SEEDS = range(43, 67)


async def test_a_service_survives_malformed_messages_with_one_line_of_log_each(
    node: Rabbit,
) -> None:
    report = await fuzz_requests(node.url, range(300))
    print(report)
    assert report.failures == []
    assert report.answered == 300
    assert report.sent > 200


async def test_service_and_client_survive_a_broker_that_spoils_its_frames(node: Rabbit) -> None:
    report = await fuzz_connections(node.url, SEEDS)
    print(report)
    assert report.failures == []
    assert report.alive == report.seeds == len(SEEDS)
    assert report.spoiled > 15

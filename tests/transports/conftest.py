"""The fixture that every test of a transport begins with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.transports import Bench
from tests.support.waiting import eventually


@pytest.fixture
async def bench(broker_config: dict[str, Any]) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        bench = Bench(broker_config, stack)
        yield bench
    async with bench.transport() as janitor:
        for queue in bench.queues:
            await janitor.delete(queue)
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})

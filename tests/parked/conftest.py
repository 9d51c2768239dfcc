"""A queue and its parked queue on each transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from aiorpc.config import resolve
from aiorpc.transports import open_transport
from tests.support.parked import Yard


@pytest.fixture
async def yard(broker_config: dict[str, Any]) -> AsyncIterator[Yard]:
    settings = resolve({**broker_config, "MAX_MESSAGE_SIZE": None})
    async with aclosing(open_transport(settings, name="a test")) as transport:
        await transport.start(5)
        yard = Yard(transport)
        await yard.declare()
        yield yard
        for queue in yard.queues:
            await transport.delete(queue)

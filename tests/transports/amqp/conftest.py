"""What every test of the RabbitMQ transport begins with."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(params=["lane", "plain"])
def broker_config(request: pytest.FixtureRequest, rabbitmq_uri: str) -> dict[str, Any]:
    return {"AMQP_URI": rabbitmq_uri, "AMQP_FAST_LANE": request.param == "lane"}

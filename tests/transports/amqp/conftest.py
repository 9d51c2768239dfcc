"""What every test of the RabbitMQ transport begins with."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def broker_config(rabbitmq_uri: str) -> dict[str, Any]:
    return {"AMQP_URI": rabbitmq_uri}

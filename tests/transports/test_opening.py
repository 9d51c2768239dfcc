"""``open_transport`` chooses the transport by the URL and reports settings without effect."""

from __future__ import annotations

import uuid

import pytest

from aiorpc.config import from_mapping
from aiorpc.transports import open_transport


def test_settings_without_effect_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    settings = from_mapping(
        {"AMQP_URI": "memory://", "AMQP_FAST_LANE": False, "TRANSPORT_OPTIONS": {"max_retries": 3}},
        source=f"{uuid.uuid4().hex}.yaml",
    )
    open_transport(settings)
    open_transport(settings)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"{settings.source}: AMQP_FAST_LANE has no effect any more. Delete the key",
        ),
        (
            "WARNING",
            f"{settings.source}: TRANSPORT_OPTIONS has no effect: aiorpc reconnects until it "
            "stops, with its own backoff",
        ),
    ]

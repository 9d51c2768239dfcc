"""Payloads of events and plain messages, to a message and back."""

from __future__ import annotations

import pytest

from aiorpc.config import resolve
from aiorpc.context import Context, Deadline
from aiorpc.exceptions import UnserializableValueError
from aiorpc.wire.message import Message
from aiorpc.wire.names import DEADLINE
from aiorpc.wire.protocol import Wire


@pytest.fixture
def wire() -> Wire:
    return Wire.of(resolve("memory://"))


def test_events_neither_send_nor_obey_a_deadline(wire: Wire) -> None:
    context = Context(("id",), {"k": "v"}, Deadline(1.0))
    message = wire.payloads.encode({}, context)
    assert DEADLINE not in (message.headers or {})
    assert message.expiration is None
    message.headers = {**(message.headers or {}), DEADLINE: 1}
    _, arrived = wire.payloads.decode(message)
    assert arrived == Context(("id",), {"k": "v"})


def test_a_payload_without_a_body_is_not_decoded(wire: Wire) -> None:
    """As in kombu; an event handler of Nameko gets ``""``."""
    payload, _ = wire.payloads.decode(Message(body=b"", content_type="application/json"))
    assert payload == ""


def test_an_error_names_the_type_of_a_context_data_key_that_is_not_text(wire: Wire) -> None:
    context = Context(data={1: "x"})
    with pytest.raises(UnserializableValueError, match="a key of type int"):
        wire.payloads.encode({}, context)

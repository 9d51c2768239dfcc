"""What all parts of one configuration's wire have in common, and its payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiorpc import MalformedRequest
from aiorpc.config import resolve
from aiorpc.context import Context, Deadline
from aiorpc.exceptions import MalformedReply, UnserializableValueError
from aiorpc.wire.message import Message
from aiorpc.wire.names import DEADLINE, OVERSIZED
from aiorpc.wire.protocol import Wire
from aiorpc.wire.requests import Request


@pytest.fixture
def wire() -> Wire:
    return Wire.of(resolve("memory://"))


@pytest.mark.parametrize(
    ("decode", "error"),
    [
        (lambda wire, message: wire.replies.decode(message), MalformedReply),
        (lambda wire, message: wire.requests.arguments(Request(message, "m")), MalformedRequest),
        (lambda wire, message: wire.payloads.decode(message), MalformedRequest),
    ],
    ids=["reply", "request", "payload"],
)
def test_a_body_that_was_too_large_to_read_is_refused_with_its_size_and_the_limit(
    wire: Wire, decode: Callable[[Wire, Message], Any], error: type[Exception]
) -> None:
    message = Message(body=b"", content_type="application/json", headers={OVERSIZED: 5000})
    with pytest.raises(error, match="5000 bytes, more than MAX_MESSAGE_SIZE"):
        decode(wire, message)


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

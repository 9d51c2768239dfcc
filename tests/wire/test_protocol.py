"""What all parts of one configuration's wire have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiorpc import MalformedRequest
from aiorpc.config import resolve
from aiorpc.exceptions import MalformedReply
from aiorpc.wire.message import Message
from aiorpc.wire.names import OVERSIZED
from aiorpc.wire.protocol import Wire
from aiorpc.wire.requests import Request


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
    decode: Callable[[Wire, Message], Any], error: type[Exception]
) -> None:
    wire = Wire.of(resolve("memory://"))
    message = Message(body=b"", content_type="application/json", headers={OVERSIZED: 5000})
    with pytest.raises(error, match="5000 bytes, more than MAX_MESSAGE_SIZE"):
        decode(wire, message)

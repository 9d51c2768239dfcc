"""Replies, from a message to a result or an error."""

from __future__ import annotations

from typing import Any

import pytest

from aiorpc import MalformedReply, RemoteError
from aiorpc.config import resolve
from aiorpc.wire.json import encode
from aiorpc.wire.message import Message
from aiorpc.wire.protocol import Wire


def decoded(body: Any) -> Any:
    message = Message(body=encode(body), content_type="application/json")
    return Wire.of(resolve("memory://")).replies.decode(message)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ({"result": 1, "error": None}, 1),
        ({"result": 1}, 1),
        ({"result": None, "error": {}}, None),
        ({"error": None}, None),  # JavaScript leaves out a result that is undefined
        ({"error": {}}, None),
    ],
)
def test_a_reply_without_an_error_is_its_result(body: Any, result: Any) -> None:
    assert decoded(body) == result


def test_a_reply_with_an_error_raises_it_with_a_result_and_without() -> None:
    error = {"exc_type": "E", "exc_path": "p.E", "exc_args": [], "value": "v"}
    for body in ({"error": error}, {"result": None, "error": error}, {"result": 1, "error": error}):
        with pytest.raises(RemoteError, match="E v"):
            decoded(body)


@pytest.mark.parametrize("body", [{}, {"value": 1}, [], None, 1])
def test_a_body_without_result_and_error_is_a_malformed_reply(body: Any) -> None:
    with pytest.raises(MalformedReply):
        decoded(body)

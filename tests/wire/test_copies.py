"""Copies of messages: counted, or parked."""

from __future__ import annotations

import pytest

from aiorpc.wire.copies import attempts_of, counted, parked
from aiorpc.wire.message import Message


def test_a_copy_keeps_everything_except_what_would_misroute_it() -> None:
    message = Message(
        body=b"x",
        headers={"CC": ["a"], "BCC": ["b"], "mine": 1},
        user_id="somebody",
        reply_to="r",
        correlation_id="c",
        expiration=5,
    )
    copy = counted(message, "e", "k", "id", 3, None)
    assert copy.headers == {
        "mine": 1,
        "aiorpc-exchange": "e",
        "aiorpc-routing-key": "k",
        "aiorpc-resent": True,
        "aiorpc-attempts": 3,
        "aiorpc-copy": "id",
    }
    again = counted(copy, "", "queue", "other", 4, None).headers
    assert again == {**copy.headers, "aiorpc-attempts": 4, "aiorpc-copy": "other"}
    assert (copy.user_id, copy.reply_to, copy.correlation_id, copy.expiration) == (
        None,
        "r",
        "c",
        5,
    )
    assert message.headers == {"CC": ["a"], "BCC": ["b"], "mine": 1}
    assert attempts_of(copy) == 3
    assert attempts_of(message) is None


def test_a_parked_message_is_persistent_and_does_not_expire() -> None:
    message = parked(Message(body=b"x", persistent=False, expiration=5), "e", "k")
    assert (message.persistent, message.expiration) == (True, None)
    assert message.headers == {"aiorpc-exchange": "e", "aiorpc-routing-key": "k"}


@pytest.mark.parametrize("odd", ["3", -1, True, None, 2.0])
def test_an_attempts_header_that_is_no_count_is_ignored(odd: object) -> None:
    assert attempts_of(Message(body=b"", headers={"aiorpc-attempts": odd})) is None

"""Copies of messages: counted, or parked."""

from __future__ import annotations

import pytest

from aiorpc.wire.copies import (
    attempts_of,
    copy_id_of,
    counted,
    failures_of,
    identity_of,
    parked,
    retried,
    retries_of,
    was_resent,
)
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
    message = parked(Message(body=b"x", persistent=False, expiration=5), "e", "k", "why")
    assert (message.persistent, message.expiration) == (True, None)
    assert message.headers == {
        "aiorpc-exchange": "e",
        "aiorpc-routing-key": "k",
        "x-original-exchange": "e",
        "x-original-routingKey": "k",
        "x-exception-message": "why",
    }


def test_a_parked_message_keeps_the_end_of_a_long_stack() -> None:
    reason, stack = "r" * 5000, "s" * 20_000 + "the end"
    message = parked(Message(body=b"x"), "e", "k", reason, stack)
    assert message.headers is not None
    assert len(message.headers["x-exception-message"]) == 1000
    assert len(message.headers["x-exception-stacktrace"]) == 8000
    assert message.headers["x-exception-stacktrace"].endswith("the end")
    again = parked(message, "", "x.parked", "another reason")
    assert again.headers is not None
    assert again.headers["x-exception-message"] == "another reason"
    assert "x-exception-stacktrace" not in again.headers
    assert again.headers["x-original-exchange"] == "e"


def test_a_retried_message_counts_its_retries_and_leaves_the_attempts_behind() -> None:
    message = counted(Message(body=b"x", persistent=False, expiration=5), "e", "k", "id", 2, None)
    copy = retried(message, "", "queue", 3)
    assert retries_of(copy) == 3
    assert retries_of(message) == 0
    assert attempts_of(copy) is None
    assert copy_id_of(copy) is None
    assert was_resent(copy)
    assert (copy.persistent, copy.expiration) == (True, None)
    assert identity_of(copy, "", "queue") == identity_of(message, "", "queue")


@pytest.mark.parametrize("odd", ["3", -1, True, None, 2.0])
def test_a_retries_header_that_is_no_count_is_zero(odd: object) -> None:
    assert retries_of(Message(body=b"", headers={"aiorpc-retries": odd})) == 0


@pytest.mark.parametrize("odd", ["3", -1, True, None, 2.0])
def test_an_attempts_header_that_is_no_count_is_ignored(odd: object) -> None:
    assert attempts_of(Message(body=b"", headers={"aiorpc-attempts": odd})) is None


def test_a_copy_and_a_parked_message_leave_the_counts_of_their_queue_behind() -> None:
    message = Message(body=b"", headers={"x-delivery-count": 2, "x-acquired-count": 3})
    for copy in (counted(message, "e", "k", "id", 0, None), parked(message, "e", "k", "why")):
        assert copy.headers is not None
        assert {"x-delivery-count", "x-acquired-count"}.isdisjoint(copy.headers)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        # A classic queue only marks a message as redelivered. A stopped host may have requeued it.
        ({}, 0, 1),
        ({"aiorpc-attempts": 1}, 2, 2),
        # A quorum queue before RabbitMQ 4.3 also counts that requeue.
        ({"x-delivery-count": 1}, 0, 1),
        ({"x-delivery-count": 3}, 2, 3),
        ({"x-delivery-count": 2, "aiorpc-attempts": 1}, 3, 3),
        # Since 4.3 it does not.
        ({"x-acquired-count": 4}, 0, 0),
        ({"x-acquired-count": 4, "x-delivery-count": 1}, 1, 1),
        # A count may come from the queue that dead-lettered the message, or from a sender.
        ({"x-death": [], "x-acquired-count": 1, "x-delivery-count": 21}, 0, 1),
        ({"x-delivery-count": "3"}, 0, 1),
    ],
)
def test_failed_deliveries_are_counted_on_every_kind_of_queue(
    headers: dict[str, object], least: int, most: int
) -> None:
    message = Message(body=b"", headers=headers)
    assert failures_of(message, redelivered=True) == (least, most)


@pytest.mark.parametrize(("known", "failed"), [({}, 0), ({"aiorpc-attempts": 2}, 2)])
def test_a_first_delivery_has_only_the_failures_that_its_copy_counts(
    known: dict[str, int], failed: int
) -> None:
    message = Message(body=b"", headers={**known, "x-delivery-count": 9})
    assert failures_of(message, redelivered=False) == (failed, failed)

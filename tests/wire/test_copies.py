"""Copies of messages: counted, or parked."""

from __future__ import annotations

import pytest

from aiorpc.wire.copies import (
    attempts_of,
    copy_id_of,
    counted,
    failures_of,
    identity_of,
    original_key_of,
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


def test_a_copy_leaves_the_counts_of_its_queue_behind() -> None:
    message = Message(body=b"", headers={"x-delivery-count": 2, "x-acquired-count": 3})
    copy = counted(message, "e", "k", "id", 0, None)
    assert copy.headers is not None
    assert {"x-delivery-count", "x-acquired-count"}.isdisjoint(copy.headers)


def test_a_parked_message_that_was_moved_back_keeps_its_origin_when_it_is_retried() -> None:
    headers = {"aiorpc-queue": "q", "x-original-exchange": "e", "x-original-routingKey": "k"}
    moved = Message(body=b"x", headers=headers)
    copy = retried(moved, "", "q", 1)
    assert copy.headers == {
        "aiorpc-exchange": "e",
        "aiorpc-routing-key": "k",
        "aiorpc-resent": True,
        "aiorpc-retries": 1,
    }
    assert original_key_of(moved) == "k"
    assert identity_of(copy, "", "q") == identity_of(moved, "", "q")


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

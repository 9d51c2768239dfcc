"""Copies that are parked or replayed, and what a parked message says about itself."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aiorpc.wire.copies import attempts_of, counted, retried, retries_of, was_resent
from aiorpc.wire.message import Message
from aiorpc.wire.names import parked_queue
from aiorpc.wire.parked import Parking, parked, parking_of, replayed, source_of

AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
WHY = Parking(
    queue="q",
    exchange="e",
    routing_key="k",
    method="service.method",
    reason="ValueError: why",
    stack="the stack",
    at=AT,
    sensitive=[("args", "0"), ()],
)


def test_a_parked_message_is_persistent_and_does_not_expire() -> None:
    message = parked(Message(body=b"x", persistent=False, expiration=5, user_id="me"), WHY)
    assert (message.persistent, message.expiration, message.user_id) == (True, None, None)
    assert message.headers == {
        "x-original-exchange": "e",
        "x-original-routingKey": "k",
        "x-exception-message": "ValueError: why",
        "x-exception-stacktrace": "the stack",
        "aiorpc-queue": "q",
        "aiorpc-method": "service.method",
        "aiorpc-parked-at": AT,
        "aiorpc-sensitive": [["args", "0"], []],
    }


def test_a_parked_message_says_what_was_written_into_it() -> None:
    found = parking_of(parked(Message(body=b"x"), WHY), "q.parked")
    assert found.sensitive == [["args", "0"], []]
    assert (found.queue, found.exchange, found.routing_key) == ("q", "e", "k")
    assert (found.method, found.error, found.stack, found.at) == (
        "service.method",
        "ValueError",
        "the stack",
        AT,
    )


def test_a_parked_message_has_no_count_of_its_attempts() -> None:
    message = retried(Message(body=b"x", headers={"mine": 1, "x-death": []}), "e", "k", 3)
    message = counted(message, "", "queue", "id", 2, None)
    message = parked(message, Parking(queue="q", exchange="", routing_key="queue"))
    assert (attempts_of(message), retries_of(message), was_resent(message)) == (None, 0, False)
    assert message.headers == {
        "mine": 1,
        "x-death": [],
        "x-original-exchange": "e",
        "x-original-routingKey": "k",
        "x-exception-message": "",
        "aiorpc-queue": "q",
    }


def test_a_parked_message_keeps_the_end_of_a_long_stack() -> None:
    reason, stack = "r" * 5000, "s" * 20_000 + "the end"
    why = Parking(queue="q", exchange="e", routing_key="k", reason=reason, stack=stack)
    message = parked(Message(body=b"x"), why)
    assert message.headers is not None
    assert len(message.headers["x-exception-message"]) == 1000
    assert len(message.headers["x-exception-stacktrace"]) == 8000
    assert message.headers["x-exception-stacktrace"].endswith("the end")


def test_a_message_that_was_moved_back_by_hand_and_fails_again_keeps_its_first_origin() -> None:
    first = parked(Message(body=b"x"), WHY)
    why = Parking(queue="q", exchange="", routing_key="q", reason="another reason")
    again = parked(first, why).headers
    assert again == {
        "x-original-exchange": "e",
        "x-original-routingKey": "k",
        "x-exception-message": "another reason",
        "aiorpc-queue": "q",
    }


def test_the_origin_that_another_program_wrote_is_not_ours() -> None:
    spring = Message(body=b"", headers={"x-original-exchange": "s", "x-original-routingKey": "t"})
    headers = parked(spring, WHY).headers or {}
    assert (headers["x-original-exchange"], headers["x-original-routingKey"]) == ("e", "k")


#: What aiorpc 0.1.0 parked after the retries of an event.
OF_0_1 = Message(
    body=b"7",
    message_id="m",
    headers={
        "nameko.call_id_stack": ["a.b.1"],
        "aiorpc-exchange": "books.events",
        "aiorpc-routing-key": "sold",
        "aiorpc-resent": True,
        "aiorpc-retries": 3,
        "x-original-exchange": "books.events",
        "x-original-routingKey": "sold",
        "x-exception-message": "ValueError: no luck",
        "x-exception-stacktrace": "the stack",
    },
)


def test_a_message_that_an_older_version_parked_can_be_read_and_replayed() -> None:
    parking = parking_of(OF_0_1, "evt-books-sold--mailer.send.parked")
    assert (parking.method, parking.error, parking.queue) == (
        "mailer.send",
        "ValueError",
        "evt-books-sold--mailer.send",
    )
    exchange, key, message = replayed(OF_0_1, parking, publish=False)
    assert (exchange, key) == ("", "evt-books-sold--mailer.send")
    assert message.headers == {
        "nameko.call_id_stack": ["a.b.1"],
        "aiorpc-exchange": "books.events",
        "aiorpc-routing-key": "sold",
    }
    assert message.message_id == "m"
    exchange, key, message = replayed(OF_0_1, parking, publish=True)
    assert (exchange, key) == ("books.events", "sold")
    assert message.headers == {"nameko.call_id_stack": ["a.b.1"]}


def test_a_request_goes_to_the_key_that_names_its_method_without_its_old_deadline() -> None:
    request = Message(body=b"{}", headers={"nameko.aiorpc_deadline": "1"}, reply_to="r")
    why = Parking(queue="rpc-shop", exchange="nameko-rpc", routing_key="shop.order")
    message = parked(request, why)
    parking = parking_of(message, "rpc-shop.parked")
    assert (parking.is_request, parking.method) == (True, "shop.order")
    exchange, key, again = replayed(message, parking, publish=False)
    assert (exchange, key, again.headers, again.reply_to) == ("nameko-rpc", "shop.order", {}, "r")


def test_a_message_with_a_dotted_key_of_another_queue_is_no_request() -> None:
    why = Parking(queue="orders", exchange="sales", routing_key="shop.order")
    assert not why.is_request


def test_a_message_without_any_header_goes_to_the_queue_that_the_name_says() -> None:
    message = Message(body=b"by hand")
    parking = parking_of(message, "orders.parked")
    assert (parking.queue, parking.method, parking.error) == ("orders", "", "")
    exchange, key, again = replayed(message, parking, publish=False)
    assert (exchange, key, again.headers) == ("", "orders", {})
    with pytest.raises(ValueError, match="x-original-exchange"):
        replayed(message, parking, publish=True)


def test_the_queue_of_a_name_that_was_cut_is_not_guessed() -> None:
    cut = parked_queue("q" * 254).name
    assert len(cut) == 255
    assert source_of(cut) == ""
    assert source_of(f"{'q' * 248}.parked") == "q" * 248
    assert source_of("no parked queue") == ""
    with pytest.raises(ValueError, match="cut"):
        replayed(Message(body=b""), parking_of(Message(body=b""), cut), publish=False)
    why = Parking(queue="q" * 254, exchange="", routing_key="k")
    known = parking_of(parked(Message(body=b""), why), cut)
    assert replayed(Message(body=b""), known, publish=False)[1] == "q" * 254


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("ValueError: no luck: at all", "ValueError"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("shop.errors.Late: x", "shop.errors.Late"),
        ("", ""),
        ("it cannot be read: MalformedRequest: no JSON", "MalformedRequest"),
        # aiorpc 0.1.0 wrote this.
        (
            "sold: delivered 6 times; each time the process or its connection was lost",
            "DeliveryUncertain",
        ),
        ("Listener threw an exception", "Listener threw an exception"),
    ],
)
def test_the_error_is_the_type_in_the_reason(reason: str, error: str) -> None:
    assert Parking(reason=reason).error == error


def test_a_dead_letter_of_the_broker_has_its_reason() -> None:
    message = Message(body=b"", headers={"x-death": [{"reason": "rejected", "queue": "q"}]})
    assert parking_of(message, "q.parked").error == "dead-lettered: rejected"


@pytest.mark.parametrize("odd", [1, b"\xff", None, [], {"a": 1}, True])
def test_headers_of_the_wrong_type_say_nothing(odd: object) -> None:
    names = ["aiorpc-queue", "aiorpc-method", "aiorpc-parked-at", "aiorpc-sensitive", "x-death"]
    names += ["x-original-exchange", "x-original-routingKey", "x-exception-message"]
    message = Message(body=b"", headers={**dict.fromkeys(names, odd), "x-exception-stacktrace": 1})
    found = parking_of(message, "evt-a-b--c.d.parked")
    assert (found.queue, found.method, found.reason) == ("evt-a-b--c.d", "c.d", "")
    assert (found.exchange, found.stack, found.at, list(found.sensitive)) == (None, None, None, [])

"""Requests, to a message and back: deadlines (rules 1 to 3), clocks that differ, odd input."""

from __future__ import annotations

import ast
import math
import time
from typing import Any

import pytest

from aiorpc import Call, RpcTimeout
from aiorpc.config import resolve
from aiorpc.context import Context, Deadline
from aiorpc.wire import requests
from aiorpc.wire.headers import FilledHeaders, template_of
from aiorpc.wire.message import MAX_EXPIRATION, Message
from aiorpc.wire.names import (
    DEADLINE,
    RESENT,
    TIMESTAMP,
    TRACEPARENT,
    TRACEPARENT_LENGTH,
)
from aiorpc.wire.protocol import Wire
from aiorpc.wire.requests import Request, seconds_since_sent

NOW = 1_700_000_000.0
MONOTONIC = 5_000.0


@pytest.fixture(autouse=True)
def stopped_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: MONOTONIC)
    monkeypatch.setattr(requests, "epoch", lambda: NOW)
    monkeypatch.setattr(requests, "monotonic", lambda: MONOTONIC)


@pytest.fixture
def wire() -> Wire:
    return Wire.of(resolve("memory://"))


def sent(wire: Wire, timeout: float | None, **context: Any) -> Message:
    call = Call("s", "m", context=Context(**context).within(timeout))
    return wire.requests.encode(call, reply_to="r", correlation_id="c")


def received(wire: Wire, message: Message) -> Request:
    return wire.requests.read(Request(message, "m"))


def left(wire: Wire, message: Message) -> float | None:
    """Seconds until the deadline of the request, by the clock of its receiver."""
    request = received(wire, message)
    assert request.late is None
    deadline = request.context.deadline
    return None if deadline is None else deadline.at - MONOTONIC


def came(skew: float | None = None, expiration: int | None = None) -> Message:
    """A request whose deadline is *skew* seconds from now by our clock."""
    headers = {} if skew is None else {DEADLINE: str(int((NOW + skew) * 1000))}
    return Message(body=b"", headers=headers, expiration=expiration)


# Going out


def test_context_data_cannot_pass_for_a_deadline(wire: Wire) -> None:
    data = {DEADLINE.removeprefix("nameko."): 1, "user": 7}
    assert sent(wire, None, data=data).headers == {"nameko.user": 7}


def test_a_request_carries_its_deadline_and_its_expiration(wire: Wire) -> None:
    message = sent(wire, 2.5)
    assert message.headers == {DEADLINE: str(int((NOW + 2.5) * 1000))}
    assert message.expiration == 2500


@pytest.mark.parametrize(
    ("timeout", "expiration"),
    [(0.0001, 1), (0.0011, 2), (1e8, MAX_EXPIRATION), (math.inf, None), (None, None)],
)
def test_expiration_is_rounded_up_and_within_what_brokers_take(
    wire: Wire, timeout: float | None, expiration: int | None
) -> None:
    message = sent(wire, timeout)
    assert message.expiration == expiration
    assert (DEADLINE in (message.headers or {})) is (expiration is not None)


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_request_whose_deadline_has_passed_is_not_sent(wire: Wire, timeout: float) -> None:
    with pytest.raises(RpcTimeout, match=r"s\.m was not sent"):
        sent(wire, timeout)


def test_our_own_headers_are_not_context_data_after_a_nameko_hop(wire: Wire) -> None:
    headers = {"nameko.aiorpc-resent": True, "nameko.aiorpc-copy": "x", "nameko.mine": 1}
    request = received(wire, Message(body=b"", headers=headers))
    assert request.context.data == {"mine": 1}


def test_a_serializer_may_keep_tuples() -> None:
    options = {
        "encoder": "tests.wire.test_requests.as_repr",
        "decoder": "tests.wire.test_requests.from_repr",
        "content_type": "application/x-repr",
        "content_encoding": "utf-8",
    }
    wire = Wire.of(resolve({"serializer": "repr", "SERIALIZERS": {"repr": options}}))
    call = Call("s", "m", (1, (2,)), {"k": 3})
    message = wire.requests.encode(call, reply_to="r", correlation_id="c")
    assert wire.requests.arguments(received(wire, message)) == ([1, (2,)], {"k": 3})


def as_repr(value: Any) -> str:
    return repr(value)


def from_repr(text: str) -> Any:
    return ast.literal_eval(text)


def test_a_re_sent_request_has_the_time_that_is_left_then(wire: Wire) -> None:
    message = sent(wire, 10)
    again = wire.requests.resend(message, Deadline(MONOTONIC + 4))
    assert again is not None
    assert again.expiration == 4000
    assert again.headers == {**(message.headers or {}), RESENT: True}
    assert received(wire, again).resent
    assert wire.requests.resend(message, Deadline(MONOTONIC)) is None


# Coming in


@pytest.mark.parametrize(
    ("skew", "expiration", "expected"),
    [
        (3, 5000, 3),  # the nearer of the two
        (8, 5000, 5),
        (-2, 5000, 5),  # passed, within the tolerance: clocks differ, the relative limit counts
        (None, 5000, 5),
        (3, None, 3),  # through a Nameko hop: the future is honoured,
        (-2, None, None),  # the past is not,
        (-86_400, None, None),  # be it the leftover of an event of yesterday
        (None, None, None),
        (1e10, None, None),  # further than any process lives
    ],
)
def test_time_left_is_the_nearer_limit(
    wire: Wire, skew: float | None, expiration: int | None, expected: float | None
) -> None:
    assert left(wire, came(skew, expiration)) == (
        None if expected is None else pytest.approx(expected, abs=0.01)
    )


def test_a_request_with_an_expiration_of_zero_is_late(wire: Wire) -> None:
    late = received(wire, came(None, 0)).late
    assert late is not None
    assert "an expiration of 0 ms" in str(late)


def test_a_request_later_than_the_tolerance_is_late_and_the_error_names_the_skew(
    wire: Wire,
) -> None:
    late = received(wire, came(-60, 5000)).late
    assert late is not None
    assert "60.0 s past its deadline" in str(late)
    assert "CLOCK_TOLERANCE" in str(late)


@pytest.mark.parametrize("odd", ["soon", 1.5, True, None, [1], {"a": 1}])
def test_a_deadline_of_another_type_is_ignored_and_never_context_data(
    wire: Wire, odd: object
) -> None:
    request = received(wire, Message(body=b"", headers={DEADLINE: odd, "nameko.k": 1}))
    assert request.context == Context((), {"k": 1})
    assert request.late is None


@pytest.mark.parametrize("extreme", [2**63 - 1, -(2**63), "9" * 19, "9" * 400])
def test_extreme_deadlines_do_no_harm_one_call_further(wire: Wire, extreme: int | str) -> None:
    request = received(wire, Message(body=b"", headers={DEADLINE: extreme}))
    call = Call("t", "n", context=request.context)
    assert wire.requests.encode(call, reply_to="r", correlation_id="c").expiration is None


def test_a_template_reads_as_the_same_headers_do(wire: Wire) -> None:
    template = template_of({"nameko.call_id_stack": ["a.b.1"], "nameko.user": "u", RESENT: True})
    assert template is not None
    filled = FilledHeaders(template, b"%d" % (int(NOW * 1000) + 2000))
    by_template, plainly = (
        received(wire, Message(body=b"", headers=headers, expiration=5000))
        for headers in (filled, filled.to_dict())
    )
    assert by_template.context == plainly.context
    assert by_template.context.deadline is not None
    assert (by_template.resent, by_template.late) == (plainly.resent, plainly.late) == (True, None)


def test_a_template_with_a_trace_reads_as_the_same_headers_do(wire: Wire) -> None:
    template = template_of({"nameko.user": "u"})
    assert template is not None
    traced = template.with_trace("0" * TRACEPARENT_LENGTH)
    filled = FilledHeaders(traced, b"%d" % (int(NOW * 1000) + 2000))
    by_template, plainly = (
        received(wire, Message(body=b"", headers=headers)) for headers in (filled, filled.to_dict())
    )
    assert by_template.context == plainly.context
    assert by_template.context.data == {"user": "u", TRACEPARENT: "0" * TRACEPARENT_LENGTH}


# When a message was sent


@pytest.mark.parametrize("quick", [False, True])
def test_a_request_says_how_long_ago_it_was_sent(
    wire: Wire, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call("s", "m", context=Context().within(10))
    template = template_of({"nameko.user": 7}) if quick else None
    message = wire.requests.encode(call, reply_to="r", correlation_id="c", template=template)
    assert (type(message.headers) is FilledHeaders) is quick
    monkeypatch.setattr(requests, "epoch", lambda: NOW + 1.5)
    assert seconds_since_sent(message) == pytest.approx(1.5, abs=0.002)


def test_a_request_that_was_sent_again_says_when_that_was(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call("s", "m", context=Context().within(10))
    message = wire.requests.encode(call, reply_to="r", correlation_id="c")
    monkeypatch.setattr(requests, "epoch", lambda: NOW + 4)
    monkeypatch.setattr(time, "monotonic", lambda: MONOTONIC + 4)
    again = wire.requests.resend(message, call.context.deadline)
    assert again is not None
    assert seconds_since_sent(again) == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize(
    ("headers", "expiration"),
    [(None, 5), ({}, 5), ({DEADLINE: "soon"}, 5), ({DEADLINE: "5"}, None), ({DEADLINE: [1]}, 5)],
)
def test_a_message_without_a_deadline_does_not_say_when_it_was_sent(
    headers: dict[str, Any] | None, expiration: int | None
) -> None:
    message = Message(body=b"", headers=headers, expiration=expiration)
    assert seconds_since_sent(message) is None


def test_the_brokers_timestamp_says_when_a_message_was_sent() -> None:
    early, late = (int((NOW + seconds) * 1000) for seconds in (-1, 1))
    assert seconds_since_sent(Message(body=b"", headers={TIMESTAMP: early})) == 1.0
    # The clocks of two hosts differ.
    assert seconds_since_sent(Message(body=b"", headers={TIMESTAMP: late})) == 0.0

"""Deadlines on the wire: rules 1 to 3, with clocks that disagree. And odd things that come."""

from __future__ import annotations

import ast
import math
import time
from typing import Any

import pytest

from aiorpc import Call, RpcTimeout
from aiorpc.config import resolve
from aiorpc.context import Context, Deadline
from aiorpc.exceptions import MalformedReply, MalformedRequest, UnserializableValueError
from aiorpc.wire import protocol
from aiorpc.wire.message import Message
from aiorpc.wire.names import DEADLINE, MAX_EXPIRATION, OVERSIZED, RESENT
from aiorpc.wire.protocol import Wire

NOW = 1_700_000_000.0
MONOTONIC = 5_000.0


@pytest.fixture(autouse=True)
def stopped_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: MONOTONIC)
    monkeypatch.setattr(protocol, "epoch", lambda: NOW)
    monkeypatch.setattr(protocol, "monotonic", lambda: MONOTONIC)


@pytest.fixture
def wire() -> Wire:
    return Wire.of(resolve("memory://"))


def sent(wire: Wire, timeout: float | None, **context: Any) -> Message:
    call = Call("s", "m", context=Context(**context).within(timeout))
    return wire.encode_request(call, reply_to="r", correlation_id="c")


def left(wire: Wire, message: Message, waited: float = 0.0) -> float | None:
    request = wire.request(message, "s.m", waited)
    assert request.late is None
    deadline = request.context.deadline
    return None if deadline is None else deadline.at - MONOTONIC


def came(skew: float | None = None, expiration: int | None = None) -> Message:
    """A request whose deadline is *skew* seconds from now by our clock."""
    headers = {} if skew is None else {DEADLINE: int((NOW + skew) * 1000)}
    return Message(body=b"", headers=headers, expiration=expiration)


# Going out


def test_context_data_cannot_pass_for_a_deadline(wire: Wire) -> None:
    data = {DEADLINE.removeprefix("nameko."): 1, "user": 7}
    assert sent(wire, None, data=data).headers == {"nameko.user": 7}


def test_a_request_bears_both_limits(wire: Wire) -> None:
    message = sent(wire, 2.5)
    assert message.headers == {DEADLINE: int((NOW + 2.5) * 1000)}
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
def test_what_is_late_already_is_not_sent(wire: Wire, timeout: float) -> None:
    with pytest.raises(RpcTimeout, match=r"s\.m was not sent"):
        sent(wire, timeout)


def test_events_neither_send_nor_obey_a_deadline(wire: Wire) -> None:
    context = Context(("id",), {"k": "v"}, Deadline(MONOTONIC + 1))
    message = wire.encode_payload({}, context)
    assert DEADLINE not in (message.headers or {})
    assert message.expiration is None
    message.headers = {**(message.headers or {}), DEADLINE: 1}
    _, arrived = wire.decode_payload(message)
    assert arrived == Context(("id",), {"k": "v"})


def test_a_payload_without_a_body_is_not_decoded(wire: Wire) -> None:
    """As in kombu; an event handler of Nameko gets ``""``."""
    payload, _ = wire.decode_payload(Message(body=b"", content_type="application/json"))
    assert payload == ""


def test_our_own_headers_are_no_context_data_after_a_nameko_hop_either(wire: Wire) -> None:
    headers = {"nameko.aiorpc-resent": True, "nameko.aiorpc-copy": "x", "nameko.mine": 1}
    request = wire.request(Message(body=b"", headers=headers), "s.m")
    assert request.context.data == {"mine": 1}


def test_a_key_of_the_context_data_that_is_no_text_is_named(wire: Wire) -> None:
    context = Context(data={1: "x"})
    with pytest.raises(UnserializableValueError, match="a key of type int"):
        wire.encode_payload({}, context)


def test_a_body_that_was_too_large_to_read_is_told_as_that(wire: Wire) -> None:
    message = Message(body=b"", content_type="application/json", headers={OVERSIZED: 5000})
    with pytest.raises(MalformedReply, match="5000 bytes, more than MAX_MESSAGE_SIZE"):
        wire.decode_reply(message)
    with pytest.raises(MalformedRequest, match="5000 bytes, more than MAX_MESSAGE_SIZE"):
        wire.decode_arguments(wire.request(message, "s.m"))


def test_a_serializer_may_keep_tuples() -> None:
    options = {
        "encoder": "tests.wire.test_protocol.as_repr",
        "decoder": "tests.wire.test_protocol.from_repr",
        "content_type": "application/x-repr",
        "content_encoding": "utf-8",
    }
    wire = Wire.of(resolve({"serializer": "repr", "SERIALIZERS": {"repr": options}}))
    call = Call("s", "m", (1, (2,)), {"k": 3})
    message = wire.encode_request(call, reply_to="r", correlation_id="c")
    assert wire.decode_arguments(wire.request(message, "s.m")) == ([1, (2,)], {"k": 3})


def as_repr(value: Any) -> str:
    return repr(value)


def from_repr(text: str) -> Any:
    return ast.literal_eval(text)


def test_a_request_sent_again_has_the_time_that_is_left_then(wire: Wire) -> None:
    message = sent(wire, 10)
    again = wire.resend_request(message, Deadline(MONOTONIC + 4))
    assert again is not None
    assert again.expiration == 4000
    assert again.headers == {**(message.headers or {}), RESENT: True}
    assert wire.request(again, "s.m").resent
    assert wire.resend_request(message, Deadline(MONOTONIC)) is None


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


def test_time_in_our_own_process_counts_by_our_own_clock(wire: Wire) -> None:
    assert left(wire, came(None, 5000), waited=2) == pytest.approx(3)
    late = wire.request(came(None, 5000), "s.m", 6).late
    assert late is not None
    assert "waited 6 s in the process" in str(late)


def test_past_the_tolerance_it_is_late_and_the_skew_is_named(wire: Wire) -> None:
    late = wire.request(came(-60, 5000), "s.m").late
    assert late is not None
    assert "60.0 s past its deadline" in str(late)
    assert "CLOCK_TOLERANCE" in str(late)


@pytest.mark.parametrize("odd", ["123", 1.5, True, None, [1], {"a": 1}])
def test_a_deadline_of_another_type_is_ignored_and_never_context_data(
    wire: Wire, odd: object
) -> None:
    request = wire.request(Message(body=b"", headers={DEADLINE: odd, "nameko.k": 1}), "s.m")
    assert request.context == Context((), {"k": 1})
    assert request.late is None


@pytest.mark.parametrize("extreme", [2**63 - 1, -(2**63)])
def test_extreme_deadlines_do_no_harm_one_call_further(wire: Wire, extreme: int) -> None:
    request = wire.request(Message(body=b"", headers={DEADLINE: extreme}), "s.m")
    call = Call("t", "n", context=request.context)
    assert wire.encode_request(call, reply_to="r", correlation_id="c").expiration is None

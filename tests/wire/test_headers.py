"""Headers and contexts: what each carries of the other, and what requests may share."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from aiorpc.context import Context
from aiorpc.wire.headers import (
    FilledHeaders,
    Meaning,
    context_headers,
    context_of,
    read_headers,
    template_of,
)
from aiorpc.wire.json import decode, encode
from aiorpc.wire.names import CALL_ID_STACK, COMPRESSION, DEADLINE, RESENT

VALUES = st.text() | st.integers() | st.booleans() | st.binary(max_size=3)
CONTEXTS = st.builds(
    Context,
    st.lists(st.text(min_size=1), max_size=3).map(tuple),
    st.dictionaries(
        st.text(st.characters(exclude_characters="-_"), min_size=1).filter(
            lambda name: not name.startswith("nameko.")
        ),
        VALUES,
        max_size=3,
    ),
)


@given(CONTEXTS)
def test_a_context_comes_back_from_its_headers(context: Context) -> None:
    found = context_of(context_headers(context))
    assert (found.call_id_stack, dict(found.data)) == (context.call_id_stack, dict(context.data))


@given(CONTEXTS, st.integers(1, 1 << 62))
def test_a_template_and_plain_headers_mean_the_same(context: Context, deadline: int) -> None:
    headers = context_headers(context)
    template = template_of(headers)
    assert template is not None
    filled, plain = FilledHeaders(template, b"%d" % deadline), {**headers, DEADLINE: str(deadline)}
    assert read_headers(filled) == read_headers(plain)
    as_lists = {k: list(v) if type(v) is tuple else v for k, v in plain.items()}
    assert filled == as_lists
    assert list(filled) == list(as_lists)
    assert len(filled) == len(as_lists)
    assert repr(filled) == repr(as_lists)


def test_filled_headers_can_be_copied_encoded_and_searched() -> None:
    template = template_of({"nameko.user": 7})
    assert template is not None
    headers = FilledHeaders(template, b"5")
    assert {**headers, RESENT: True} == {"nameko.user": 7, DEADLINE: "5", RESENT: True}
    assert decode(encode({"headers": headers})) == {"headers": {"nameko.user": 7, DEADLINE: "5"}}
    assert DEADLINE in headers
    assert RESENT not in headers
    assert headers.get("nameko.user") == 7


@pytest.mark.parametrize("sent", [5, "5"])
def test_a_deadline_is_read_from_text_and_from_an_integer(sent: int | str) -> None:
    assert read_headers({DEADLINE: sent}) == (Meaning(), 5)


@pytest.mark.parametrize("odd", ["soon", "", "1.5", "9" * 20, "9" * 5000, 1.5, True, None, [1]])
def test_another_deadline_is_ignored(odd: Any) -> None:
    assert read_headers({DEADLINE: odd}) == (Meaning(), None)


@pytest.mark.parametrize("value", [["a"], {"a": 1}, ("a",), None, [1]])
def test_headers_whose_values_could_change_have_no_template(value: Any) -> None:
    assert template_of({"nameko.x": value}) is None


@pytest.mark.parametrize("stack", [[1], {"a": 1}, None])
def test_an_odd_call_id_stack_has_no_template_and_is_ignored(stack: Any) -> None:
    assert template_of({CALL_ID_STACK: stack}) is None
    meaning, _ = read_headers({CALL_ID_STACK: stack})
    assert meaning.stack == ()


def test_a_template_keeps_no_deadline_from_the_context_data() -> None:
    context = Context(data={DEADLINE.removeprefix("nameko."): 1, "user": 7})
    template = template_of(context_headers(context))
    assert template is not None
    assert template.fields == {"nameko.user": 7}


def test_headers_say_whether_a_request_was_resent_and_is_compressed() -> None:
    assert read_headers({RESENT: True})[0] == Meaning(resent=True)
    assert read_headers({COMPRESSION: "gzip"})[0] == Meaning(compressed=True)
    assert read_headers(None) == (Meaning(), None)


@pytest.mark.parametrize("prefix", ["", "nameko."])
def test_what_the_broker_or_a_plugin_adds_to_a_message_is_no_context_data(prefix: str) -> None:
    added = [
        *("x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count"),
        *("x-acquired-count", "x-received-from", "x-shovelled", "x-shovelled-timestamp"),
        *("x-stream-offset", "x-mqtt-publish-qos", "x-amqp-1.0-properties", "aiorpc-attempts"),
        "timestamp_in_ms",
    ]
    headers = {f"{prefix}{name}": 1 for name in added}
    assert context_of({**headers, "x-request-id": "r", "nameko.x-user": 7}).data == {
        "x-request-id": "r",
        "x-user": 7,
    }


TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "a=1"}


def test_the_context_of_a_trace_travels_in_plain_headers() -> None:
    headers = context_headers(Context(data={**TRACE, "user_id": 7}))
    assert headers == {**TRACE, "nameko.user_id": 7}
    assert dict(context_of(headers).data) == {**TRACE, "user_id": 7}


def test_a_trace_comes_through_a_nameko_hop_which_adds_its_prefix() -> None:
    headers = {f"nameko.{name}": value for name, value in TRACE.items()}
    assert dict(context_of(headers).data) == TRACE


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_traces_the_senders_own_counts_and_not_an_older_one_in_context_data(
    order: int,
) -> None:
    headers = [("nameko.traceparent", "older"), ("traceparent", "own")][::order]
    assert dict(context_of(dict(headers)).data) == {"traceparent": "own"}

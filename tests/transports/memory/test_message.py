"""Messages in the broker of this process: the quick copy and the one by the codec are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import example, given, strategies as st

from aiorpc.exceptions import UnserializableValueError
from aiorpc.transports.memory.message import Carried, by_codec, carried
from aiorpc.wire.headers import FilledHeaders, template_of
from aiorpc.wire.message import Message

NAMES = st.text(max_size=8) | st.sampled_from(["x" * 255, "x" * 256, "é" * 128])
TEXTS = NAMES | st.just("\ud800")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63) - 1, 1 << 63)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(NAMES, inner, max_size=3)
    ),
    max_leaves=6,
)
MESSAGES = st.builds(
    Message,
    body=st.binary(max_size=3),
    content_type=st.none() | TEXTS,
    content_encoding=st.none() | TEXTS,
    headers=st.none() | st.dictionaries(NAMES, VALUES, max_size=3),
    persistent=st.booleans(),
    priority=st.none() | st.integers(0, 256),
    correlation_id=st.none() | TEXTS,
    reply_to=st.none() | TEXTS,
    expiration=st.none() | st.integers(0, 1 << 40),
    message_id=st.none() | TEXTS,
    app_id=st.none() | TEXTS,
)


def requests(headers: dict[str, Any], deadline: int) -> Message:
    template = template_of(headers)
    return Message(body=b"", headers=template and FilledHeaders(template, b"%d" % deadline))


def outcome(carry: Callable[[Message], Carried], message: Message) -> Any:
    try:
        copied = carry(message)
    except UnserializableValueError as error:
        return str(error)
    assert copied.copy() == copied.message
    return msgspec.structs.asdict(copied.message)


@given(MESSAGES)
@example(Message(body=b"", headers={"a": "x" * 131_000}))
@example(Message(body=b"", headers={"a": ["x" * 131_000]}))
def test_a_quick_copy_equals_a_copy_by_the_codec(message: Message) -> None:
    assert outcome(carried, message) == outcome(by_codec, message)


@given(st.dictionaries(NAMES, VALUES, max_size=3), st.integers(-(1 << 63), (1 << 63) - 1))
def test_headers_of_a_template_equal_a_copy_by_the_codec(
    headers: dict[str, Any], deadline: int
) -> None:
    message = requests(headers, deadline)
    assert outcome(carried, message) == outcome(by_codec, message)

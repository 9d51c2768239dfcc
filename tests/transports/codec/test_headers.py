"""Headers to bytes and back: a template and a plain table give the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pamqp.decode
import pytest
from hypothesis import given, strategies as st

from aiorpc.context import Context
from aiorpc.transports.codec.headers import decode_headers, encode_headers
from aiorpc.transports.codec.table_decoding import GARBLED, size_at
from aiorpc.transports.codec.table_encoding import encode_table
from aiorpc.wire.headers import FilledHeaders, context_headers, read_headers, template_of
from aiorpc.wire.names import DEADLINE, TRACEPARENT, TRACEPARENT_LENGTH
from tests.support.frames import INT64

VALUES = (
    st.text("LIAx", max_size=14)
    | INT64
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
DATA = st.dictionaries(st.text("aLIx", max_size=12), VALUES, max_size=4)
STACKS = st.lists(st.text("aL", max_size=12), max_size=3).map(tuple)
#: Nearly all have 13 digits; the others come from a clock that was never set.
TRACES = st.text("0f-L\0", min_size=TRACEPARENT_LENGTH, max_size=TRACEPARENT_LENGTH)
DEADLINES = st.integers(1 << 40, 1 << 43) | st.integers(0, 1 << 62)


def decoded(data: bytes, at: int) -> tuple[Mapping[str, Any], int]:
    (size,) = size_at(data, at)
    return decode_headers(data, at, size)


@given(DATA, STACKS, DEADLINES, DEADLINES)
def test_a_template_gives_the_bytes_of_the_plain_headers(
    data: dict[str, Any], stack: tuple[str, ...], first: int, second: int
) -> None:
    headers = context_headers(Context(stack, data))
    template = template_of(headers)
    assert template is not None
    for deadline in (first, second, first):
        plain = {**headers, DEADLINE: str(deadline)}
        encoded = encode_headers(FilledHeaders(template, b"%d" % deadline))
        assert encoded == encode_table(plain)
        size, table = pamqp.decode.field_table(encoded)
        assert (size, table) == (len(encoded), FilledHeaders(template, b"%d" % deadline))


@given(DATA, STACKS, DEADLINES, DEADLINES)
def test_headers_that_are_read_again_mean_the_same(
    data: dict[str, Any], stack: tuple[str, ...], first: int, second: int
) -> None:
    # The first reading learns the template; any byte of the names may look like the tag of a long.
    headers = context_headers(Context(stack, data))
    for deadline in (first, second, first):
        plain = {**headers, DEADLINE: str(deadline)}
        encoded = encode_headers(plain)
        found, end = decoded(b"before" + encoded + b"after", 6)
        assert end == 6 + len(encoded)
        expected = {k: list(v) if type(v) is tuple else v for k, v in plain.items()}
        assert (dict(found), len(found)) == (expected, len(expected))
        assert read_headers(found) == read_headers(plain)


@given(DATA, STACKS, DEADLINES, TRACES, TRACES)
def test_a_trace_in_a_template_gives_the_bytes_and_the_meaning_of_plain_headers(
    data: dict[str, Any], stack: tuple[str, ...], deadline: int, first: str, second: str
) -> None:
    headers = context_headers(Context(stack, data))
    template = template_of(headers)
    assert template is not None
    for trace in (first, second, first):
        plain = {**headers, TRACEPARENT: trace, DEADLINE: str(deadline)}
        filled = FilledHeaders(template.with_trace(trace), b"%d" % deadline)
        assert encode_headers(filled) == encode_table(plain)
        found, _ = decoded(encode_table(plain), 0)
        expected = {k: list(v) if type(v) is tuple else v for k, v in plain.items()}
        assert (dict(found), len(found)) == (expected, len(expected))
        assert found[TRACEPARENT] == filled[TRACEPARENT] == trace
        assert read_headers(found) == read_headers(filled) == read_headers(plain)


@given(
    st.lists(st.tuples(st.sampled_from(["x", TRACEPARENT, DEADLINE]), TRACES), max_size=5),
    DEADLINES,
)
def test_a_trace_that_is_repeated_or_stands_elsewhere_is_read_as_plain_headers(
    entries: list[tuple[str, str]], deadline: int
) -> None:
    payload = b"".join(encode_table({name: text})[4:] for name, text in entries)
    payload += encode_table({DEADLINE: str(deadline)})[4:]
    table = len(payload).to_bytes(4, "big") + payload
    expected = {**dict(entries), DEADLINE: str(deadline)}
    for _ in range(2):
        assert dict(decoded(table, 0)[0]) == expected


@given(
    st.lists(
        st.tuples(
            st.text("aLIx", max_size=12) | st.just(DEADLINE),
            INT64
            | st.integers(-5, 5)
            | st.text("S\0\r0", max_size=19)
            | st.lists(st.text("L", max_size=12))
            | st.lists(INT64, max_size=2),
        ),
        max_size=4,
    ),
    DEADLINES,
    DEADLINES,
)
def test_tables_that_differ_in_their_end_are_told_apart(
    entries: list[tuple[str, Any]], first: int, second: int
) -> None:
    begin = dict(entries)
    for name in ("d", DEADLINE):
        texts = ({**begin, name: text} for text in (str(first), f"{second:013}", "no 13 digits."))
        for table in (*texts, {**begin, name: first}, begin):
            encoded = encode_headers(table)
            for _ in range(2):
                assert decoded(b"before" + encoded + b"after", 6) == (
                    table,
                    6 + len(encoded),
                )


@given(
    st.binary(max_size=40),
    st.binary(max_size=14) | st.text("0123456789", max_size=14).map(str.encode),
)
def test_garbage_that_is_read_twice_gives_the_same_twice(head: bytes, tail: bytes) -> None:
    garbage = head + b"S\0\0\0\r" + tail
    data = len(garbage).to_bytes(4, "big") + garbage
    found: list[Any] = []
    for _ in range(2):
        try:
            found.append(repr(decoded(data, 0)))
        except GARBLED as error:
            found.append(repr(error))
    assert found[0] == found[1]


@given(st.dictionaries(st.text("ab", max_size=3), st.lists(st.text("x")), min_size=1, max_size=2))
def test_headers_with_lists_are_never_shared(data: dict[str, Any]) -> None:
    headers = context_headers(Context((), data))
    assert template_of(headers) is None
    encoded = encode_headers({**headers, DEADLINE: str(1 << 40)})
    first, second = decoded(encoded, 0)[0], decoded(encoded, 0)[0]
    for name in headers:
        assert first[name] is not second[name]


#: Headers that the version before ADR 15 wrote: the deadline is an integer with the tag ``L``.
OLD = (
    b"\0\0\0Z\x0bnameko.userI\0\0\0\x07\x14nameko.call_id_stackA\0\0\0\x0fS\0\0\0\nshop.buy.1"
    b"\x16nameko.aiorpc_deadlineL\0\0\x01\xa0\xc4Pl\0"
)


@pytest.mark.parametrize("tag", [b"L", b"l"])
def test_headers_of_the_version_before_are_read(tag: bytes) -> None:
    encoded = OLD.replace(b"deadlineL", b"deadline" + tag)
    for _ in range(2):  # the first reading must not teach the second one another meaning
        found, end = decoded(encoded, 0)
        assert end == len(encoded)
        meaning, deadline = read_headers(found)
        assert deadline == 1_790_000_000_000
        assert (meaning.stack, meaning.data) == (("shop.buy.1",), {"user": 7})


def test_no_version_takes_the_deadline_for_context_data() -> None:
    """The version before drops the header by its name and goes by ``expiration``; see ADR 15."""
    found, _ = decoded(encode_headers({DEADLINE: "1790000000000", "nameko.user": 7}), 0)
    assert read_headers(found)[0].data == {"user": 7}

"""What aiormq's decoder cannot read is made legible to it, and nothing else is touched."""

from __future__ import annotations

import struct
from typing import Any

import pamqp.commands as spec
import pamqp.frame
import pytest
from hypothesis import given, strategies as st
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from aiorpc.transports.amqp.legible import Mender, unwrapped
from aiorpc.transports.codec.frames import MalformedContent, decode_content_header
from tests.support.frames import CHANNEL, MESSAGES, marshal, unmarshal_all

DELIVER = spec.Basic.Deliver(consumer_tag="tag", delivery_tag=200, exchange="x", routing_key="k.é")


def header(properties: bytes, size: int = 0) -> bytes:
    """A content header frame with these flags and properties."""
    payload = struct.pack(">HHQ", 60, 0, size) + properties
    return struct.pack(">BHI", 2, CHANNEL, len(payload)) + payload + b"\xce"


def received(stream: bytes, cuts: list[int]) -> bytes:
    """What a mender makes of *stream*, which arrives cut at *cuts*."""
    mender = Mender()
    pieces = zip([0, *cuts], [*cuts, len(stream)], strict=True)
    return b"".join(mender.receive(stream[start:end]) for start, end in pieces)


LEGIBLE = st.lists(
    st.builds(
        lambda message: (
            marshal(
                CHANNEL,
                DELIVER,
                ContentHeader(
                    body_size=len(message.body),
                    properties=spec.Basic.Properties(
                        headers={"n": 1, "text": "é", "list": [1, {"a": None}]},
                        correlation_id=message.correlation_id,
                        reply_to=message.reply_to,
                        timestamp=message.timestamp,
                    ),
                ),
                ContentBody(message.body or b"x"),
            )
            + marshal(0, Heartbeat())
            + marshal(CHANNEL, spec.Basic.Ack(delivery_tag=255))
        ),
        MESSAGES,
    ),
    max_size=3,
).map(b"".join)


@given(LEGIBLE, st.data())
def test_what_is_legible_stays_as_it_is_however_it_arrives(
    stream: bytes, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    assert received(stream, cuts) == stream


@given(st.binary(max_size=60), st.binary(max_size=20), st.data())
def test_any_properties_can_be_read_and_mean_what_they_mean_to_the_fast_lane(
    properties: bytes, body: bytes, data: st.DataObject
) -> None:
    # The bits of flags that nobody knows announce more flags: that is another test's.
    properties = bytes([data.draw(st.integers(0, 255)), data.draw(st.sampled_from([0, 0x80]))]) + (
        properties
    )
    stream = marshal(CHANNEL, DELIVER) + header(properties, len(body))
    stream += marshal(CHANNEL, ContentBody(body)) if body else b""
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))

    legible = received(stream, cuts)

    (_, delivery), (_, read), *_ = unmarshal_all(legible)
    assert isinstance(delivery, spec.Basic.Deliver)
    assert read.body_size == len(body)
    if legible == stream:
        return  # pamqp can read it
    try:
        expected = decode_content_header(header(properties)[7:-1], body)
    except MalformedContent:
        with pytest.raises(MalformedContent):
            unwrapped(read.properties, body)
    else:
        assert unwrapped(read.properties, body) == expected


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param(b"\x04\0" + b"\x02\xff\xfe", id="correlation id"),
        pytest.param(b"\x20\0\0\0\0\x05\x01hQ\0\0", id="unknown type of a header"),
        pytest.param(b"\x00\x40" + b"\xff" * 8, id="timestamp"),
        pytest.param(b"\xff\xfe", id="flags and nothing behind"),
        pytest.param(b"", id="nothing at all"),
    ],
)
def test_aiormq_can_read_what_it_would_die_of(properties: bytes) -> None:
    frame = header(properties)
    with pytest.raises(Exception):  # noqa: B017 - pamqp has several for it
        pamqp.frame.unmarshal(frame)
    (_, read), *_ = unmarshal_all(received(frame + marshal(CHANNEL, DELIVER), []))
    assert isinstance(read, ContentHeader)


def test_what_comes_back_is_still_found_by_its_message_id() -> None:
    (_, read), *_ = unmarshal_all(received(header(b"\x04\x80" + b"\x01\xff" + b"\x097.1"), []))
    assert read.properties.message_id is None, "its length is wrong"
    (_, read), *_ = unmarshal_all(received(header(b"\x04\x80" + b"\x01\xff" + b"\x037.1"), []))
    assert read.properties.message_id == "7.1"


def test_a_routing_key_that_is_no_text_is_read_with_question_marks() -> None:
    frame = marshal(CHANNEL, DELIVER)
    garbled = frame.replace("k.é".encode(), b"k\xff\xfe.")
    assert garbled != frame
    ((_, read),) = unmarshal_all(received(garbled, [3, 30]))
    assert (read.exchange, read.routing_key, read.delivery_tag) == ("x", "k??.", 200)


@pytest.mark.parametrize(
    "stream",
    [b"AMQP\x00\x00\x09\x01", b"\x01\0\x07\0\0\0\x01x\xcf", b"\x05\0\0\0\0\0\0\xce"],
    ids=["protocol header", "no end octet", "unknown kind"],
)
def test_a_stream_out_of_step_goes_on_as_it_is(stream: bytes) -> None:
    before: Any = marshal(CHANNEL, DELIVER)
    whole = before + stream + b"\x02 and so on"
    assert received(whole, [len(before) + 2, len(whole) - 4]) == whole

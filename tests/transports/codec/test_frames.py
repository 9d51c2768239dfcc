"""The hot frames of AMQP: to bytes and back, against pamqp and against what real Nameko sent."""

from __future__ import annotations

import contextlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pamqp.commands as spec
import pamqp.encode
import pamqp.frame
import pytest
from hypothesis import given, strategies as st
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from aiorpc.exceptions import UnserializableValueError
from aiorpc.transports.codec.demultiplexer import BadFrame, Demultiplexer
from aiorpc.transports.codec.encoder import Encoder
from aiorpc.transports.codec.properties import MalformedContent, decode_content_header
from aiorpc.transports.codec.table_decoding import GARBLED, decode_table
from aiorpc.transports.codec.table_encoding import encode_table
from aiorpc.wire.message import Message
from tests.support.files import DATA
from tests.support.frames import (
    CHANNEL,
    FRAME_MAX,
    INT64,
    KEYS,
    MESSAGES,
    SHORT,
    SIMPLE,
    TABLES,
    TAGS,
    content,
    marshal,
    unmarshal_all,
)

GOLDEN = json.loads((DATA / "nameko_messages.json").read_text())


def golden_messages() -> list[Any]:
    """Each message of each stack that went through Nameko's own publisher."""
    found = []
    for stack, conversations in GOLDEN["messages"].items():
        for name, conversation in conversations.items():
            for part, message in conversation.items():
                if isinstance(message, dict) and "header" in message:
                    found.append(pytest.param(message, id=f"{stack}/{name}/{part}"))
    assert len(found) > 50
    return found


# --- tables


@given(TABLES)
def test_a_table_means_the_same_to_pamqp(table: dict[str, Any]) -> None:
    encoded = encode_table(table)
    assert pamqp.decode.field_table(encoded) == (len(encoded), table)


@given(TABLES)
def test_a_table_comes_back_as_it_went(table: dict[str, Any]) -> None:
    encoded = encode_table(table)
    assert decode_table(b"before" + encoded + b"after", 6) == (table, 6 + len(encoded))


@given(
    st.dictionaries(
        st.text("abc.-", min_size=1, max_size=20),
        st.none() | st.booleans() | INT64.filter(lambda n: not -128 <= n < 0) | st.text("xyz"),
        max_size=6,
    )
)
def test_a_table_of_pamqp_is_read(table: dict[str, Any]) -> None:
    # It writes the smallest integers there are; it cannot write -128..-1 at all.
    assert decode_table(pamqp.encode.field_table(table), 0)[0] == table


@given(st.binary(max_size=60))
def test_garbage_is_refused_and_nothing_else(garbage: bytes) -> None:
    with contextlib.suppress(*GARBLED):
        decode_table(garbage, 0)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (200, b"I\0\0\0\xc8"),
        (-5, b"I\xff\xff\xff\xfb"),
        (-1000, b"I\xff\xff\xfc\x18"),
        (0x7FFFFFFF, b"I\x7f\xff\xff\xff"),
        (0x80000000, b"l\0\0\0\0\x80\0\0\0"),
        (1 << 40, b"l\0\0\x01\0\0\0\0\0"),
        (-0x80000000, b"L\xff\xff\xff\xff\x80\0\0\0"),
        (-(1 << 40), b"L\xff\xff\xff\0\0\0\0\0"),
        (0.1, b"d" + struct.pack(">d", 0.1)),
        (True, b"t\x01"),
        (None, b"V"),
        ("é", b"S\0\0\0\x02\xc3\xa9"),
        (b"\xff\0", b"x\0\0\0\x02\xff\0"),
        (Decimal("-1.50"), b"D\x02\xff\xff\xff\x6a"),
        (Decimal("1E+3"), b"D\0\0\0\x03\xe8"),
        (datetime(1970, 1, 1, 0, 1), b"T" + struct.pack(">Q", 60)),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), b"T" + bytes(8)),
        (("a", 1), b"A\0\0\0\x0bS\0\0\0\x01aI\0\0\0\x01"),
        ({"k": "v"}, b"F\0\0\0\x08\x01kS\0\0\0\x01v"),
        (IntEnum("Colour", "RED").RED, b"I\0\0\0\x01"),
    ],
)
def test_types_are_written_as_py_amqp_reads_them(value: Any, encoded: bytes) -> None:
    assert encode_table({"h": value})[6:] == encoded


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"b\xfb", -5),
        (b"B\xfb", 251),
        (b"s\xfc\x18", -1000),
        (b"U\xfc\x18", -1000),
        (b"u\xfc\x18", 64536),
        (b"i\xff\xff\xff\xff", 0xFFFFFFFF),
        (b"l" + b"\xff" * 8, -1),
        (b"L" + b"\xff" * 8, -1),
        (b"L\0\0\x01\0\0\0\0\0", 1 << 40),
        (b"f" + struct.pack(">f", 0.5), 0.5),
        (b"D\x01\xff\xff\xff\xf1", Decimal("-1.5")),
        (b"S\0\0\0\x01\xff", b"\xff"),
        (
            b"T" + struct.pack(">Q", 1_600_000_000_000),
            datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC),
        ),
        (b"T" + b"\xff" * 8, (1 << 64) - 1),
        (b"t\x02", True),
        (b"\0", None),
    ],
)
def test_all_types_of_all_peers_are_read(encoded: bytes, value: Any) -> None:
    table = struct.pack(">I", 2 + len(encoded)) + b"\x01h" + encoded
    read = decode_table(table, 0)[0]["h"]
    assert read == value
    assert type(read) is type(value)


class Unknown:
    pass


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ({"trace": Unknown()}, ["'trace'", "Unknown"]),
        ({"a": {"b": [1, {1, 2}]}}, ["'a.b[1]'", "set"]),
        ({"n": 1 << 63}, ["'n'", "64 bits"]),
        ({"x" * 256: 1}, ["255 bytes", "256"]),
        ({5: "x"}, ["names", "int"]),
        ({"d": Decimal("NaN")}, ["'d'", "NaN"]),
        ({"d": Decimal(1 << 31)}, ["'d'", "31 bits"]),
        ({"t": datetime(1969, 1, 1)}, ["'t'", "1969"]),
        ({"s": "\ud800"}, ["'s'", "surrogate"]),
        ({"s": ["fine", "\ud800"]}, ["'s", "surrogate"]),
    ],
)
def test_what_a_header_cannot_hold_is_named(headers: Any, names: list[str]) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        encode_table(headers)
    for name in names:
        assert name in str(caught.value)


def test_a_header_that_contains_itself_is_an_error() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    with pytest.raises(UnserializableValueError, match="contains itself"):
        encode_table({"loop": loop})


# --- messages


@pytest.mark.parametrize("sample", golden_messages())
def test_a_message_of_nameko_is_written_to_the_letter(sample: dict[str, Any]) -> None:
    header = bytes.fromhex(sample["header"])
    (size,) = struct.unpack_from(">Q", header, 4)
    message = decode_content_header(header, bytes(size))

    frames = Encoder(CHANNEL, 0).publish(
        sample["exchange"], sample["routing_key"], bool(sample.get("mandatory")), message
    )

    # One tag differs: an integer of 64 bits is ``l`` here; Node and Go know no ``L`` (ADR 15).
    assert header.replace(b"nameko.bigL", b"nameko.bigl") in frames
    properties = sample["properties"]
    assert message.headers == properties.get("headers")
    assert message.correlation_id == properties.get("correlation_id")
    assert message.reply_to == properties.get("reply_to")
    assert message.content_type == properties.get("content_type")
    assert message.priority == properties.get("priority")


@given(MESSAGES, SHORT, SHORT, st.booleans())
def test_a_published_message_means_the_same_to_pamqp(
    message: Message, exchange: str, routing_key: str, mandatory: bool
) -> None:
    frames = Encoder(CHANNEL, FRAME_MAX).publish(exchange, routing_key, mandatory, message)
    (_, method), (_, header), *bodies = unmarshal_all(frames)

    assert {channel for channel, _ in unmarshal_all(frames)} == {CHANNEL}
    assert isinstance(method, spec.Basic.Publish)
    assert (method.exchange, method.routing_key) == (exchange, routing_key)
    assert (method.mandatory, method.immediate) == (mandatory, False)
    assert header.body_size == len(message.body)
    assert b"".join(body.value for _, body in bodies) == message.body
    assert all(len(body.value) <= FRAME_MAX - 8 for _, body in bodies)
    seen = header.properties
    assert seen.content_type == message.content_type
    assert seen.content_encoding == message.content_encoding
    assert seen.headers == message.headers
    assert seen.delivery_mode == (2 if message.persistent else 1)
    assert seen.priority == message.priority
    assert seen.correlation_id == message.correlation_id
    assert seen.reply_to == message.reply_to
    assert seen.expiration == (None if message.expiration is None else str(message.expiration))
    assert seen.message_id == message.message_id
    assert seen.timestamp == message.timestamp
    assert seen.message_type == message.type
    assert seen.user_id == message.user_id
    assert seen.app_id == message.app_id


@given(MESSAGES)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    frames = Encoder(CHANNEL, 0).publish("x", "k", False, message)
    header = unmarshal_all(frames)[1][1]
    payload = frames[frames.index(b"\x02\0\x07") :]
    (size,) = struct.unpack_from(">I", payload, 3)
    assert isinstance(header, ContentHeader)
    assert decode_content_header(payload[7 : 7 + size], message.body) == message


@pytest.mark.parametrize("length", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
def test_a_body_is_cut_at_frame_max(length: int) -> None:
    message = Message(body=bytes(length))
    frames = Encoder(CHANNEL, FRAME_MAX).publish("x", "k", False, message)
    bodies = [frame.value for _, frame in unmarshal_all(frames)[2:]]
    assert [len(body) for body in bodies] == [
        min(FRAME_MAX - 8, length - at) for at in range(0, length, FRAME_MAX - 8)
    ]


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (Message(body=b"", correlation_id="x" * 256), "correlation id"),
        (Message(body=b"", reply_to="x" * 256), "reply-to"),
        (Message(body=b"", priority=256), "priority"),
        (Message(body=b"", timestamp=datetime(1960, 1, 1)), "timestamp"),
        (Message(body=b"", app_id="\ud800"), "app id"),
    ],
)
def test_a_property_that_cannot_be_sent_is_named(message: Message, what: str) -> None:
    with pytest.raises(UnserializableValueError, match=what):
        Encoder(CHANNEL, 0).publish("x", "k", False, message)


def test_a_long_routing_key_is_named() -> None:
    with pytest.raises(UnserializableValueError, match="routing key"):
        Encoder(CHANNEL, 0).publish("x", "k" * 256, False, Message(body=b""))


def test_a_correlation_id_that_is_no_text_goes_back_as_it_came() -> None:
    header = bytes.fromhex("003c00000000000000000000") + b"\x04\0" + b"\x02\xff\xfe"
    message = decode_content_header(header, b"")
    frames = Encoder(CHANNEL, 0).publish("x", "k", False, message)
    assert b"\x02\xff\xfe" in frames


def test_settling_means_the_same_to_pamqp() -> None:
    encoder = Encoder(CHANNEL, 0)
    frames = [
        encoder.ack(1 << 40),
        encoder.ack(3, multiple=True),
        encoder.reject(4, requeue=True),
        encoder.reject(5, requeue=False),
        encoder.nack(6),
        encoder.confirm_select(),
    ]
    ack, acks, requeue, drop, nack, select = (f for _, f in unmarshal_all(b"".join(frames)))
    assert isinstance(ack, spec.Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (1 << 40, False)
    assert (acks.delivery_tag, acks.multiple) == (3, True)
    assert (requeue.delivery_tag, requeue.requeue) == (4, True)
    assert (drop.delivery_tag, drop.requeue) == (5, False)
    assert isinstance(nack, spec.Basic.Nack)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (6, False, True)
    assert isinstance(select, spec.Confirm.Select)
    assert select.nowait


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xfe\0", id="flags and nothing behind"),
        pytest.param(b"\x20\0\0\0\0\x05\x01hQ\0\0", id="unknown type"),
        pytest.param(b"\x20\0\0\0\xff\xff", id="table longer than the frame"),
        pytest.param(b"\x04\0\x20abc", id="short string longer than the frame"),
        pytest.param(b"\x00\x01", id="more flags announced"),
    ],
)
def test_properties_that_make_no_sense_are_an_error(payload: bytes) -> None:
    with pytest.raises(MalformedContent):
        decode_content_header(b"\0\x3c\0\0" + bytes(8) + payload, b"")


def test_flags_that_nobody_knows_are_skipped() -> None:
    payload = b"\x04\x01\x80\0" + b"\x02id" + b"what the unknown one holds"
    assert decode_content_header(b"\0\x3c\0\0" + bytes(8) + payload, b"").correlation_id == "id"


@given(st.binary(max_size=80))
def test_garbage_for_properties_is_refused_and_nothing_else(garbage: bytes) -> None:
    with contextlib.suppress(MalformedContent):
        decode_content_header(b"\0\x3c\0\0" + bytes(8) + garbage, b"")


# --- the stream


@dataclass
class Heard:
    """A hot channel and a connection that write down what they hear."""

    max_message_size: int = 1 << 40
    heard: list[tuple[Any, ...]] = field(default_factory=list)

    def delivered(self, *what: Any) -> None:
        self.heard.append(("delivered", *what))

    def oversized(self, *what: Any) -> None:
        self.heard.append(("oversized", *what))

    def malformed(self, *what: Any) -> None:
        self.heard.append(("malformed", *what))

    def returned(self, *what: Any) -> None:
        self.heard.append(("returned", *what))

    def confirmed(self, *what: Any) -> None:
        self.heard.append(("confirmed", *what))

    def closing(self, *what: Any) -> None:
        self.heard.append(("closing", *what))

    def blocked(self, why: str) -> None:
        self.heard.append(("blocked", why))

    def unblocked(self) -> None:
        self.heard.append(("unblocked",))

    def hung_up(self, code: int, why: str) -> None:
        self.heard.append(("hung up", code, why))


@st.composite
def events(draw: st.DrawFn) -> tuple[bytes, tuple[Any, ...] | None, bytes]:
    """Frames; what the hot channel or the connection hears of them; what is left for others."""
    kind = draw(st.sampled_from(["deliver", "return", "ack", "nack", "cold", "hot rpc", "blocked"]))
    if kind == "deliver":
        tag, again, key, message = draw(TAGS), draw(st.booleans()), draw(KEYS), draw(SIMPLE)
        method = spec.Basic.Deliver(
            consumer_tag="ctag", delivery_tag=tag, redelivered=again, exchange="x", routing_key=key
        )
        frames = marshal(CHANNEL, method, *content(message, draw(st.integers(1, 3))))
        return frames, ("delivered", tag, again, "x", key, message), b""
    if kind == "return":
        key, message = draw(KEYS), draw(SIMPLE)
        method = spec.Basic.Return(
            reply_code=312, reply_text="NO_ROUTE", exchange="x", routing_key=key
        )
        frames = marshal(CHANNEL, method, *content(message, draw(st.integers(1, 3))))
        return frames, ("returned", 312, "NO_ROUTE", "x", key, message), b""
    if kind in ("ack", "nack"):
        tag, multiple = draw(TAGS), draw(st.booleans())
        cls = spec.Basic.Ack if kind == "ack" else spec.Basic.Nack
        frames = marshal(CHANNEL, cls(delivery_tag=tag, multiple=multiple))
        return frames, ("confirmed", tag, multiple, kind == "ack"), b""
    if kind == "blocked":
        frames = marshal(0, spec.Connection.Blocked(reason="low on memory"))
        return frames, ("blocked", "low on memory"), frames
    if kind == "hot rpc":
        frames = marshal(
            CHANNEL, spec.Queue.DeclareOk(queue="q", message_count=1, consumer_count=2)
        )
        return frames, None, frames
    # What aiormq reads: other channels with all they may get, and heartbeats.
    tag, message = draw(TAGS), draw(SIMPLE)
    method = spec.Basic.Deliver(consumer_tag="c", delivery_tag=tag, exchange="x", routing_key="k")
    frames = marshal(3, method, *content(message, 2)) + marshal(0, Heartbeat())
    return frames, None, frames


@given(st.lists(events(), max_size=8), st.data())
def test_any_split_of_any_stream_is_heard_the_same(
    stream: list[tuple[bytes, tuple[Any, ...] | None, bytes]], data: st.DataObject
) -> None:
    heard = Heard()
    demux = Demultiplexer(heard)
    demux.channels[CHANNEL] = heard
    whole = b"".join(frames for frames, _, _ in stream)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=12).map(sorted))

    rest = b"".join(
        demux.receive(whole[start:end])
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)
    )

    assert heard.heard == [event for _, event, _ in stream if event is not None]
    assert rest == b"".join(others for _, _, others in stream)


@given(st.data())
def test_contents_of_several_channels_may_be_interleaved(data: st.DataObject) -> None:
    heard = {number: Heard() for number in (1, 2, 3)}
    demux = Demultiplexer(Heard())
    demux.channels.update(heard)
    pending = {
        number: [
            marshal(number, frame)
            for message in data.draw(st.lists(SIMPLE, max_size=3))
            for frame in [
                spec.Basic.Deliver(consumer_tag="c", delivery_tag=1, exchange="", routing_key="k"),
                *content(message, 2),
            ]
        ]
        for number in heard
    }
    bodies = {number: sum(frame[0] == 1 for frame in frames) for number, frames in pending.items()}
    while any(pending.values()):
        number = data.draw(st.sampled_from([n for n, frames in pending.items() if frames]))
        assert demux.receive(pending[number].pop(0)) == b""
    assert {number: len(channel.heard) for number, channel in heard.items()} == bodies


def test_channels_and_connections_that_close_are_noticed_and_passed_on() -> None:
    heard = Heard()
    demux = Demultiplexer(heard)
    demux.channels[CHANNEL] = heard
    frames = marshal(
        CHANNEL, spec.Channel.Close(reply_code=404, reply_text="NOT_FOUND", class_id=1, method_id=2)
    ) + marshal(0, spec.Connection.Close(reply_code=320, reply_text="bye", class_id=0, method_id=0))
    assert demux.receive(frames) == frames
    assert heard.heard == [("closing", 404, "NOT_FOUND"), ("hung up", 320, "bye")]


def test_a_body_over_the_limit_is_not_kept() -> None:
    heard = Heard(max_message_size=10)
    demux = Demultiplexer(heard)
    demux.channels[CHANNEL] = heard
    method = spec.Basic.Deliver(consumer_tag="c", delivery_tag=9, exchange="x", routing_key="k")
    big, small = Message(body=b"x" * 11, correlation_id="id"), Message(body=b"x" * 10)
    frames = marshal(CHANNEL, method, *content(big, 3), method, *content(small, 3))
    assert demux.receive(frames) == b""
    (what, tag, exchange, key, size, head), second = heard.heard
    assert (what, tag, exchange, key, size) == ("oversized", 9, "x", "k", 11)
    assert (head.body, head.correlation_id) == (b"", "id")
    assert second[0] == "delivered"


def test_a_delivery_that_cannot_be_read_does_not_stop_the_next() -> None:
    heard = Heard()
    demux = Demultiplexer(heard)
    demux.channels[CHANNEL] = heard
    method = spec.Basic.Deliver(consumer_tag="c", delivery_tag=9, exchange="x", routing_key="k")
    garbled = b"\0\x3c\0\0" + struct.pack(">Q", 0) + b"\x20\0\0\0\0\x05\x01hQ\0\0"
    frames = marshal(CHANNEL, method)
    frames += struct.pack(">BHI", 2, CHANNEL, len(garbled)) + garbled + b"\xce"
    frames += marshal(CHANNEL, method, *content(Message(body=b"fine"), 1))
    demux.receive(frames)
    assert [event[0] for event in heard.heard] == ["malformed", "delivered"]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x01\0\x07\0\0\0\x01x\xcf", id="no end octet"),
        pytest.param(b"\x01\0\x07\x7f\xff\xff\xffxxxxxxxx", id="larger than agreed"),
    ],
)
def test_a_stream_out_of_step_is_an_error(frame: bytes) -> None:
    demux = Demultiplexer(Heard())
    demux.limit(FRAME_MAX)
    with pytest.raises(BadFrame):
        demux.receive(frame)

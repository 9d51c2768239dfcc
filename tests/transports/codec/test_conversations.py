"""
Whole conversations of a broker, as the demultiplexer hears them and as pamqp reads them: however
they are cut, both mean the same. Several channels talk at once, hot and other frames are mixed,
and the contents of different channels are interleaved frame by frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pamqp.commands as spec
import pamqp.frame
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from aiorpc.transports.codec.demultiplexer import Demultiplexer
from aiorpc.transports.codec.encoder import Encoder
from aiorpc.wire.message import Message
from tests.support.frames import KEYS, MESSAGES, SIMPLE, TAGS

HOT = (1, 2, 5)
COLD = (3, 4)
#: Some messages are over it.
MAX_MESSAGE_SIZE = 200

EXCHANGES = st.sampled_from(["", "x", "nameko-rpc"])  # pamqp refuses others
#: Few sizes, so that what is taken for the body of another message would fit; in them stand the end
#: octet and what looks like the beginning of a frame; the last is over the limit.
BODIES = st.sampled_from([0, 1, 1, 40, 40, MAX_MESSAGE_SIZE, MAX_MESSAGE_SIZE + 1]).map(
    lambda size: (b"\xce\x01\0\x01\0" * 60)[:size]
)

Heard = tuple[Any, ...]


@dataclass
class Listener:
    """A hot channel, or with 0 the connection, that writes down what it hears."""

    number: int
    heard: list[Heard]
    max_message_size: int = MAX_MESSAGE_SIZE

    def __getattr__(self, name: str) -> Any:
        return lambda *what: self.heard.append((self.number, name, *what))


# --- what a broker says


def frame(channel: int, value: Any) -> bytes:
    marshalled: bytes = pamqp.frame.marshal(value, channel)
    return marshalled


@st.composite
def contents(draw: st.DrawFn, channel: int) -> list[bytes]:
    """A delivery, or a message that comes back: method, header, and the body in some pieces."""
    key, message = draw(KEYS), draw(SIMPLE | SIMPLE | SIMPLE | MESSAGES)
    message.body = draw(BODIES)
    method = draw(
        st.builds(
            spec.Basic.Deliver,
            consumer_tag=KEYS,
            delivery_tag=TAGS,
            redelivered=st.booleans(),
            exchange=EXCHANGES,
            routing_key=st.just(key),
        )
        | st.builds(
            spec.Basic.Return,
            reply_code=st.integers(300, 599),
            reply_text=KEYS,
            exchange=EXCHANGES,
            routing_key=st.just(key),
        )
    )
    # Our own encoder writes what pamqp cannot; that the two agree on it is another test's.
    published = frames_of(Encoder(channel, 0).publish("", "", False, message))
    body, pieces = message.body, draw(st.sampled_from([1, 1, 2, 3]))
    size = -(-len(body) // pieces) or 1
    return [
        frame(channel, method),
        next(published),
        *(frame(channel, ContentBody(body[at : at + size])) for at in range(0, len(body), size)),
    ]


def frames_of(stream: bytes) -> Iterator[bytes]:
    """The frames of *stream* behind the first."""
    at = 8 + int.from_bytes(stream[3:7], "big")
    while at < len(stream):
        after = at + 8 + int.from_bytes(stream[at + 3 : at + 7], "big")
        yield stream[at:after]
        at = after


CONFIRMS = st.builds(spec.Basic.Ack, delivery_tag=TAGS, multiple=st.booleans()) | st.builds(
    spec.Basic.Nack, delivery_tag=TAGS, multiple=st.booleans(), requeue=st.booleans()
)
ANSWERS = st.builds(
    spec.Queue.DeclareOk,
    queue=EXCHANGES,
    message_count=st.integers(0, 9),
    consumer_count=st.just(1),
) | st.builds(
    spec.Channel.Close,
    reply_code=st.sampled_from([0, 404, 406]),
    reply_text=KEYS,
    class_id=st.just(60),
    method_id=st.just(40),
)
OTHERS = ANSWERS | st.sampled_from(
    [
        spec.Basic.QosOk(),
        spec.Basic.ConsumeOk(consumer_tag="ctag"),
        spec.Basic.Cancel(consumer_tag="ctag"),
        spec.Confirm.SelectOk(),
        spec.Channel.CloseOk(),
    ]
)
CONNECTION = st.sampled_from([Heartbeat(), spec.Connection.Unblocked()]) | st.builds(
    spec.Connection.Blocked, reason=KEYS
)
#: A message that was asked for, on a channel whose deliveries are hot.
GOT = [
    spec.Basic.GetOk(delivery_tag=1, exchange="", routing_key="k", message_count=0),
    ContentHeader(body_size=3, properties=spec.Basic.Properties(correlation_id="got")),
    ContentBody(b"got"),
]


def of_channel(number: int) -> st.SearchStrategy[list[bytes]]:
    """Frames in their order on channel *number*."""
    single = (CONFIRMS | OTHERS).map(lambda method: [frame(number, method)])
    got = st.just([frame(number, value) for value in GOT])
    content = contents(number)
    parts = st.lists(content | content | single | got, min_size=1, max_size=3)
    return parts.map(lambda lists: [each for one in lists for each in one])


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Frames of all channels, each channel's in their order."""
    connection = st.lists(CONNECTION, max_size=3).map(lambda all_: [frame(0, one) for one in all_])
    queues = [draw(connection), *(draw(of_channel(number)) for number in HOT + COLD)]
    whole = []
    while queues := [queue for queue in queues if queue]:
        queue, together = draw(st.sampled_from(queues)), draw(st.sampled_from([1, 1, 2, 3, 9]))
        whole += queue[:together]
        del queue[:together]
    return whole


# --- the same, read by pamqp


@dataclass
class Content:
    method: Any
    header: ContentHeader | None = None
    body: bytes = b""


def read(conversation: list[bytes]) -> tuple[list[Heard], list[bytes]]:
    """What is heard of *conversation*, and the frames that are nothing to us."""
    heard: list[Heard] = []
    others: list[bytes] = []
    open_contents: dict[int, Content] = {}
    for whole in conversation:
        _, number, value = pamqp.frame.unmarshal(whole)
        if number not in HOT:
            heard += [(0, *event) for event in of_connection(value)]
            others.append(whole)
            continue
        match value:
            case spec.Basic.Deliver() | spec.Basic.Return():
                open_contents[number] = Content(value)
            case ContentHeader() if number in open_contents:
                open_contents[number].header = value
            case ContentBody() if number in open_contents:
                open_contents[number].body += value.value
            case spec.Basic.Ack() | spec.Basic.Nack():
                accepted = isinstance(value, spec.Basic.Ack)
                heard.append((number, "confirmed", value.delivery_tag, value.multiple, accepted))
            case _:
                others.append(whole)
                if isinstance(value, spec.Channel.Close):
                    heard.append((number, "closing", value.reply_code, value.reply_text))
        content = open_contents.get(number)
        if content and content.header and len(content.body) == content.header.body_size:
            del open_contents[number]
            heard.append((number, *of_content(content)))
    return heard, others


def of_connection(value: Any) -> Iterator[Heard]:
    if isinstance(value, spec.Connection.Blocked):
        yield "blocked", value.reason
    elif isinstance(value, spec.Connection.Unblocked):
        yield ("unblocked",)


def of_content(content: Content) -> Heard:
    method, header = content.method, content.header
    assert header is not None
    place = method.exchange, method.routing_key
    message = message_of(header.properties, content.body)
    if isinstance(method, spec.Basic.Return):
        if header.body_size > MAX_MESSAGE_SIZE:
            message.body = b""
        return ("returned", method.reply_code, method.reply_text, *place, message)
    if header.body_size > MAX_MESSAGE_SIZE:
        message.body = b""
        return ("oversized", method.delivery_tag, *place, header.body_size, message)
    return ("delivered", method.delivery_tag, method.redelivered, *place, message)


def message_of(properties: spec.Basic.Properties, body: bytes) -> Message:
    return Message(
        body=body,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=properties.headers,
        persistent=properties.delivery_mode == 2,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=int(properties.expiration) if properties.expiration else None,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=properties.message_type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations(), st.data())
def test_a_conversation_means_the_same_to_pamqp_however_it_is_cut(
    conversation: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(conversation)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted), "cuts")
    heard: list[Heard] = []
    demux = Demultiplexer(Listener(0, heard))
    demux.channels.update({number: Listener(number, heard) for number in HOT})

    rest = [
        demux.receive(stream[start:end])
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
    ]

    expected, others = read(conversation)
    assert heard == expected
    assert b"".join(rest) == b"".join(others)
    at = 0
    for piece in rest:  # each of whole frames: something may be put between them
        at += len(piece)
        assert at in boundaries(others)


def boundaries(frames: list[bytes]) -> set[int]:
    """Where a frame ends in *frames*."""
    ends, at = {0}, 0
    for each in frames:
        at += len(each)
        ends.add(at)
    return ends


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations())
def test_a_conversation_means_the_same_byte_by_byte_and_all_at_once(
    conversation: list[bytes],
) -> None:
    stream = b"".join(conversation)
    outcomes = []
    for step in (1, len(stream) or 1):
        heard: list[Heard] = []
        demux = Demultiplexer(Listener(0, heard))
        demux.channels.update({number: Listener(number, heard) for number in HOT})
        pieces = range(0, len(stream), step)
        outcomes.append((b"".join(demux.receive(stream[at : at + step]) for at in pieces), heard))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("body", [b"", b"body"], ids=["without bodies", "with bodies"])
def test_contents_of_two_channels_are_told_apart_in_every_way_they_can_be_interleaved(
    body: bytes,
) -> None:
    def said(channel: int, correlation_id: str) -> list[bytes]:
        method = spec.Basic.Deliver(
            consumer_tag="c", delivery_tag=channel, exchange="", routing_key="k"
        )
        properties = spec.Basic.Properties(correlation_id=correlation_id)
        header = ContentHeader(body_size=len(body), properties=properties)
        bodies = [ContentBody(body[:-1] + correlation_id.encode())] if body else []
        return [frame(channel, each) for each in (method, header, *bodies)]

    first, second = said(HOT[0], "1"), said(HOT[1], "2")
    for places in itertools.combinations(range(2 * len(first)), len(first)):
        pending = [iter(second), iter(first)]
        conversation = [next(pending[at in places]) for at in range(2 * len(first))]
        expected, _ = read(conversation)
        assert len(expected) == 2
        heard: list[Heard] = []
        demux = Demultiplexer(Listener(0, heard))
        demux.channels.update({number: Listener(number, heard) for number in HOT})
        assert demux.receive(b"".join(conversation)) == b""
        assert heard == expected

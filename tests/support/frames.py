"""
Writes and reads frames by pamqp, and has hypothesis strategies for messages. The tests of the codec
compare with it: the codec itself uses no pamqp. Nothing here awaits or does I/O.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.commands as spec
import pamqp.frame
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from aiorpc.wire.message import Message

CHANNEL = 7
FRAME_MAX = 4096

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
WHOLE_SECONDS = st.datetimes(
    datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)
).map(lambda moment: moment.replace(microsecond=0))
DECIMALS = st.builds(
    lambda mantissa, places: Decimal(mantissa).scaleb(-places),
    st.integers(-0x7FFFFFFF, 0x7FFFFFFF),
    st.integers(0, 20),
)
# pamqp reads negative decimals as unsigned ones. Both read everything else alike.
PLAIN = (
    st.none()
    | st.booleans()
    | INT64
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | DECIMALS.filter(lambda number: not number.is_signed())
    | WHOLE_SECONDS
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=6)

SHORT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MESSAGES = st.builds(
    Message,
    body=st.binary(max_size=3 * FRAME_MAX),
    content_type=st.none() | SHORT | st.just("application/json"),
    content_encoding=st.none() | SHORT | st.just("utf-8"),
    headers=st.none() | TABLES,
    persistent=st.booleans(),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | SHORT,
    reply_to=st.none() | SHORT,
    expiration=st.none() | st.integers(0, 1 << 40),
    message_id=st.none() | SHORT,
    timestamp=st.none() | WHOLE_SECONDS,
    type=st.none() | SHORT,
    user_id=st.none() | SHORT,
    app_id=st.none() | SHORT,
)
SIMPLE = st.builds(
    Message,
    body=st.binary(max_size=50),
    content_type=st.none() | st.just("application/json"),
    content_encoding=st.none(),
    persistent=st.booleans(),
    priority=st.none(),
    correlation_id=st.none() | st.text("abc", min_size=1, max_size=5),
)
TAGS = st.integers(1, (1 << 63) - 1)
KEYS = st.text("abc.é", max_size=10)


def marshal(channel: int, *frames: Any) -> bytes:
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


def unmarshal_all(stream: bytes) -> list[tuple[int, Any]]:
    """Return (channel, frame) for each frame of *stream*, read by pamqp."""
    frames = []
    while stream:
        used, channel, frame = pamqp.frame.unmarshal(stream)
        frames.append((channel, frame))
        stream = stream[used:]
    return frames


def content(message: Message, cuts: int) -> list[Any]:
    """Return the content frames of *message*, with its body in about *cuts* pieces."""
    properties = spec.Basic.Properties(
        content_type=message.content_type,
        correlation_id=message.correlation_id,
        delivery_mode=2 if message.persistent else 1,
    )
    header = ContentHeader(body_size=len(message.body), properties=properties)
    step = max(1, -(-len(message.body) // cuts))
    return [
        header,
        *(ContentBody(message.body[at : at + step]) for at in range(0, len(message.body), step)),
    ]

"""
The numbers of AMQP 0-9-1: kinds of frames, methods and property flags. Constants only.

A frame is ``type(1) channel(2) size(4) payload 0xCE``. A message is a method frame, a content
header frame (class, weight, body size, property flags, properties) and body frames of at most the
negotiated ``frame_max``. No other frame of the same channel may come between these frames.
"""

from __future__ import annotations

from typing import Final

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
FRAME_END: Final = 0xCE
#: Bytes of type, channel and size before the payload, and of the end octet after the payload.
FRAME_OVERHEAD: Final = 8
#: Bytes of a content header before the properties: class, weight, body size, flags.
HEADER_HEAD: Final = 14
#: A whole heartbeat frame.
HEARTBEAT: Final = b"\x08\0\0\0\0\0\0\xce"

# Methods: class << 16 | method.
DELIVER: Final = 0x3C003C
RETURN: Final = 0x3C0032
ACK: Final = 0x3C0050
NACK: Final = 0x3C0078
REJECT: Final = 0x3C005A
CHANNEL_CLOSE: Final = 0x140028
CONNECTION_CLOSE: Final = 0x0A0032
BLOCKED: Final = 0x0A003C
UNBLOCKED: Final = 0x0A003D

# Property flags, in the order of the properties: the bits of the first byte, and of the second.
# Two bytes, because Python keeps its small integers: larger ones would be made at each step.
CONTENT_TYPE: Final = 1 << 7
CONTENT_ENCODING: Final = 1 << 6
HEADERS: Final = 1 << 5
DELIVERY_MODE: Final = 1 << 4
PRIORITY: Final = 1 << 3
CORRELATION_ID: Final = 1 << 2
REPLY_TO: Final = 1 << 1
EXPIRATION: Final = 1 << 0

MESSAGE_ID: Final = 1 << 7
TIMESTAMP: Final = 1 << 6
TYPE: Final = 1 << 5
USER_ID: Final = 1 << 4
APP_ID: Final = 1 << 3
#: Set if two more bytes of flags follow.
MORE_FLAGS: Final = 1 << 0

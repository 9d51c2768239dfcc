"""
The golden messages of `tests/data/nameko_messages.json`, as values of `aiorpc.wire`.

Reads only that file. `Golden.header` is the payload of the content header frame as Nameko
wrote it: class (2 bytes), weight (2), body size (8), then property flags and properties.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aiorpc.transports.codec.encoder import Encoder
from aiorpc.transports.codec.properties import decode_content_header
from aiorpc.wire.message import Message
from tests.support.files import DATA

DATA = json.loads((DATA / "nameko_messages.json").read_text())

#: Class, weight and body size; bodies differ in spaces, so sizes do.
_BEFORE_FLAGS = 12


@dataclass(frozen=True)
class Golden:
    """One message that Nameko sent."""

    name: str
    exchange: str
    routing_key: str
    mandatory: bool
    properties: dict[str, Any]
    body: str
    header: bytes

    @property
    def message(self) -> Message:
        """Return the message as our transports deliver it."""
        return decode_content_header(self.header, self.body.encode())

    @property
    def headers(self) -> dict[str, Any]:
        return self.properties["headers"]

    @property
    def call_id_stack(self) -> list[str]:
        return self.headers.get("nameko.call_id_stack", [])

    @property
    def context_data(self) -> dict[str, Any]:
        """Return Nameko's headers by name, without their prefix."""
        return {
            key.removeprefix("nameko."): value
            for key, value in self.headers.items()
            if key != "nameko.call_id_stack"
        }

    @property
    def flags_and_properties(self) -> bytes:
        """
        Return flags and properties byte by byte: order, type tags and values.

        One tag is ours: an integer of 64 bits is ``l`` here, because Node and Go know no ``L``
        (ADR 15).
        """
        return self.header[_BEFORE_FLAGS:].replace(b"nameko.bigL", b"nameko.bigl")


def flags_and_properties(message: Message) -> bytes:
    """Return flags and properties of one of our messages, as our transport sends it."""
    frames = Encoder(channel=1, frame_max=131072).publish("e", "k", False, message)
    method_size = int.from_bytes(frames[3:7])
    header = frames[7 + method_size + 1 :]
    size = int.from_bytes(header[3:7])
    return header[7 : 7 + size][_BEFORE_FLAGS:]


STACKS = ("2.14.1", "2.14.1-old", "3.0.0rc11")


def goldens(*kinds: str, stacks: tuple[str, ...] = STACKS) -> list[Golden]:
    """Return all messages of these *kinds*: `request`, `reply`, `publish`."""
    return [
        golden_of(f"{stack}:{name}", sent)
        for stack in stacks
        for name, exchange in DATA["messages"][stack].items()
        for kind, sent in exchange.items()
        if kind in kinds
    ]


def golden_of(name: str, sent: dict[str, Any]) -> Golden:
    """Return the message with this *name*."""
    return Golden(
        name=name,
        exchange=sent["exchange"],
        routing_key=sent["routing_key"],
        mandatory=sent["mandatory"],
        properties=sent["properties"],
        body=sent["body"],
        header=bytes.fromhex(sent["header"]),
    )

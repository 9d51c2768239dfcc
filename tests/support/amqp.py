"""A transport to RabbitMQ, connected directly or through a proxy that can misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pamqp.commands as spec
import pamqp.frame

from aiorpc.config import resolve
from aiorpc.transports.amqp.transport import AmqpTransport
from tests.support.amqp_proxy import Proxy, proxied
from tests.support.transports import PATIENCE

__all__ = [
    "BLOCKED",
    "UNBLOCKED",
    "connected",
    "from_broker",
    "open_channels",
    "sent_frames",
    "through_proxy",
]


@asynccontextmanager
async def connected(config: dict[str, Any], **more: Any) -> AsyncIterator[AmqpTransport]:
    transport = AmqpTransport(resolve({**config, **more}), name="tests of amqp")
    try:
        await transport.start(PATIENCE)
        yield transport
    finally:
        await transport.aclose()


@asynccontextmanager
async def through_proxy(
    config: dict[str, Any], **more: Any
) -> AsyncIterator[tuple[Proxy, AmqpTransport]]:
    async with (
        proxied(config["AMQP_URI"]) as proxy,
        connected({**config, "AMQP_URI": proxy.url}, **more) as transport,
    ):
        yield proxy, transport


def from_broker(*frames: Any, channel: int = 0) -> bytes:
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


BLOCKED = from_broker(spec.Connection.Blocked(reason="low on memory"))
UNBLOCKED = from_broker(spec.Connection.Unblocked())


def sent_frames(sent: bytes) -> Iterator[tuple[int, Any]]:
    """Yield channel number and frame of all that a transport sent through a proxy."""
    while sent:
        size, channel, frame = pamqp.frame.unmarshal(sent)
        sent = sent[size:]
        yield channel, frame


def open_channels(sent: bytes) -> int:
    """Return how many channels a transport opened and did not close."""
    ends = spec.Channel.Close | spec.Channel.CloseOk
    frames = [frame for _, frame in sent_frames(sent)]
    opened = sum(isinstance(frame, spec.Channel.Open) for frame in frames)
    return opened - sum(isinstance(frame, ends) for frame in frames)

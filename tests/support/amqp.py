"""A transport to RabbitMQ, connected directly or through a proxy that can misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pamqp.frame

from aiorpc.config import resolve
from aiorpc.transports.amqp.transport import AmqpTransport
from tests.support.amqp_proxy import Proxy, proxied
from tests.support.transports import PATIENCE

__all__ = ["connected", "from_broker", "through_proxy"]


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

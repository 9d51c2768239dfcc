"""
Cuts and restores the connection of a transport. Uses private parts of both transports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..transports.base import Transport
from ..transports.memory.transport import MemoryTransport

if TYPE_CHECKING:  # aio-pika is slow to import, and memory:// does not need it
    from ..config import BrokerUrl
    from ..transports.amqp.link import Link

__all__ = ["cut"]


def cut(transport: Transport) -> Callable[[], None]:
    """
    Break the connection of *transport*, like a pulled cable. The returned function restores the
    connection. The broker requeues unacked messages, and confirms on the wire are lost. A transport
    that starts during the fault cannot reach its broker.
    """
    if not isinstance(transport, MemoryTransport):
        return _cut_amqp(transport)

    def restore() -> None:
        transport.reachable = True
        transport.connect()

    transport.reachable = False
    transport.lose()
    return restore


def _cut_amqp(transport: Transport) -> Callable[[], None]:
    from ..transports.amqp.transport import AmqpTransport

    assert isinstance(transport, AmqpTransport), transport
    dialer = transport.supervisor.dialer
    connect, restored = dialer.connect, asyncio.Event()

    async def wait_and_connect(url: BrokerUrl) -> Link:
        await restored.wait()
        return await connect(url)

    def restore() -> None:
        dialer.connect = connect
        restored.set()

    dialer.connect = wait_and_connect
    if transport.supervisor.link is not None:
        transport.supervisor.link.lane.abort()
    return restore

"""
Decompresses the bodies of deliveries in a thread: zlib and bz2 release the interpreter's lock, and
the event loop goes on. Awaits the thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..extensions import Host
from ..logs import logger
from ..transports.base import Delivery
from ..wire.content import is_slow

__all__ = ["decompresses"]

log = logger("aiorpc.consumer")


def decompresses(host: Host, delivery: Delivery, then: Callable[[], None]) -> bool:
    """
    Return whether the body of *delivery* is decompressed in a thread first. If so, call *then*
    afterwards, unless the connection was lost: the broker then redelivers the message.
    """
    slow = is_slow(delivery.message)
    if slow:
        host.spawn(_decompress(host, delivery, then), "decompress a message")
    return slow


async def _decompress(host: Host, delivery: Delivery, then: Callable[[], None]) -> None:
    await asyncio.to_thread(host.wire.content.decompress, delivery.message)
    if delivery.stale:
        return
    try:
        then()
    except Exception:
        log.exception("%s: the handler of a compressed message failed", host.service_name)

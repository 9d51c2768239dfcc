"""How messages are carried. ``open_transport`` picks the carrier by the broker's URL."""

from __future__ import annotations

from ..config import Settings
from .base import Transport

__all__ = ["open_transport"]


def open_transport(settings: Settings, *, name: str = "aiorpc") -> Transport:
    """
    The transport that ``AMQP_URI`` asks for, not connected yet. *name* shows in the broker's list
    of connections.
    """
    url = settings.broker_urls[0]
    if url.scheme == "memory":
        from .memory.transport import MemoryTransport

        return MemoryTransport(url.host, max_message_size=settings.max_message_size)
    from .amqp.transport import AmqpTransport

    return AmqpTransport(settings, name=name)

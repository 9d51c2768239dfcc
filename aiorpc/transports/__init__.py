"""
Carries messages. ``open_transport`` chooses the transport by the broker's URL.

Imports the transports when they are needed: a process on ``memory://`` loads no AMQP library.
"""

from __future__ import annotations

import functools

from ..config import Settings
from ..logs import logger
from .base import Transport

__all__ = ["open_transport"]

log = logger(__name__)


def open_transport(settings: Settings, *, name: str = "aiorpc") -> Transport:
    """
    Return a transport to the broker in ``AMQP_URI``, not connected yet. RabbitMQ shows *name* in
    its list of connections.
    """
    for note in settings.notes:
        _warn_once(note)
    url = settings.broker_urls[0]
    if url.scheme == "memory":
        from .memory.transport import MemoryTransport

        return MemoryTransport(url.host, max_message_size=settings.max_message_size)
    from .amqp.transport import AmqpTransport

    return AmqpTransport(settings, name=name)


@functools.cache
def _warn_once(note: str) -> None:
    """Log *note* once, because a process may open many transports with one configuration."""
    log.warning("%s", note)
